"""Memory of a training step: what it keeps for the backward pass, and the most it holds, ours beside stock."""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import resource

import torch
from torch import nn

from models import save_memory

from .common import compare, kept_bytes, network, ours, parser, stock, training_step

SIDES = ("stock", "fused", "fused, saving memory")


def side(name: str, args: argparse.Namespace) -> tuple[nn.Module, torch.Tensor]:
    model, images = network(args)
    if name == "stock":
        return stock(model), images
    fused, last = ours(model, images)
    return save_memory(fused, name.endswith("saving memory")), last


def _resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _peak(name: str, args: argparse.Namespace, answer: multiprocessing.Queue) -> None:
    model, images = side(name, args)
    small = copy.copy(args)
    small.batch_size, small.size = 1, 32
    warm, few = side(name, small)
    training_step(warm, few, warm.classifier.out_features)()  # type: ignore[union-attr, arg-type]  # loads and compiles
    step = training_step(model, images, model.classifier.out_features)  # type: ignore[union-attr, arg-type]
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if images.is_cuda else _resident()
    for _ in range(2):
        step()
    answer.put((torch.cuda.max_memory_allocated() / 2**20 if images.is_cuda else _resident()) - before)


def peak(name: str, args: argparse.Namespace) -> float:
    """MiB that training steps hold at most beyond what the process held before, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_peak, args=(name, args, answer))
    process.start()
    value = answer.get()
    process.join()
    return value


def main() -> None:
    args = parser(__doc__, repeats=3).parse_args()
    built = {name: side(name, args) for name in SIDES}
    print(f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, one training step")
    steps = {n: (training_step(m, x, m.classifier.out_features), False) for n, (m, x) in built.items()}  # type: ignore[union-attr, arg-type]
    seconds = compare(steps, args.repeats, torch.device(args.device))  # type: ignore[arg-type]
    kept = {name: kept_bytes(model, images) / 2**20 for name, (model, images) in built.items()}
    peaks = {name: peak(name, args) for name in SIDES}
    print(f"{'':32}{'kept for backward':>20}{'peak':>10}   MiB")
    for name in SIDES:
        print(f"{name:32}{kept[name]:20.1f}{peaks[name]:10.1f}")
    saving, fused = SIDES[2], SIDES[1]
    print(
        f"ratio memory peak fused/stock {peaks[fused] / peaks['stock']:.2f} kept saving/fused "
        f"{kept[saving] / kept[fused]:.2f} time saving/fused {seconds[saving] / seconds[fused]:.2f}"
    )


if __name__ == "__main__":
    main()

"""Memory of a training step: what it keeps for the backward pass, and the most it holds, ours beside stock.

With a Spikformer stock is spikingjelly's own Spikformer of the same size, without a pathway.
"""

from __future__ import annotations

import argparse
import copy
import gc
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from full_spike.models import save_memory
from full_spike.utils.allocator import keep_freed_memory, return_freed_memory

from .common import Side, compare, kept_bytes, network, ours, parser, spikingjellys, stock, training_step

STOCK, OURS, SAVING = "stock", "fused", "fused, saving memory"
HALF, HALF_SAVING = "fused, bf16", "fused, bf16, saving memory"


def build(name: str, args: argparse.Namespace) -> tuple[Any, torch.Tensor, bool]:
    """(network, images, whether in bfloat16) of a side."""
    model, images = network(args)
    if name == STOCK:
        return spikingjellys(model) or stock(model), images, False
    fused, last = ours(model, images)
    return save_memory(fused, name in (SAVING, HALF_SAVING)), last, name in (HALF, HALF_SAVING)


def step_of(name: str, args: argparse.Namespace) -> Side:
    return training_step(*build(name, args))


def _resident(field: str) -> float:
    """MiB that this process holds (VmRSS) or has held at most (VmHWM; ru_maxrss would begin at its parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 2**10


def _begin() -> float:
    """MiB that this process holds; from here on VmHWM is counted anew."""
    gc.collect()
    return_freed_memory()  # what loading and compiling took would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def _peak(make: Callable, name: str, keep: bool, args: argparse.Namespace, answer: multiprocessing.Queue) -> None:
    cuda = args.device.startswith("cuda")
    if not cuda:
        keep_freed_memory(keep)  # as the training scripts do
    small = copy.copy(args)
    small.batch_size, small.size = 1, 32
    make(name, small)()  # loads and compiles
    step = make(name, args)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if cuda else _begin()
    for _ in range(2):
        step()
    answer.put((torch.cuda.max_memory_allocated() / 2**20 if cuda else _resident("VmHWM")) - before)


def peak(make: Callable[[str, argparse.Namespace], Side], name: str, keep: bool, args: argparse.Namespace) -> float:
    """MiB that steps hold at most beyond what the process held before, in a process of its own.

    Args:
        make: makes the step of this name; a function of a module, as the other process imports it.
        keep: whether freed memory is kept.
    """
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_peak, args=(make, name, keep, args, answer))
    process.start()
    value = answer.get()
    process.join()
    return value


def main() -> None:
    args = parser(__doc__, repeats=3).parse_args()
    names = [STOCK, OURS, SAVING, *([HALF, HALF_SAVING] if args.bf16 else [])]
    title = f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, one training step"
    seconds = compare({name: (step_of(name, args), name != STOCK) for name in names}, title, args)
    kept = {}
    for name in names:
        model, images, half = build(name, args)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            kept[name] = kept_bytes(model, images) / 2**20
    peaks = {name: peak(step_of, name, name != STOCK, args) for name in names}
    print(f"{'':32}{'kept for backward':>20}{'peak':>10}   MiB")
    for name in names:
        print(f"{name:32}{kept[name]:20.1f}{peaks[name]:10.1f}")
    best, saving = (HALF, HALF_SAVING) if args.bf16 else (OURS, SAVING)
    print(
        f"ratio memory peak ours/stock {peaks[best] / peaks[STOCK]:.2f} fused/stock {peaks[OURS] / peaks[STOCK]:.2f} "
        f"kept saving/ours {kept[saving] / kept[best]:.2f} time saving/ours {seconds[saving] / seconds[best]:.2f}"
    )


if __name__ == "__main__":
    main()

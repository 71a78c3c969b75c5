"""Classifying a batch: the detached network, folded and fused, beside both streams with spikingjelly's nodes.

With --integer, its integer networks as well, here and on onnxruntime, and the memory that they take.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from full_spike.models import detach_aap, fold_batchnorm, use_fused
from full_spike.utils.export import exact, quantize, write_onnx
from full_spike.utils.export.onnx import OnnxRuntime
from full_spike.utils.trained import set_norms

from .common import ALONE, Side, Sides, compare, network, ours, parser, products, report_bound, reset, stock
from .memory import peak

STOCK, OURS, HALF = "stock, both streams", "detached, folded, fused", "detached, folded, fused, bf16"
INT8, ONNX, ONNX_INT8 = "integers, int8", "onnxruntime, float32", "onnxruntime, integers"


def evaluation(model: nn.Module, images: torch.Tensor, *, stateful: bool = False) -> Side:
    def side() -> None:
        with torch.inference_mode():
            model(images)
        if stateful:
            reset(model)

    return side


def detached_network(args: argparse.Namespace) -> tuple[Any, Any, torch.Tensor]:
    """(the network, without its pathway, images); running statistics are set, since otherwise nothing would fire."""
    model, images = network(args)
    set_norms(model, images[:4])
    model.eval().readout = "both"
    return model, copy.deepcopy(model) if model.aap is None else detach_aap(model).eval(), images


def on_onnxruntime(runner: Any, images: torch.Tensor, threads: int) -> Side:
    with tempfile.TemporaryDirectory() as folder:
        write_onnx(runner.graph, Path(folder))
        runtime = OnnxRuntime(Path(folder), runner.graph, threads)
    return lambda: runtime.logits(images)


def step_of(name: str, args: argparse.Namespace) -> Side:
    """One of the sides whose memory is measured."""
    _, detached, images = detached_network(args)
    if name == INT8:
        return evaluation(quantize(detached, [images[:4]]), images)
    folded, last = ours(fold_batchnorm(detached), images)
    return evaluation(folded.to(torch.bfloat16), last.to(torch.bfloat16))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--integer", action="store_true", help="integer networks as well, and their memory")
    args = made.parse_args()
    model, detached, images = detached_network(args)
    folded, last = ours(fold_batchnorm(detached), images)
    best, dtype = (HALF, torch.bfloat16) if args.bf16 else (OURS, torch.float32)
    alone, gflop = products(detached, images, backward=False, dtype=dtype)
    sides: Sides = {
        STOCK: (evaluation(stock(model), images, stateful=True), False),
        "stock, freed memory kept": (evaluation(stock(model), images, stateful=True), True),
        "stock, detached": (evaluation(stock(detached), images, stateful=True), False),
        "detached, fused": (evaluation(use_fused(copy.deepcopy(detached)), images), True),
        OURS: (evaluation(folded, last), True),
    }
    if args.bf16:
        sides[HALF] = (evaluation(copy.deepcopy(folded).to(dtype), last.to(dtype)), True)
    sides[ALONE] = (alone, True)
    if args.integer:
        integers = quantize(detached, [images[:4]])
        sides[INT8] = (evaluation(integers, images), True)
        sides[ONNX] = (on_onnxruntime(exact(detached, (args.size, args.size)), images, args.threads), True)
        sides[ONNX_INT8] = (on_onnxruntime(integers, images, args.threads), True)
    title = f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, inference"
    medians = compare(sides, title, args)
    report_bound(args, medians, gflop, best, STOCK)
    print(
        f"ratio inference stock/ours {medians[STOCK] / medians[best]:.2f} stock/float32 "
        f"{medians[STOCK] / medians[OURS]:.2f} ours/bound {medians[best] / medians[ALONE]:.2f}"
    )
    if args.integer:
        memory = {name: peak(step_of, name, True, args) for name in (HALF, INT8)}
        print(f"peak memory {memory[INT8]:.1f} MiB in integers, {memory[HALF]:.1f} MiB in bfloat16")
        print(
            f"ratio integer {best.rpartition(' ')[2]}/int8 {medians[best] / medians[INT8]:.2f} stock/int8 "
            f"{medians[STOCK] / medians[INT8]:.2f} memory int8/bf16 {memory[INT8] / memory[HALF]:.2f} "
            f"onnx integers/int8 {medians[ONNX_INT8] / medians[INT8]:.2f}"
        )


if __name__ == "__main__":
    main()

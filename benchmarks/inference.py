"""Classifying a batch: the detached network, folded and fused, beside both streams with spikingjelly's nodes.

With --integer, its integer networks as well, here and on onnxruntime, and the memory that they take.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from full_spike.models import detach_aap, exact, fold_batchnorm, quantize, use_fused
from full_spike.utils.export.runtimes import OnnxRuntime
from full_spike.utils.export.targets import TARGETS
from full_spike.utils.measure.layers import NORMS
from full_spike.utils.trained import set_norms

from .common import ALONE, bound_line, compare, network, ours, parser, products, reset, stock
from .memory import peak

STOCK, OURS, HALF = "stock, both streams", "detached, folded, fused", "detached, folded, fused, bf16"
INT8, ONNX, ONNX_INT8 = "integers, int8", "onnxruntime, float32", "onnxruntime, integers"


def evaluation(model: nn.Module, images: torch.Tensor, *, stateful: bool = False) -> Callable[[], None]:
    def side() -> None:
        with torch.inference_mode():
            model(images)
        if stateful:
            reset(model)

    return side


def _integers(detached: nn.Module, images: torch.Tensor) -> Any:
    norms = [module for module in detached.modules() if isinstance(module, NORMS)]
    if all(bool((norm.running_var == 1).all()) for norm in norms):  # never set: nothing would fire
        set_norms(detached, images[:4])
    return quantize(detached.eval(), [images[:4]])


def _onnx(runner: Any, threads: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        TARGETS["onnx"].write(runner, Path(folder))
        return OnnxRuntime(Path(folder) / "model.onnx", runner.graph, threads)


def integer_sides(detached: nn.Module, images: torch.Tensor, threads: int) -> dict[str, Callable[[], Any]]:
    """The integer network here and on onnxruntime, and the one of floats there."""
    whole = _integers(detached, images)
    floats, integers = (_onnx(r, threads) for r in (exact(detached, images.shape[-2:]), whole))  # type: ignore[arg-type]
    return {
        INT8: evaluation(whole, images),
        ONNX: lambda: floats.logits(images),
        ONNX_INT8: lambda: integers.logits(images),
    }


def step_of(name: str, args: argparse.Namespace) -> Callable[[], Any]:
    """One of the sides whose memory is measured."""
    model, images = network(args)
    detached = (detach_aap(model) if model.aap is not None else model).eval()
    if name == INT8:
        return evaluation(_integers(detached, images), images)
    folded, last = ours(fold_batchnorm(detached), images)
    return evaluation(folded.to(torch.bfloat16), last.to(torch.bfloat16))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--integer", action="store_true", help="integer networks as well, and their memory")
    args = made.parse_args()
    model, images = network(args)
    model.eval()
    detached = detach_aap(model) if model.aap is not None else copy.deepcopy(model)
    folded, last = ours(fold_batchnorm(detached), images)
    best, dtype = (HALF, torch.bfloat16) if args.bf16 else (OURS, torch.float32)
    alone, gflop = products(detached, images, backward=False, dtype=dtype)
    sides: dict[str, tuple[Callable[[], Any], bool]] = {
        STOCK: (evaluation(stock(model), images, stateful=True), False),
        "stock, freed memory kept": (evaluation(stock(model), images, stateful=True), True),
        "stock, detached": (evaluation(stock(detached), images, stateful=True), False),
        "detached, fused": (evaluation(use_fused(copy.deepcopy(detached)), images), True),
        OURS: (evaluation(folded, last), True),
    }
    if args.bf16:
        halved = copy.deepcopy(folded).to(dtype)
        sides[HALF] = (evaluation(halved, last.to(dtype)), True)
    sides[ALONE] = (alone, True)
    if args.integer:
        sides |= {name: (side, True) for name, side in integer_sides(detached, images, args.threads).items()}
    title = f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, inference"
    medians = compare(sides, title, args)
    bound = medians[ALONE]
    print(bound_line(args.batch_size, gflop, bound))
    print(f"ours ({best}) {args.batch_size / medians[best]:.2f} images/s, stock {args.batch_size / medians[STOCK]:.2f}")
    print(
        f"ratio inference stock/ours {medians[STOCK] / medians[best]:.2f} stock/float32 "
        f"{medians[STOCK] / medians[OURS]:.2f} ours/bound {medians[best] / bound:.2f}"
    )
    if args.integer:
        memory = {name: peak(step_of, name, True, args) for name in (HALF, INT8)}
        print(f"peak memory {memory[INT8]:.1f} MiB in integers, {memory[HALF]:.1f} MiB in bfloat16")
        print(
            f"ratio integer bf16/int8 {medians[best] / medians[INT8]:.2f} stock/int8 "
            f"{medians[STOCK] / medians[INT8]:.2f} memory int8/bf16 {memory[INT8] / memory[HALF]:.2f} "
            f"onnx integers/int8 {medians[ONNX_INT8] / medians[INT8]:.2f}"
        )


if __name__ == "__main__":
    main()

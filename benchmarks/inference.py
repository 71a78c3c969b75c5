"""Classifying a batch: the detached network, folded and fused, beside both streams with spikingjelly's nodes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models import detach_aap, fold_batchnorm, use_fused

from .common import bfloat16_in_hardware, bound_line, compare, convolutions, network, ours, parser, reset, stock


def evaluation(model: nn.Module, images: torch.Tensor, *, stateful: bool = False) -> Callable[[], None]:
    def side() -> None:
        with torch.inference_mode():
            model(images)
        if stateful:
            reset(model)

    return side


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--bf16", action="store_true", help="also with bfloat16 weights")
    args = made.parse_args()
    model, images = network(args)
    model.eval()
    device = images.device
    detached = detach_aap(model) if model.aap is not None else copy.deepcopy(model)
    folded, last = ours(fold_batchnorm(detached), images)
    alone, gflop = convolutions(detached, images, backward=False)
    sides: dict[str, tuple[Callable[[], Any], bool]] = {
        "stock, both streams": (evaluation(stock(model), images, stateful=True), False),
        "stock, detached": (evaluation(stock(detached), images, stateful=True), False),
        "detached, fused": (evaluation(use_fused(copy.deepcopy(detached)), images), False),
        "folded, fused, channels last": (evaluation(folded, last), False),
        "the convolutions alone": (alone, False),
    }
    if args.bf16:
        halved = copy.deepcopy(folded).to(torch.bfloat16)
        sides["the same in bf16"] = (evaluation(halved, last.to(torch.bfloat16)), False)
        if device.type == "cpu" and not bfloat16_in_hardware():
            print("this CPU has no bfloat16 instructions: bfloat16 is emulated")
    print(f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, inference")
    medians = compare(sides, args.repeats, device)
    bound, best = medians["the convolutions alone"], medians["folded, fused, channels last"]
    print(bound_line(args.batch_size, gflop, bound))
    print(f"ratio inference stock/fused {medians['stock, both streams'] / best:.2f} fused/bound {best / bound:.2f}")


if __name__ == "__main__":
    main()

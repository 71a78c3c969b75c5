"""Classifying a batch: the detached network, folded and fused, beside both streams with spikingjelly's nodes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models import detach_aap, fold_batchnorm, use_fused

from .common import ALONE, bound_line, compare, network, ours, parser, products, reset, stock

STOCK, OURS, HALF = "stock, both streams", "detached, folded, fused", "detached, folded, fused, bf16"


def evaluation(model: nn.Module, images: torch.Tensor, *, stateful: bool = False) -> Callable[[], None]:
    def side() -> None:
        with torch.inference_mode():
            model(images)
        if stateful:
            reset(model)

    return side


def main() -> None:
    made = parser(__doc__)
    args = made.parse_args()
    model, images = network(args)
    model.eval()
    device = images.device
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
    print(f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, inference")
    medians = compare(sides, args.repeats, device)
    bound = medians[ALONE]
    print(bound_line(args.batch_size, gflop, bound))
    print(f"ours ({best}) {args.batch_size / medians[best]:.2f} images/s, stock {args.batch_size / medians[STOCK]:.2f}")
    print(
        f"ratio inference stock/ours {medians[STOCK] / medians[best]:.2f} stock/float32 "
        f"{medians[STOCK] / medians[OURS]:.2f} ours/bound {medians[best] / bound:.2f}"
    )


if __name__ == "__main__":
    main()

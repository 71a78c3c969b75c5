"""Classifying a batch: the detached network, folded and fused, beside both streams with spikingjelly's nodes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models import create_model, detach_aap, fold_batchnorm, use_fused

from .common import compare, parser, reset, stock


def evaluation(model: nn.Module, images: torch.Tensor, *, stateful: bool = False, amp: bool = False) -> Callable:
    def side() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            model(images)
        if stateful:
            reset(model)

    return side


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--compile", action="store_true", help="also the whole network compiled (minutes)")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = create_model(args.model, T=args.T, connect_f="OR").to(device).eval()
    images = torch.randn(args.batch_size, 3, args.size, args.size, device=device)
    last = images.to(memory_format=torch.channels_last)
    detached = detach_aap(model) if model.aap is not None else copy.deepcopy(model)  # type: ignore[union-attr]
    folded = use_fused(fold_batchnorm(detached))
    folded_last = copy.deepcopy(folded).to(memory_format=torch.channels_last)
    halved = copy.deepcopy(folded_last).to(torch.bfloat16)
    sides: dict[str, tuple[Callable[[], Any], bool]] = {
        "stock, both streams": (evaluation(stock(model), images, stateful=True), False),
        "stock, detached": (evaluation(stock(detached), images, stateful=True), False),
        "detached, fused": (evaluation(use_fused(detached), images), True),
        "folded, fused": (evaluation(folded, images), True),
        "folded, fused, channels last": (evaluation(folded_last, last), True),
        "the same in bf16": (evaluation(halved, last.to(torch.bfloat16)), True),
    }
    if args.compile:
        sides["folded, compiled"] = (evaluation(torch.compile(folded), images), True)  # type: ignore[arg-type]
        sides["bf16, compiled"] = (evaluation(torch.compile(halved), last.to(torch.bfloat16)), True)  # type: ignore[arg-type]
    print(f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, inference")
    medians = compare(sides, args.repeats, device)
    best = min((k for k in medians if not k.startswith("stock")), key=medians.__getitem__)
    print(f"ratio {medians['stock, both streams'] / medians[best]:.2f} ({best} against stock, both streams)")


if __name__ == "__main__":
    main()

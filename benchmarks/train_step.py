"""A training step (forward, backward, SGD) of the same network: ours beside spikingjelly's nodes run eagerly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from models import create_model, use_fused

from .common import compare, parser, reset, stock


def step_of(model: nn.Module, images: torch.Tensor, target: torch.Tensor, *, amp: bool, call: Any = None) -> Callable:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    call = model if call is None else call

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            outputs = call(images)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = sum(F.cross_entropy(logits, target) for logits in outputs)
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        reset(model)

    return step


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--sides", nargs="*", help="those whose name begins so; stock always runs")
    made.add_argument("--compile", action="store_true", help="also the whole network compiled (minutes)")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.manual_seed(0)
    options = {"connect_f": "OR"} if args.model.startswith(("dsnn", "fsnn")) else {}
    model = create_model(args.model, T=args.T, **options).to(device)
    images = torch.randn(args.batch_size, 3, args.size, args.size, device=device)
    target = torch.randint(1000, (args.batch_size,), device=device)
    last = images.to(memory_format=torch.channels_last)

    def fused(channels_last: bool = False) -> nn.Module:
        made = use_fused(copy.deepcopy(model))
        return made.to(memory_format=torch.channels_last) if channels_last else made

    sides = {
        "stock": (step_of(stock(model), images, target, amp=False), False),
        "stock, memory kept": (step_of(stock(model), images, target, amp=False), True),
        "fused": (step_of(fused(), images, target, amp=False), False),
        "fused, memory kept": (step_of(fused(), images, target, amp=False), True),
        "channels last": (step_of(fused(True), last, target, amp=False), True),
        "bf16": (step_of(fused(), images, target, amp=True), True),
        "bf16 channels last": (step_of(fused(True), last, target, amp=True), True),
    }
    if args.compile:
        for name, inputs, channels_last in (("bf16 compiled", images, False), ("bf16 last compiled", last, True)):
            network = fused(channels_last)
            sides[name] = (step_of(network, inputs, target, amp=True, call=torch.compile(network)), True)
    wanted = {k: v for k, v in sides.items() if k == "stock" or not args.sides or k.startswith(tuple(args.sides))}
    print(f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, one training step")
    medians = compare(wanted, args.repeats, device)
    best = min((k for k in medians if not k.startswith("stock")), key=medians.__getitem__)
    print(f"ratio {medians['stock'] / medians[best]:.2f} ({best} against stock)")


if __name__ == "__main__":
    main()

"""A training step (forward, backward, SGD) of the same network: ours beside spikingjelly's nodes run eagerly."""

from __future__ import annotations

import copy
from typing import Any

import torch

from models import save_memory

from .common import bfloat16_in_hardware, bound_line, compare, convolutions, network, ours, parser, stock, training_step


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--bf16", action="store_true", help="also under autocast to bfloat16")
    made.add_argument("--compile", action="store_true", help="also stock compiled as a whole (minutes); needs --bf16")
    args = made.parse_args()
    model, images = network(args)
    device, classes = images.device, model.classifier.out_features
    fused, last = ours(model, images)
    half: dict[str, Any] = {"enabled": True, "dtype": torch.bfloat16}
    alone, gflop = convolutions(model, images, backward=True)
    sides: dict[str, tuple[Any, bool]] = {
        "stock": (training_step(stock(model), images, classes), False),
        "stock, freed memory kept": (training_step(stock(model), images, classes), True),
        "stock, channels last": (
            training_step(stock(model).to(memory_format=torch.channels_last), last, classes),  # type: ignore[call-overload]
            False,
        ),
        "fused, channels last": (training_step(copy.deepcopy(fused), last, classes), False),
        "the same, saving memory": (training_step(save_memory(copy.deepcopy(fused)), last, classes), False),
        "the convolutions alone": (alone, False),
    }
    if args.bf16:
        sides["fused, bf16"] = (training_step(copy.deepcopy(fused), last, classes, **half), False)
        if args.compile:
            compiled = stock(model)
            compiled.compile()
            sides["stock, bf16, compiled"] = (training_step(compiled, images, classes, **half), False)
        if device.type == "cpu" and not bfloat16_in_hardware():
            print("this CPU has no bfloat16 instructions: bfloat16 is emulated")
    print(f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, one training step")
    medians = compare(sides, args.repeats, device)
    bound, best = medians["the convolutions alone"], medians["fused, channels last"]
    print(bound_line(args.batch_size, gflop, bound))
    print(f"ours {args.batch_size / best:.2f} images/s, stock {args.batch_size / medians['stock']:.2f} images/s")
    print(f"ratio train_step stock/fused {medians['stock'] / best:.2f} fused/bound {best / bound:.2f}")


if __name__ == "__main__":
    main()

"""A training step (forward, backward, SGD) of the same network: ours beside spikingjelly's nodes run eagerly.

With a Spikformer stock is spikingjelly's own Spikformer of the same size, without a pathway.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from full_spike.models import save_memory

from .common import ALONE, bound_line, compare, network, ours, parser, products, spikingjellys, stock, training_step

STOCK, COMPILED, OURS, HALF = "stock", "stock, bf16, compiled", "fused", "fused, bf16"


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--compile", action="store_true", help="also stock in bf16, compiled as a whole (minutes)")
    args = made.parse_args()
    model, images = network(args)
    classes = model.classifier.out_features
    fused, last = ours(model, images)
    half: dict[str, Any] = {"enabled": True, "dtype": torch.bfloat16}
    best, dtype = (HALF, torch.bfloat16) if args.bf16 else (OURS, torch.float32)
    alone, gflop = products(model, images, backward=True, dtype=dtype)
    last_format: Any = torch.channels_last
    sides: dict[str, tuple[Any, bool]] = {
        STOCK: (training_step(stock(model), images, classes), False),
        "stock, freed memory kept": (training_step(stock(model), images, classes), True),
        "stock, channels last": (training_step(stock(model).to(memory_format=last_format), last, classes), False),
        OURS: (training_step(copy.deepcopy(fused), last, classes), True),
        "fused, saving memory": (training_step(save_memory(copy.deepcopy(fused)), last, classes), True),
    }
    theirs = spikingjellys(model)
    if theirs is not None:  # what its users run: another network than ours with a pathway, with less to do
        sides[STOCK] = (training_step(theirs, images, classes), False)
    if args.bf16:
        sides[HALF] = (training_step(copy.deepcopy(fused), last, classes, **half), True)
    if args.compile:
        compiled = stock(model)
        compiled.compile()
        sides[COMPILED] = (training_step(compiled, images, classes, **half), False)
    sides[ALONE] = (alone, True)
    title = f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, one training step"
    medians = compare(sides, title, args)
    bound = medians[ALONE]
    print(bound_line(args.batch_size, gflop, bound))
    print(f"ours ({best}) {args.batch_size / medians[best]:.2f} images/s, stock {args.batch_size / medians[STOCK]:.2f}")
    words = [f"stock/ours {medians[STOCK] / medians[best]:.2f}", f"stock/fused {medians[STOCK] / medians[OURS]:.2f}"]
    if args.compile:
        words.append(f"stock_bf16_compiled/ours {medians[COMPILED] / medians[best]:.2f}")
    print(f"ratio train_step {' '.join(words)} ours/bound {medians[best] / bound:.2f}")


if __name__ == "__main__":
    main()

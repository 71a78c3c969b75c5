"""A training step (forward, backward, SGD) of the same network: ours beside spikingjelly's nodes run eagerly.

With a Spikformer stock is spikingjelly's own Spikformer of the same size, without a pathway.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from full_spike.models import save_memory

from .common import ALONE, Sides, compare, network, ours, parser, products, report_bound, spikingjellys, stock
from .common import training_step as step

STOCK, COMPILED, OURS, HALF = "stock", "stock, bf16, compiled", "fused", "fused, bf16"


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--compile", action="store_true", help="also stock in bf16, compiled as a whole (minutes)")
    args = made.parse_args()
    model, images = network(args)
    fused, last = ours(model, images)
    best, dtype = (HALF, torch.bfloat16) if args.bf16 else (OURS, torch.float32)
    alone, gflop = products(model, images, backward=True, dtype=dtype)
    layout: Any = torch.channels_last
    sides: Sides = {
        # what its users run; a Spikformer of spikingjelly's has no pathway, so less to do than ours
        STOCK: (step(spikingjellys(model) or stock(model), images), False),
        "stock, freed memory kept": (step(stock(model), images), True),
        "stock, channels last": (step(stock(model).to(memory_format=layout), last), False),
        OURS: (step(copy.deepcopy(fused), last), True),
        "fused, saving memory": (step(save_memory(copy.deepcopy(fused)), last), True),
    }
    if args.bf16:
        sides[HALF] = (step(copy.deepcopy(fused), last, half=True), True)
    if args.compile:
        compiled = stock(model)
        compiled.compile()
        sides[COMPILED] = (step(compiled, images, half=True), False)
    sides[ALONE] = (alone, True)
    title = f"{args.model}, {args.batch_size} x 3 x {args.size} x {args.size}, T = {args.T}, one training step"
    medians = compare(sides, title, args)
    report_bound(args, medians, gflop, best, STOCK)
    ratios = f"stock/ours {medians[STOCK] / medians[best]:.2f} stock/fused {medians[STOCK] / medians[OURS]:.2f}"
    if args.compile:
        ratios += f" stock_bf16_compiled/ours {medians[COMPILED] / medians[best]:.2f}"
    print(f"ratio train_step {ratios} ours/bound {medians[best] / medians[ALONE]:.2f}")


if __name__ == "__main__":
    main()

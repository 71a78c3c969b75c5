"""How time and memory of a fused training step grow with the batch, T, depth and image size."""

from __future__ import annotations

import argparse
import math
import statistics

from .common import kept_bytes, network, ours, parser, products, seconds, training_step


def measure(args: argparse.Namespace) -> tuple[int, float, float, float]:
    """(blocks, median seconds of a step, MiB kept for the backward pass, GFLOP of its convolutions)."""
    model, images = ours(*network(args))
    step = training_step(model, images)
    step()
    times = [seconds(step, images.device) for _ in range(args.repeats)]
    gflop = products(model, images, backward=True)[1]
    return len(model.blocks()), statistics.median(times), kept_bytes(model, images) / 2**20, gflop


def slope(x: list[float], y: list[float]) -> float:
    """The exponent p of the best y = c x^p."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def main() -> None:
    made = parser(__doc__, batch_size=8, size=64, T=4, repeats=3)
    made.add_argument("--depths", type=int, nargs="+", default=[18, 34], help="of BasicBlock networks")
    args = made.parse_args()
    family = args.model.rstrip("0123456789")
    variants = {
        "batch": [{"batch_size": args.batch_size * k} for k in (1, 2, 4)],
        "time steps": [{"T": args.T * k} for k in (1, 2, 4)],
        "blocks": [{"model": f"{family}{depth}"} for depth in args.depths],
        "pixels": [{"size": args.size * k} for k in (1, 2, 3)],
    }
    exponents = ""
    print(f"{'':12}{'value':>10}{'ms':>10}{'MiB kept':>10}{'GFLOP':>10}")
    for name, choices in variants.items():
        x, times, memory = [], [], []
        for choice in choices:
            varied = argparse.Namespace(**{**vars(args), **choice})
            blocks, took, kept, gflop = measure(varied)
            value = {"batch": varied.batch_size, "time steps": varied.T, "blocks": blocks, "pixels": varied.size**2}
            print(f"{name:12}{value[name]:10}{1000 * took:10.1f}{kept:10.1f}{gflop:10.2f}", flush=True)
            x, times, memory = [*x, value[name]], [*times, took], [*memory, kept]
        exponents += f" {name.replace(' ', '_')} time {slope(x, times):.2f} memory {slope(x, memory):.2f}"
    print(f"ratio growth{exponents}")


if __name__ == "__main__":
    main()

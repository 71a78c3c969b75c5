"""How time and memory of a training step grow with the batch, T, depth and image size; draws figs/growth.png."""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from pathlib import Path

import torch

from full_spike.models import create_model

from .common import kept_bytes, network, ours, parser, products, training_step


def measured(args: argparse.Namespace) -> tuple[float, float, float]:
    """(median seconds of a fused step, MiB kept for the backward pass, GFLOP of its convolutions)."""
    model, images = ours(*network(args))
    step = training_step(model, images, model.classifier.out_features)  # type: ignore[union-attr, arg-type]
    step()
    seconds = []
    for _ in range(args.repeats):
        began = time.perf_counter()
        step()
        if images.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), kept_bytes(model, images) / 2**20, products(model, images, backward=True)[1]


def slope(x: list[float], y: list[float]) -> float:
    """The exponent p of the best y = c x^p."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def draw(series: dict[str, list[tuple[float, ...]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(series), figsize=(3.2 * len(series), 3.4), sharey=True, layout="constrained")
    for axis, (name, rows) in zip(axes, series.items(), strict=True):
        x, seconds, kept, _ = ([row[i] / rows[0][i] for row in rows] for i in range(4))
        axis.loglog(x, x, color="0.7", linestyle="--", label="linear")
        axis.loglog(x, seconds, color="#0072b2", marker="o", label="time")
        axis.loglog(x, kept, color="#d55e00", marker="s", label="memory kept")
        axis.set_xlabel(name)
        axis.set_xticks(x, [f"{value:g}x" for value in x])
        axis.minorticks_off()
    axes[0].set_ylabel("relative to the smallest")
    axes[0].legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    made = parser(__doc__, batch_size=8, size=64, T=4, repeats=3)
    made.add_argument("--depths", type=int, nargs="+", default=[18, 34], help="of BasicBlock networks")
    made.add_argument("--output", type=Path, default=Path("figs/growth.png"))
    args = made.parse_args()
    family = args.model.rstrip("0123456789")
    variants = {
        "batch": [{"batch_size": args.batch_size * k} for k in (1, 2, 4)],
        "time steps": [{"T": args.T * k} for k in (1, 2, 4)],
        "blocks": [{"model": f"{family}{depth}"} for depth in args.depths],
        "pixels": [{"size": args.size * k} for k in (1, 2, 3)],
    }
    size_of = {
        "batch": lambda a: a.batch_size,
        "time steps": lambda a: a.T,
        "blocks": lambda a: len(create_model(a.model).blocks()),  # type: ignore[operator]
        "pixels": lambda a: a.size**2,
    }
    series: dict[str, list[tuple[float, ...]]] = {}
    print(f"{'':12}{'value':>10}{'ms':>10}{'MiB kept':>10}{'GFLOP':>10}")
    for name, choices in variants.items():
        series[name] = []
        for choice in choices:
            varied = copy.copy(args)
            vars(varied).update(choice)
            row = (float(size_of[name](varied)), *measured(varied))
            series[name].append(row)
            print(f"{name:12}{row[0]:10g}{1000 * row[1]:10.1f}{row[2]:10.1f}{row[3]:10.2f}", flush=True)
    draw(series, args.output)
    print(f"wrote {args.output}")
    words = []
    for name, rows in series.items():
        x, seconds, kept, _ = ([row[i] for row in rows] for i in range(4))
        words.append(f"{name.replace(' ', '_')} time {slope(x, seconds):.2f} memory {slope(x, kept):.2f}")
    print("ratio growth " + " ".join(words))


if __name__ == "__main__":
    main()

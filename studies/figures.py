"""The figures of docs/RESULTS.md, drawn from the CSV files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.figure import Figure

from full_spike.utils.files import replacing
from studies.results import Result, Results, Summary, summary

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#6b7280"
SIDES = ((-0.15, "o", BLUE), (0.15, "s", ORANGE))  # trained with the pathway and without: offset, marker, colour
STYLE = {
    "figure.facecolor": "white", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#dfe3ea", "axes.axisbelow": True,
    "legend.frameon": False, "figure.constrained_layout.use": True, "axes.titleweight": "bold", "axes.titlesize": 9,
}  # fmt: skip


def _bar(found: Summary) -> float:
    """Half of the interval, which is drawn from three seeds on."""
    return found.half if found.half is not None and found.n > 2 else 0.0


JOINS = {"cifar10_joins": "CIFAR-10", "digits": "Digits", "digits_spikformer": "Digits, Spikformer",
         "events_time_steps": "Event digits, 7B-Net"}  # fmt: skip


def joins(results: Results) -> Figure:
    """Accuracy with and without the pathway, and the difference seed by seed."""
    shown = []
    for name, title in JOINS.items():
        pairs, rows = results[name].pairs(), results[name].study.pairs
        pairs = {what: found for what, found in pairs.items() if rows[what][1].endswith("_without")}
        shown.append((title, results[name], pairs))
    heights = [1.2 + len(pairs) for *_, pairs in shown]
    figure = Figure((10, 0.45 * sum(heights)))
    axes = figure.subplots(len(shown), 2, width_ratios=(5, 4), height_ratios=heights)
    for (title, result, pairs), (left, right) in zip(shown, axes, strict=True):
        for i, (what, found) in enumerate(pairs.items()):
            for row, (dy, marker, colour) in zip(result.study.pairs[what], SIDES, strict=True):
                values = list(result.deployed(row).values())
                mean = summary(values)
                left.plot(values, [i + dy] * len(values), marker, color=colour, alpha=0.6, markersize=4)
                left.errorbar(mean.mean, i + dy, xerr=_bar(mean), color=colour, marker="|", markersize=11)
            right.errorbar(found.mean, i, xerr=_bar(found), color=GREY, marker="D", markersize=5, capsize=3)
        for ax in (left, right):
            ax.set(yticks=range(len(pairs)), ylim=(len(pairs) - 0.5, -0.5))
        left.set_yticklabels(list(pairs))
        left.set_title(title, loc="left")
        right.axvline(0, color="black", linewidth=0.8)
        right.set_xscale("symlog", linthresh=2)
        right.set_xlim(-50, 50)
        right.xaxis.set_major_formatter("{x:g}")
        right.yaxis.tick_right()
        right.set_yticklabels([f"{d}  {d.verdict}, {d.n} seeds" for d in pairs.values()])
    axes[-1][0].set_xlabel("top-1 of the network without its pathway, %")
    axes[-1][1].set_xlabel("trained with - trained without, points")
    return figure


BLOCKS = {  # study -> how its blocks begin
    "digits_depth": "",
    "digits_deep": ", from the identity",
}


def blocks(results: Results) -> Figure:
    """Gradient norm and firing rate by block, means over seeds, before and after training."""
    figure = Figure((10, 5))
    shown = [(results[study], depth, begin) for study, begin in BLOCKS.items() for depth in ("18 layers", "101 layers")]
    axes = figure.subplots(2, len(shown), sharex="col", sharey="row")
    for (above, below), (result, depth, begin) in zip(axes.T, shown, strict=True):
        rows = result.study.pairs[depth]
        above.set_title(depth + begin, loc="left")
        above.set_yscale("log")
        below.set_xlabel("block")
        for row, words, colour in zip(rows, ("with the pathway", "without"), (BLUE, ORANGE), strict=True):
            for when, line in (("start", ":"), ("end", "-")):
                entries = [entry for entry in result.blocks if (entry["row"], entry["when"]) == (row, when)]
                numbers = sorted({int(entry["block"]) for entry in entries})
                for ax, column in ((above, "gradient_norm"), (below, "firing_rate")):
                    means = [fmean(e[column] for e in entries if int(e["block"]) == i) for i in numbers]
                    ax.plot(numbers, means, color=colour, linestyle=line, label=f"{words}, {when}")
    axes[0][0].set_ylabel("gradient's L2 norm")
    axes[1][0].set_ylabel("firing rate of the output")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def energy_points(result: Result) -> list[tuple[str, float, Summary]]:
    """(words, mean energy in µJ an image, top-1) of every network of a study whose operations were counted."""
    found = []
    for row in result.study.rows:
        words = result.study.label(row).partition(",")[0]
        found += [
            (words, result.values(row, "detached_mj"), result.deployed(row)),
            (f"{words}, pathway kept", result.values(row, "trained_mj"), result.values(row, "final_sum")),
        ]
    return [
        (words, 1000 * fmean(mj.values()), summary(scores.values())) for words, mj, scores in found if mj and scores
    ]


def energy(results: Results) -> Figure:
    """Accuracy over energy on CIFAR-10."""
    figure = Figure((10, 4.5))
    ax = figure.subplots()
    groups = (("cifar10_joins", BLUE, "o", "T = 4, 5 epochs"), ("cifar10_integers", ORANGE, "s", "T = 2, 10 epochs"),
              ("cifar10_plain", "black", "D", "plain ResNet, 5 epochs"))  # fmt: skip
    for name, colour, marker, label in groups:
        for i, (words, energy, score) in enumerate(energy_points(results[name])):
            ax.errorbar(energy, score.mean, yerr=_bar(score), color=colour, marker=marker, label=None if i else label)
            ax.annotate(words, (energy, score.mean), (7, 5), textcoords="offset points", color=colour)
    ax.set(xscale="log", xlim=(2, 40), xlabel="energy of ACs and MACs, µJ an image", ylabel="test top-1, %")
    ax.set_xticks((2, 5, 10, 20))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.legend(loc="lower right")
    return figure


FIGURES: dict[str, tuple[Callable[[Results], Figure], tuple[str, ...]]] = {  # name -> (drawn by, of which studies)
    "joins": (joins, tuple(JOINS)),
    "energy": (energy, ("cifar10_joins", "cifar10_integers", "cifar10_plain")),
    "blocks": (blocks, tuple(BLOCKS)),
}


def draw(name: str, results: Results, path: Path, digest: str = "") -> None:
    """Write a figure as SVG, the same each time, with the digest of the CSV files it was drawn from."""
    with matplotlib.rc_context(), replacing(path) as partial:
        matplotlib.rcdefaults()  # not whatever the user has configured
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": name})
        metadata = {"Date": None, "Creator": None, "Description": digest}
        FIGURES[name][0](results).savefig(partial, format="svg", metadata=metadata)

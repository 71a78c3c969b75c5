"""Gradient and firing rate by block: where a signal is lost on its way through a deep network."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from full_spike.utils.draw.card import INK, SPIKES, SUMS, Canvas

from studies.figures.curves import Line, line, show
from studies.figures.parts import Drawn, key, seeds, share_y, ticks
from studies.ran import Ran

DOTS = (0, (1, 1.5))
KINDS = (  # side of a pair, when it was measured, style, words
    (0, "end", {"color": SPIKES}, "with the pathway, trained"),
    (0, "start", {"color": SPIKES, "linestyle": DOTS}, "at the start"),
    (1, "end", {"color": SUMS, "linestyle": (0, (5, 2))}, "without it, trained"),
    (1, "start", {"color": SUMS, "linestyle": DOTS}, "at the start"),
)
HIGH, GAP, LEFT = 170, 22, 76


def _lines(ran: Ran, rows: tuple[str, str], column: str) -> list[tuple[Line, Mapping[str, Any]]]:
    found = []
    for side, when, style, _ in KINDS:
        entries = [entry for entry in ran.blocks if entry["when"] == when]
        of = line(entries, rows[side], "block", (column,), statistics.median)
        if of is not None:
            found.append((of, style))
    return found


def blocks(rans: Mapping[str, Ran]) -> Drawn | None:
    """By depth, before training and after it, with the pathway and without."""
    ran = rans["digits_depth"]
    norms = {what: own for what, rows in ran.study.pairs.items() if (own := _lines(ran, rows, "gradient_norm"))}
    if not norms:
        return None
    silent = sum(value <= 0 for own in norms.values() for of, _ in own for value in of.middle)
    wide = (1000 - LEFT - 24 - GAP * (len(norms) - 1)) / len(norms)
    positive = [value for own in norms.values() for of, _ in own for value in of.low + of.high if value > 0]
    with Canvas(1000, 500, "blocks") as on:
        key(on, 24, 28, [(style, words) for *_, style, words in KINDS])
        for i, (what, own) in enumerate(norms.items()):
            left = LEFT + i * (wide + GAP)
            above = on.plot(left, 72, wide, HIGH, yscale="log")
            if positive:
                above.set_ylim(min(positive) / 1.5, max(positive) * 1.5)
                ticks(above.yaxis, (1, 2, 5) if max(positive) < 30 * min(positive) else (1,))
            above.set_title(what, fontsize=9, color=INK, weight="bold", loc="left", pad=5)
            below = on.plot(left, 72 + HIGH + 34, wide, HIGH, ylim=(0, 100), xlabel="block, from the input")
            for axes, lines in ((above, own), (below, _percent(_lines(ran, ran.study.pairs[what], "firing_rate")))):
                axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
                for of, style in lines:
                    show(axes, of, style)
            above.tick_params(labelbottom=False)
            share_y(above, i, "gradient's L2 norm, log scale")
            share_y(below, i, "spikes that leave it, %")
        svg = on.svg()
    counts = seeds([of.seeds for own in norms.values() for of, _ in own])
    caption = (
        "By block, on 128 training images, before training (dotted) and after it. Above: the norm of the loss's "
        "gradient over the block's parameters; with the pathway the loss is the sum of both streams'. Below: the "
        "firing rate of what leaves it. Lines are medians over seeds, bands go from the lowest seed to the highest. "
        f"Digits: {counts}."
    )
    if silent:
        caption += f" {silent} medians of the gradient are 0 and lie below the axis."
    return Drawn(svg, "Gradient norm and firing rate by block at four depths, with the pathway and without", caption)


def _percent(lines: list[tuple[Line, Mapping[str, Any]]]) -> list[tuple[Line, Mapping[str, Any]]]:
    def times(values: list[float]) -> list[float]:
        return [100 * value for value in values]

    return [(Line(of.xs, times(of.middle), times(of.low), times(of.high), of.seeds), style) for of, style in lines]

"""How long a step takes, side by side with spikingjelly's nodes and with what convolutions alone take."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from full_spike.utils.draw.card import CARD, INK, SOFT, SPIKES, SUMS, VALUES, Canvas

from studies.figures.parts import Drawn, heading, ticks
from studies.ran import Results

STEP, LEFT, WIDE = 24, 250, 480


def _colour(side: str) -> str:
    return SUMS if side.startswith("stock") else SPIKES if side.startswith("fused") else VALUES


def _draw(on: Canvas, top: float, sides: Sequence[Mapping[str, Any]]) -> None:
    """A line for each side: the median, from the fastest round to the slowest, and how it compares to the first."""
    times = [time for side in sides for time in (side["min_ms"], side["max_ms"])]
    axes = on.plot(LEFT, top, WIDE, STEP * len(sides), xscale="log", xlabel="time, ms, log scale")
    axes.set(xlim=(min(times) / 1.3, max(times) * 1.3), ylim=(len(sides) - 0.5, -0.5), yticks=[])
    axes.spines["left"].set_visible(False)
    ticks(axes.xaxis)
    for i, side in enumerate(sides):
        colour = _colour(side["side"])
        axes.plot(
            (side["min_ms"], side["max_ms"]), (i, i), color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt"
        )
        axes.plot(side["median_ms"], i, "o", color=colour, markersize=6, markeredgecolor=CARD)
        y = top + STEP * (i + 0.5)
        on.text(LEFT - 14, y, side["side"], at="right", colour=INK)
        times_as_fast = sides[0]["median_ms"] / side["median_ms"]
        on.text(LEFT + WIDE + 20, y, f"{side['median_ms']:,.1f} ms", at="left", size=8.5)
        on.text(LEFT + WIDE + 110, y, f"{times_as_fast:.2f} times as fast", at="left", size=8.5, colour=SOFT)


def speed(results: Results) -> Drawn | None:
    """Of every benchmark that was kept."""
    groups = {title: list(lines) for title, lines in itertools.groupby(results.speed, lambda line: line["title"])}
    if not groups:
        return None
    with Canvas(1000, 14 + sum(86 + STEP * len(sides) for sides in groups.values()), "speed") as on:
        top = 26.0
        for title, sides in groups.items():
            heading(on, top, title)
            _draw(on, top + 20, sides)
            top += 86 + STEP * len(sides)
        svg = on.svg()
    kinds = dict.fromkeys(
        f"{line['device']} ({line['machine']}, {line['threads']} threads, torch {line['torch']})"
        for line in results.speed
    )
    rounds = sorted({line["rounds"] for line in results.speed})
    said = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else str(rounds[0])
    caption = (
        "Points are medians of rounds in which the sides take turns, bands go from the fastest round to the slowest; "
        f"{said} rounds, on {'; '.join(kinds)}. To the right: how many times as fast as the first line."
    )
    return Drawn(svg, "Times of the same step with stock and fused networks", caption)

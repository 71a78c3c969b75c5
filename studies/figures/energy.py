"""Accuracy over energy: what a network costs an image, with the pathway kept, without it, and of other kinds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from full_spike.utils.draw.card import CARD, INK, SOFT, Canvas
from full_spike.utils.draw.charts import COLOURS
from full_spike.utils.measure.energy import PJ_TO_MJ

from studies.figures.parts import WITH, WITHOUT, Drawn, interval, key, seeds, share_y, ticks
from studies.ran import Ran
from studies.statistics import summary

KEPT: Mapping[str, Any] = {"color": COLOURS[3], "marker": "^"}
OTHER: Mapping[str, Any] = {"color": INK, "marker": "D"}
WHOLE: Mapping[str, Any] = {"color": COLOURS[2], "marker": "p"}
KEYS = (
    (WITH, "FSNN, trained with the pathway"),
    (WITHOUT, "FSNN, without"),
    (KEPT, "DSNN, pathway kept"),
    (WHOLE, "FSNN in integers"),
    (OTHER, "other networks"),
)
# pJ of an addition of 32-bit integers and of a multiplication of 8-bit ones, from the source of `utils.measure.energy`
INTEGER_ADDITION, INTEGER_PRODUCT = 0.1, 0.2
LEFT, TOP, HIGH, GAP = 66, 84, 380, 30


@dataclass(frozen=True)
class Point:
    """One network: µJ an image, a mean over the seeds that were counted, and top-1 in percent by seed.

    of: points of the same are joined by a line.
    """

    words: str
    energy: float
    scores: Sequence[float]
    style: Mapping[str, Any]
    counted: int
    of: str

    @property
    def mean(self) -> float:
        return summary(self.scores).mean

    @property
    def ends(self) -> tuple[float, float]:
        """Of the mean's interval; the mean itself where there is none."""
        half = interval(summary(self.scores)) or 0.0
        return self.mean - half, self.mean + half


def _point(
    words: str, mj: Collection[float], scores: Mapping[int, float], style: Mapping[str, Any], of: str
) -> list[Point]:
    """No point where nothing was counted."""
    if not mj or not scores:
        return []
    return [Point(words, 1000 * statistics.fmean(mj), list(scores.values()), style, len(mj), of)]


def _floats(ran: Ran, row: str, words: str, style: Mapping[str, Any]) -> list[Point]:
    alone = _point(words, ran.values(row, "detached_mj").values(), ran.deployed(row), style, row)
    return alone + _point("", ran.values(row, "trained_mj").values(), ran.values(row, "final_sum"), KEPT, row)


def _integers(ran: Ran, row: str) -> list[Point]:
    """At the price of the additions and products that they are; as many as the trunk's."""
    counts = zip(ran.values(row, "detached_ac").values(), ran.values(row, "detached_mac").values(), strict=True)
    mj = [PJ_TO_MJ * (INTEGER_ADDITION * (ac + mac) + INTEGER_PRODUCT * mac) for ac, mac in counts]
    both = [_point(f"{bits} bits", mj, ran.values(row, f"integer{bits}"), WHOLE, row) for bits in ("8", "4")]
    return [point for points in both for point in points]


def panels(rans: Mapping[str, Ran]) -> dict[str, list[Point]]:
    """What is drawn, by the title of its chart; no chart where nothing was counted."""
    joins, whole = rans["cifar10_joins"], rans["cifar10_integers"]
    short = []
    for row in joins.study.rows:
        side = {"with": WITH, "without": WITHOUT}.get(row.rpartition("_")[2], OTHER)
        words = joins.label(row).partition(",")[0]
        short += _floats(joins, row, words, side)
    short += _floats(rans["cifar10_plain"], "resnet", "plain ResNet", OTHER)
    longer = [*_floats(whole, "or_with", "OR", WITH), *_integers(whole, "or_with")]
    found = {_trained(joins, "joins and baselines"): short, _trained(whole, "OR and its integers"): longer}
    return {title: points for title, points in found.items() if points}


def _trained(ran: Ran, words: str) -> str:
    return f"{ran.study.options['epochs']} epochs, T = {ran.study.options['T']}: {words}"


Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def _free(box: Box, taken: Iterable[Box]) -> bool:
    left, top, right, bottom = box
    return all(right < other[0] or left > other[2] or bottom < other[1] or top > other[3] for other in taken)


def _name(
    on: Canvas, places: Sequence[tuple[float, float]], points: Sequence[Point], area: Box, taken: list[Box]
) -> None:
    """Words beside each mark, where there is room for them; with a line to the mark if that is further away."""
    taken = taken + [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    around = [(dx, dy) for far in (11, 24, 40, 60) for dy in (0, -far, far) for dx in (far, -far, 0) if dx or dy]
    for (x, y), point in zip(places, points, strict=True):
        if not point.words:
            continue
        wide = on.width_of(point.words, size=8) + 2
        for dx, dy in around:
            left = x + dx - (0 if dx > 0 else wide if dx < 0 else wide / 2)
            box = (left, y + dy - 6, left + wide, y + dy + 6)
            inside = box[0] > area[0] and box[2] < area[2] and box[1] > area[1] and box[3] < area[3]
            if inside and _free(box, taken):
                break
        taken.append(box)
        on.text(box[0] + 1, y + dy, point.words, size=8, at="left", colour=point.style["color"])
        if max(abs(dx), abs(dy)) > 20:
            end = box[0] - 1 if dx > 0 else box[2] + 1 if dx < 0 else x
            on.axes.plot((x, end), (y, y + dy), color=point.style["color"], linewidth=0.6, zorder=2)


def _along(ends: Sequence[tuple[float, float]]) -> list[Box]:
    """Boxes that cover the line from the first of these places to each of the others."""
    (x, y), *others = ends
    steps = [i / 20 for i in range(21)]
    found = [(x + s * (right - x), y + s * (bottom - y)) for right, bottom in others for s in steps]
    return [(a - 2, b - 2, a + 2, b + 2) for a, b in found]


def _draw(on: Canvas, points: Sequence[Point], left: float, wide: float, ylim: tuple[float, float]) -> Any:
    energies = [point.energy for point in points]
    room = max(1.3, 2 / math.sqrt(max(energies) / min(energies)))  # the axis spans a factor of 4 or more
    xlim = (min(energies) / room, max(energies) * room)
    label = "energy of ACs and MACs, µJ an image, log scale"
    axes = on.plot(left, TOP, wide, HIGH, xscale="log", xlabel=label, xlim=xlim, ylim=ylim)
    ticks(axes.xaxis)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return float(across), on.height - float(up)

    taken: list[Box] = []
    for point in points:
        axes.plot([point.energy] * 2, point.ends, color=point.style["color"], alpha=0.6)
        axes.plot(point.energy, point.mean, markersize=7, markeredgecolor=CARD, zorder=4, **point.style)
        taken += _along([place(point.energy, end) for end in point.ends])
    for of in dict.fromkeys(point.of for point in points):
        first, *others = [(point.energy, point.mean) for point in points if point.of == of]
        for other in others:
            axes.plot(*zip(first, other, strict=True), color=SOFT, linewidth=0.8, zorder=1)
            taken += _along([place(*first), place(*other)])
    _name(on, [place(p.energy, p.mean) for p in points], points, (left, TOP, left + wide, TOP + HIGH), taken)
    return axes


def energy(rans: Mapping[str, Ran]) -> Drawn | None:
    """On CIFAR-10."""
    found = panels(rans)
    if not found:
        return None
    everything = [point for points in found.values() for point in points]
    ends = [end for point in everything for end in point.ends]
    limits = (max(min(ends) - 3, 0), min(max(ends) + 3, 100))
    wide = (1000 - LEFT - 24 - GAP * (len(found) - 1)) / len(found)
    with Canvas(1000, TOP + HIGH + 62, "energy") as on:
        shown = [point.style for point in everything]
        key(on, 24, 28, [({**style, "linewidth": 0}, words) for style, words in KEYS if style in shown])
        for i, (title, points) in enumerate(found.items()):
            left = LEFT + i * (wide + GAP)
            on.text(left, TOP - 22, f"CIFAR-10, {title}", size=9.5, at="left", weight="bold")
            axes = _draw(on, points, left, wide, limits)
            share_y(axes, i, "test top-1, %")
        svg = on.svg()
    caption = (
        "Marks are means over seeds, bars 95 % intervals of the accuracy (from three seeds on), lines join what was "
        "trained together. Energy in 45 nm: of 32-bit floats 0.9 pJ an AC and 4.6 pJ a MAC; of integers, whose ACs and "
        "MACs are taken to be as many as the FSNN's, 0.1 pJ an addition of 32 bits and 0.2 pJ a product of 8, from the "
        "same source, and no less for 4 bits. "
        f"Accuracies: {seeds([len(p.scores) for p in everything])}; energies: {seeds([p.counted for p in everything])}."
    )
    return Drawn(svg, "Accuracy over the energy of an image, of full-spike and other networks", caption)

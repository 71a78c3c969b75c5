"""Rows that are compared: each side's accuracy, and the difference seed by seed with its interval."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from full_spike.utils.draw.card import INK, LINE, SOFT, VALUES, Canvas

from studies.figures.parts import WITH, WITHOUT, Drawn, heading, interval, key, points, seeds
from studies.ran import Pair, Ran
from studies.tables import difference, verdict

STEP = 40  # pixels of a pair
BARS = (
    "Marks are seeds, the upright line their mean, the band its 95 % interval by Student's t (from three seeds on). "
    "An arrow says that something lies beyond the axis; the numbers stand beside."
)


def _reach(pairs: Sequence[Pair]) -> float:
    """How far the axis of differences goes to either side: as far as most pairs do, whatever the widest come to."""
    ends = []
    for pair in pairs:
        found = pair.difference
        ends.append(max(abs(found.mean) + (interval(found) or 0.0), *map(abs, pair.differences)))
    most, usual = max(ends), statistics.median(ends)
    return 1.1 * max(3 * usual if most > 5 * usual else most, 0.5)


def _rows(axes: Any, count: int) -> None:
    """A line of the y axis for each pair, from above, without labels of its own."""
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for i in range(1, count):
        axes.axhline(i - 0.5, color=LINE, linewidth=0.6, alpha=0.6)


def accuracies(on: Canvas, pairs: Sequence[Pair], left: float, top: float, width: float) -> None:
    """Both sides of each pair."""
    axes = on.plot(left, top, width, STEP * len(pairs), xlabel="top-1 of the trunk alone, %")
    _rows(axes, len(pairs))
    for i, pair in enumerate(pairs):
        points(axes, list(pair.first.values()), i - 0.2, WITH, 0.16)
        points(axes, list(pair.second.values()), i + 0.2, WITHOUT, 0.16)
    low, high = axes.get_xlim()
    room = max(0.0, 3 - (high - low)) / 2  # what is hardly different is to look like that
    axes.set_xlim(max(low - room, 0), min(high + room, 100.5))  # of an interval that leaves 0 to 100, what lies within


def differences(on: Canvas, pairs: Sequence[Pair], left: float, top: float, width: float, label: str) -> None:
    """The difference of each pair, and to the right of the axes in numbers."""
    reach = _reach(pairs)
    axes = on.plot(left, top, width, STEP * len(pairs), xlabel=label, xlim=(-reach, reach))
    _rows(axes, len(pairs))
    axes.axvline(0, color=INK, linewidth=1)
    for i, pair in enumerate(pairs):
        found = points(axes, pair.differences, i, {"color": VALUES, "marker": "D"}, 0.26)
        half = interval(found) or 0.0
        for side, marker in ((-1, "<"), (1, ">")):
            if max(side * found.mean + half, *(side * value for value in pair.differences)) > reach:
                axes.plot(side * reach, i, marker, color=VALUES, markersize=6, clip_on=False, zorder=6)
        y = top + STEP * (i + 0.5)
        words = difference(found) if found.n > 1 else f"{found.mean:+.2f}"
        on.text(left + width + 18, y - 7, words, size=8.5, at="left")
        on.text(left + width + 18, y + 7, f"{seeds([found.n])}, {verdict(found)}", size=8, at="left", colour=SOFT)


def _counts(pairs: Sequence[Pair]) -> str:
    return seeds([count for pair in pairs for count in (len(pair.first), len(pair.second))])


def two_sided(
    rans: Sequence[Ran], salt: str, alt: str, wanted: Callable[[Pair], bool] = lambda _: True
) -> Drawn | None:
    """A row of charts for each study: both sides' accuracies, and the differences."""
    shown = [(ran, pairs) for ran in rans if (pairs := [pair for pair in ran.pairs() if wanted(pair)])]
    if not shown:
        return None
    height = 20 + sum(84 + STEP * len(pairs) for _, pairs in shown)
    with Canvas(1000, height, salt) as on:
        key(on, 640, 26, [({**WITH, "linewidth": 0}, "with the pathway"), ({**WITHOUT, "linewidth": 0}, "without it")])
        top = 26.0
        for ran, pairs in shown:
            heading(on, top, ran.study.title.partition(",")[0])
            for i, pair in enumerate(pairs):
                on.text(116, top + 22 + STEP * (i + 0.5), pair.what, at="right", weight="bold")
            accuracies(on, pairs, 130, top + 22, 390)
            differences(on, pairs, 560, top + 22, 250, "with - without, points")
            top += 84 + STEP * len(pairs)
        svg = on.svg()
    said = "; ".join(f"{ran.study.title.partition(':')[0]}: {_counts(pairs)} a row" for ran, pairs in shown)
    caption = (
        "Left: the trunk's accuracy after the last epoch, trained with the pathway (blue circles) and without it "
        f"(orange squares). Right: their difference seed by seed. {BARS} {said}."
    )
    return Drawn(svg, alt, caption)


def _sides(pair: Pair) -> bool:
    return pair.rows[0].endswith("_with") and pair.rows[1].endswith("_without")


def joins(rans: Mapping[str, Ran]) -> Drawn | None:
    """The pathway against none, by join."""
    both = [rans["cifar10_joins"], rans["digits"]]
    return two_sided(both, "joins", "Accuracy of the trunk with and without the pathway, by join", _sides)


def depth(rans: Mapping[str, Ran]) -> Drawn | None:
    """The pathway against none, by depth."""
    return two_sided([rans["digits_depth"]], "depth", "Accuracy of the trunk with and without the pathway, by depth")


def others(rans: Mapping[str, Ran]) -> Drawn | None:
    """The pathway against none: Spikformer's joins, and event networks by time steps."""
    both = [rans["digits_spikformer"], rans["events_time_steps"]]
    return two_sided(both, "others", "Accuracy of Spikformers and event networks with and without the pathway")


def choices(rans: Mapping[str, Ran]) -> Drawn | None:
    """What one change of or_with does."""
    pairs = [pair for pair in rans["digits"].pairs() if pair.rows[1] == "or_with"]
    if not pairs:
        return None
    with Canvas(1000, 104 + STEP * len(pairs), "choices") as on:
        heading(on, 26, "Digits: one thing changed of OR, with the pathway")
        for i, pair in enumerate(pairs):
            on.text(300, 46 + STEP * (i + 0.5), pair.what, at="right")
        differences(on, pairs, 320, 46, 480, "changed - or_with, points of top-1 of the trunk alone")
        svg = on.svg()
    counts = seeds([pair.difference.n for pair in pairs])
    caption = f"Right of 0 the change is better. Differences are taken seed by seed: {counts} a row. {BARS}"
    return Drawn(
        svg, "Differences to or_with with 95 % intervals, one for each choice that was never published", caption
    )

"""Accuracy over epochs, and gradients and firing rates over blocks: lines of a row, with the range of its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from full_spike.utils.draw.card import INK, SPIKES, SUMS, Canvas
from full_spike.utils.draw.charts import COLOURS

from studies.figures.parts import Drawn, heading, key, seeds, share_y
from studies.ran import Pair, Ran

TRUNK = ("test_fsnn", "test_output")
# what is drawn of a pair: row of it, columns, style, words
SIDES = (
    (0, ("test_aap",), {"color": COLOURS[2], "linestyle": (0, (1, 1.5))}, "pathway alone"),
    (0, ("test_sum",), {"color": COLOURS[3], "linestyle": (0, (6, 2, 1, 2))}, "both, the pathway kept"),
    (1, TRUNK, {"color": SUMS, "linestyle": (0, (4, 2))}, "trunk, trained without it"),
    (0, TRUNK, {"color": SPIKES}, "trunk, trained with the pathway"),
)
# what is drawn beside OR: words -> style
BESIDE: Mapping[str, Mapping[str, Any]] = {
    "OR": {"color": SPIKES},
    "plain ResNet": {"color": INK},
    "Spikformer (ADD)": {"color": INK},
    "SEW (ADD)": {"color": COLOURS[4], "linestyle": (0, (4, 2))},
    "Spiking ResNet": {"color": COLOURS[6], "linestyle": (0, (1, 1.5))},
}
HIGH, GAP, LEFT = 150, 22, 66


@dataclass(frozen=True)
class Line:
    """Of one row: the middle of its seeds at each place, the lowest and the highest of them."""

    xs: list[int]
    middle: list[float]
    low: list[float]
    high: list[float]
    seeds: int


def line(
    entries: Iterable[Mapping[str, Any]], row: str, place: str, columns: Sequence[str],
    middle: Callable[[Sequence[float]], float] = statistics.fmean,
) -> Line | None:  # fmt: skip
    """Of the first of these columns that the row has, over a column of places; None if it has none of them."""
    found: dict[int, dict[int, float]] = {}
    for entry in entries:
        values = [entry[column] for column in columns if entry.get(column) is not None]
        if entry["row"] == row and values:
            found.setdefault(int(entry[place]), {})[entry["seed"]] = values[0]
    if not found:
        return None
    xs = sorted(found)
    values = [list(found[x].values()) for x in xs]
    return Line(xs, [*map(middle, values)], [*map(min, values)], [*map(max, values)], max(map(len, values)))


def show(axes: Any, of: Line, style: Mapping[str, Any]) -> None:
    """The middle as a line, the range as a band."""
    axes.fill_between(of.xs, of.low, of.high, color=style["color"], alpha=0.18, linewidth=0)
    marker = {"marker": "o", "markersize": 3} if len(of.xs) == 1 else {}
    axes.plot(of.xs, of.middle, **{"linewidth": 1.7, **marker, **style})


@dataclass(frozen=True)
class Panel:
    """A chart: its title, and the lines in it with their styles; where words are given, it has a key of its own."""

    title: str
    lines: list[tuple[Line, Mapping[str, Any], str]]


def _of_pair(ran: Ran, pair: Pair) -> Panel:
    found = [(line(ran.epochs, pair.rows[i], "epoch", columns), style, "") for i, columns, style, _ in SIDES]
    return Panel(pair.what, [(of, style, words) for of, style, words in found if of is not None])


def _beside(rows: Mapping[str, tuple[Ran, str]]) -> Panel:
    found = [(line(ran.epochs, row, "epoch", TRUNK), BESIDE[words], words) for words, (ran, row) in rows.items()]
    lines = [(of, style, words) for of, style, words in found if of is not None]
    return Panel("OR beside others", lines if len(lines) > 1 else [])


def _draw_row(on: Canvas, top: float, panels: Sequence[Panel], columns: int) -> None:
    wide = (1000 - LEFT - 24 - GAP * (columns - 1)) / columns
    lows = [value for panel in panels for of, *_ in panel.lines for value in of.low]
    highs = [value for panel in panels for of, *_ in panel.lines for value in of.high]
    room = 0.06 * max(max(highs) - min(lows), 1)
    limits = (min(lows) - room, min(max(highs) + room, 101))
    for i, panel in enumerate(panels):
        axes = on.plot(LEFT + i * (wide + GAP), top, wide, HIGH, ylim=limits, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        axes.set_title(panel.title, fontsize=9, color=INK, weight="bold", loc="left", pad=5)
        share_y(axes, i, "test top-1, %")
        for of, style, _ in panel.lines:
            show(axes, of, style)
        for j, (_, style, words) in enumerate(entry for entry in panel.lines if entry[2]):
            y = top + HIGH - 12 - 14 * j
            x = LEFT + i * (wide + GAP) + wide - 104
            on.axes.plot((x, x + 16), (y, y), **{"linewidth": 1.7, **style}, zorder=5)
            on.text(x + 21, y, words, size=7.5, at="left")


def _curves(rows: Sequence[tuple[str, Sequence[Panel]]], salt: str, alt: str) -> Drawn | None:
    shown = [(words, own) for words, panels in rows if (own := [panel for panel in panels if panel.lines])]
    if not shown:
        return None
    columns = max(2, *(len(panels) for _, panels in shown))
    step = HIGH + 92
    with Canvas(1000, 56 + step * len(shown), salt) as on:
        key(on, 24, 28, [(style, words) for *_, style, words in reversed(SIDES)])
        for i, (words, panels) in enumerate(shown):
            heading(on, 62 + step * i, words)
            _draw_row(on, 96 + step * i, panels, columns)
        svg = on.svg()
    said = "; ".join(f"{words}: {seeds([of.seeds for panel in own for of, *_ in panel.lines])}" for words, own in shown)
    what = "Test accuracy after each epoch. Lines are means over seeds, bands go from the lowest seed to the highest."
    return Drawn(svg, alt, f"{what} {said}.")


def curves(rans: Mapping[str, Ran]) -> Drawn | None:
    """Joins and baselines, on CIFAR-10 and on the digits."""
    rows = []
    for name, words in (("cifar10_joins", "CIFAR-10"), ("digits", "Digits")):
        ran = rans[name]
        panels = [_of_pair(ran, pair) for pair in ran.pairs() if pair.rows[1].endswith("_without")]
        beside = {"OR": (ran, "or_with"), "SEW (ADD)": (ran, "sew_add"), "Spiking ResNet": (ran, "spiking")}
        if name == "cifar10_joins":
            beside["plain ResNet"] = (rans["cifar10_plain"], "resnet")
        rows.append((words, [*panels, _beside(beside)]))
    return _curves(rows, "curves", "Learning curves of every join and of the baselines")


def curves_others(rans: Mapping[str, Ran]) -> Drawn | None:
    """Depths, Spikformers and event networks."""
    names = {
        "digits_depth": "Digits, by depth",
        "digits_spikformer": "Digits, Spikformer",
        "events_time_steps": "Event digits",
    }
    rows = {name: [_of_pair(rans[name], pair) for pair in rans[name].pairs()] for name in names}
    former = rans["digits_spikformer"]
    rows["digits_spikformer"].append(_beside({"OR": (former, "or_with"), "Spikformer (ADD)": (former, "add")}))
    alt = "Learning curves by depth, of Spikformers and of event networks"
    return _curves([(words, rows[name]) for name, words in names.items()], "curves_others", alt)

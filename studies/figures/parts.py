"""What the figures share: marks of the two sides of a comparison, keys, labels that keep apart, words about seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from full_spike.utils.draw.card import CARD, SPIKES, SUMS, Canvas

from studies.statistics import Summary, summary

WITH: Mapping[str, Any] = {"color": SPIKES, "marker": "o"}
WITHOUT: Mapping[str, Any] = {"color": SUMS, "marker": "s"}


@dataclass(frozen=True)
class Drawn:
    """A figure as the page shows it.

    svg: its file's text.
    alt: what it is, for who does not see it.
    caption: what one sees, with seeds and error bars.
    """

    svg: str
    alt: str
    caption: str


def key(on: Canvas, x: float, y: float, entries: Iterable[tuple[Mapping[str, Any], str]]) -> None:
    """A line of samples, each with its words, from x to the right."""
    for style, words in entries:
        on.axes.plot((x, x + 11, x + 22), (y, y, y), **{"linewidth": 1.8, "markersize": 5, **style}, markevery=[1])
        x += 29 + on.text(x + 29, y, words, size=8.5, at="left") + 22


def points(axes: Any, values: Sequence[float], at: float, style: Mapping[str, Any], size: float) -> Summary:
    """Seeds along the x axis, their mean as an upright line, and from three seeds on its 95 % interval as a band.

    at: where they stand on the y axis.
    size: half of the mean's line, on the y axis.
    """
    found = summary(values)
    if (half := interval(found)) is not None:
        ends = (found.mean - half, found.mean + half)
        axes.fill_between(ends, at - 0.7 * size, at + 0.7 * size, color=style["color"], alpha=0.25, linewidth=0)
    mean = (found.mean, found.mean)
    axes.plot(mean, (at - size, at + size), color=style["color"], linewidth=2.2, solid_capstyle="butt", zorder=3)
    own = {"marker": style["marker"], "markersize": 5, "markeredgecolor": CARD, "markeredgewidth": 0.7}
    steps = [
        at + size * (2 * i + 1 - len(values)) / (2 * len(values)) for i in range(len(values))
    ]  # equal ones are seen
    axes.plot(values, steps, color=style["color"], linewidth=0, zorder=4, **own)
    return found


def interval(found: Summary) -> float | None:
    """Half of the 95 % interval where it is drawn: of fewer than three values it says nothing."""
    return found.half if found.n > 2 else None


def seeds(counts: Collection[int]) -> str:
    """How many seeds rows have: "3 seeds", "2 to 5 seeds"."""
    low, high = min(counts), max(counts)
    return f"{high} seed{'s' * (high != 1)}" if low == high else f"{low} to {high} seeds"


def heading(on: Canvas, y: float, words: str) -> None:
    """The title of a row of charts."""
    on.text(24, y, words, size=10, at="left", weight="bold")


def ticks(axis: Any, subs: Sequence[float] = (1, 2, 5)) -> None:
    """Round numbers on a logarithmic axis, written as such."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())


def share_y(axes: Any, number: int, label: str) -> None:
    """Of charts side by side with the same y axis, the first alone says what it is."""
    axes.tick_params(labelleft=number == 0)
    if number == 0:
        axes.set_ylabel(label)

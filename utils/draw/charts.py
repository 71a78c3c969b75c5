"""Charts as SVG that needs no script and takes its colours from the page: curves, maps, rasters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# of Okabe and Ito, told apart without red and green; each is seen on white and on black
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
WIDE, HIGH = 420, 230  # of a chart, in its own units: pixels on most screens
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 34


@dataclass(frozen=True)
class Curve:
    """Values over epochs; dashed is for training beside a test."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: int = 0
    dashed: bool = False


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that span a range, at most so many and two more."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Logarithms of round numbers between two logarithms: 1, 2 and 5 of each decade, or 1 alone if there are many."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [(factor, power + math.log10(factor)) for power in powers for factor in (1, 2, 5)]
    inside = [(factor, place) for factor, place in found if low <= place <= high]
    return [place for factor, place in inside if factor == 1 or len(inside) <= 6]


def _number(value: float) -> str:
    return f"{value:.4g}"


def line_chart(curves: Sequence[Curve], x_label: str, y_label: str, *, log: bool = False) -> str:
    """Curves with axes and a legend; values that are not finite, or not above 0 on a logarithmic axis, are left out."""
    points = [
        (curve, [(x, y) for x, y in zip(curve.xs, curve.ys, strict=True) if math.isfinite(y) and (y > 0 or not log)])
        for curve in curves
    ]
    everything = [point for _, own in points for point in own]
    if not everything:
        return '<p class="soft">nothing to draw</p>'

    def scaled(y: float) -> float:
        return math.log10(y) if log else y

    xs, ys = [x for x, _ in everything], [scaled(y) for _, y in everything]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    x1 = x1 if x1 > x0 else x0 + 1
    pad = (y1 - y0) * 0.05 or abs(y0) * 0.05 or 0.5
    y0, y1 = y0 - pad, y1 + pad

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x0) / (x1 - x0) * (WIDE - _LEFT - _RIGHT)
        return round(across, 1), round(HIGH - _BOTTOM - (y - y0) / (y1 - y0) * (HIGH - _TOP - _BOTTOM), 1)

    parts = []
    for tick in _decades(y0, y1) if log else ticks(y0, y1):
        _, y = place(x0, tick)
        words = _number(10**tick if log else tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDE - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{words}</text>')
    for tick in ticks(x0, x1, 6):
        if tick == int(tick):
            x, _ = place(tick, y0)
            parts.append(f'<text x="{x}" y="{HIGH - _BOTTOM + 16}" text-anchor="middle">{int(tick)}</text>')
    parts.append(f'<text x="{WIDE - _RIGHT}" y="{HIGH - 3}" text-anchor="end">{escape(x_label)}</text>')
    for curve, own in points:
        if not own:
            continue
        colour = COLOURS[curve.colour % len(COLOURS)]
        path = "M" + "L".join(f"{x} {y}" for x, y in (place(x, scaled(y)) for x, y in own))
        dashes = ' stroke-dasharray="5 4" opacity=".65"' if curve.dashed else ""
        dot = place(own[-1][0], scaled(own[-1][1]))
        parts.append(f'<path d="{path}" stroke="{colour}"{dashes}/>')
        parts.append(f'<circle cx="{dot[0]}" cy="{dot[1]}" r="2.5" fill="{colour}"/>')
    names = "".join(
        f'<span><i style="background:{COLOURS[curve.colour % len(COLOURS)]};opacity:{0.5 if curve.dashed else 1}"></i>'
        f"{escape(curve.name)} {_number(own[-1][1])}</span>"
        for curve, own in points
        if own
    )
    return (
        f'<figure><figcaption>{escape(y_label)}</figcaption><svg class="chart" viewBox="0 0 {WIDE} {HIGH}" role="img" '
        f'aria-label="{escape(y_label, quote=True)}">{"".join(parts)}</svg><div class="legend">{names}</div></figure>'
    )


def heat_map(rows: Sequence[Sequence[float]], labels: Sequence[str], across: str, *, most: float) -> str:
    """A table of values as shades, a row each, the last value beside it; 0 is the page's own colour.

    Args:
        rows: as long as each other.
        labels: of the rows.
        across: what the columns are.
        most: the value that has the full colour.
    """
    high, wide, left = 12, 300, 150
    each = wide / max(1, max(map(len, rows), default=1))
    parts = []
    for i, (label, row) in enumerate(zip(labels, rows, strict=True)):
        y = i * high
        parts.append(f'<text x="{left - 6}" y="{y + 9.5}" text-anchor="end">{escape(_short(label))}</text>')
        for j, value in enumerate(row):
            shade = min(1.0, max(0.0, value / most)) if most and math.isfinite(value) else 0.0
            parts.append(
                f'<rect class="shade" x="{left + j * each:.2f}" y="{y + 0.5}" width="{each:.2f}" height="{high - 1}" '
                f'fill-opacity="{shade:.3f}"/>'
            )
        parts.append(f'<text x="{left + wide + 6}" y="{y + 9.5}">{row[-1]:.3f}</text>')
    total = len(rows) * high + 16
    parts.append(f'<text x="{left}" y="{total - 3}">{escape(across)}</text>')
    return f'<svg class="chart map" viewBox="0 0 {left + wide + 46} {total}" role="img">{"".join(parts)}</svg>'


def raster(layers: Sequence[tuple[str, float, Sequence[Sequence[bool]]]]) -> str:
    """Spikes of a few neurons of each layer, a dash in its time step each, and the layer's firing rate.

    Args:
        layers: (name, rate, spikes [T][neurons]), first to last.
    """
    left, line = 96, 2.6
    T = max((len(spikes) for _, _, spikes in layers), default=1)
    step = 120 / max(1, T)
    parts, y = [], 0.0
    for i, (name, rate, spikes) in enumerate(layers):
        count = len(spikes[0]) if spikes else 0
        high = max(10.0, count * line + 2)
        parts.append(f'<text x="{left - 5}" y="{y + high / 2 + 3}" text-anchor="end">{escape(_short(name, 16))}</text>')
        parts.append(f'<text x="{left + 126}" y="{y + high / 2 + 3}">{100 * rate:.0f} %</text>')
        marks = [
            f"M{left + t * step:.1f} {y + 2 + n * line:.1f}h{step * 0.8:.1f}"
            for t, neurons in enumerate(spikes)
            for n, fired in enumerate(neurons)
            if fired
        ]
        parts.append(f'<line class="grid" x1="{left}" x2="{left + 120}" y1="{y}" y2="{y}"/>')
        if marks:
            parts.append(f'<path class="{"even" if i % 2 else "odd"}" d="{"".join(marks)}"/>')
        y += high
    return f'<svg class="chart raster" viewBox="0 0 {left + 156} {y + 4:.0f}" role="img">{"".join(parts)}</svg>'


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"

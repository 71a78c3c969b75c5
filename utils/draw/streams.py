"""The two streams of a network as an SVG picture: the trunk, block by block, and the pathway that adds up beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = {"input": "#8a8f98", "spikes": "#0072b2", "sums": "#d55e00", "rates": "#d55e00", "values": "#8a8f98"}
BOX, HIGH, GAP = 250, 46, 30  # pixels: a box's width and height, and what is between two
LEFT, RIGHT = 24, 410  # where the trunk's boxes and the pathway's begin
NARROW = 190  # a box of the pathway


@dataclass(frozen=True)
class Box:
    """A step of the trunk, and what the pathway does beside it.

    title, text: what it is, and its shape in words.
    gives: what leaves it downwards: spikes, values, sums or rates.
    adds: whether its own spikes are added to the pathway.
    crossing: what the pathway goes through before that, or "".
    """

    title: str
    text: str
    gives: str
    adds: bool = False
    crossing: str = ""


_STYLE = (
    "text{font:13px system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1d2430}.s{font-size:11px;fill:#667085}"
    "rect{fill:#f6f8fb;stroke:#c6ccd8;rx:6}line,path{stroke-width:2;fill:none}circle{fill:#fff;stroke-width:2}"
    "@media(prefers-color-scheme:dark){svg{background:#14171c}text{fill:#e8ebf0}.s{fill:#9aa3b2}"
    "rect{fill:#1f242c;stroke:#3c4452}circle{fill:#14171c}}"
)


def _next(boxes: Sequence[Box], i: int) -> int:
    """The first box after this one that adds to the pathway, or the classifier."""
    return next((j for j in range(i + 1, len(boxes) - 1) if boxes[j].adds), len(boxes) - 1)


def _arrow(x1: float, y1: float, x2: float, y2: float, what: str) -> str:
    place = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
    return f'<line {place} stroke="{COLOURS[what]}" marker-end="url(#{what})"><title>{what}</title></line>'


def _small(x: float, y: float, text: str) -> str:
    return f'<text class="s" x="{x}" y="{y}">{escape(text)}</text>'


def _box(x: float, y: float, wide: float, title: str, text: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{wide}" height="{HIGH}"/><text x="{x + 12}" y="{y + 19}">{escape(title)}</text>'
        + _small(x + 12, y + 36, text)
    )


def streams_svg(title: str, boxes: Sequence[Box], outputs: Sequence[str]) -> str:
    """An SVG document.

    Args:
        title: above the picture.
        boxes: of the trunk, first to last; the last one is the classifier.
        outputs: what the streams give at the end, the trunk's first; with two there is a pathway.
    """
    dual = len(outputs) > 1
    step = HIGH + GAP
    top = 84
    middle = LEFT + BOX / 2
    lane = RIGHT + 26  # where the pathway runs down
    parts = [
        _arrow(middle, top - 22, middle, top - 3, "input"),
        _small(middle + 10, top - 10, "input"),
    ]
    for i, box in enumerate(boxes):
        y = top + i * step
        last = i == len(boxes) - 1
        parts.append(_box(LEFT, y, BOX, box.title, box.text))
        gives = outputs[0] if last else box.gives
        parts.append(_arrow(middle, y + HIGH, middle, y + step - 3, "values" if last else box.gives))
        parts.append(_small(middle + 10, y + HIGH + 19, gives))
        if not dual:
            continue
        centre = y + HIGH / 2
        if last:
            parts += [
                _box(RIGHT, y, NARROW, box.title, "of what was added up"),
                _arrow(lane, y + HIGH, lane, y + step - 3, "values"),
                _small(lane + 10, y + HIGH + 19, outputs[1]),
            ]
        elif box.adds:
            parts.append(f'<circle cx="{lane}" cy="{centre}" r="11" stroke="{COLOURS["sums"]}"/>')
            parts.append(f'<text x="{lane - 4.5}" y="{centre + 4.5}">+</text>')
            parts.append(_arrow(LEFT + BOX, centre, lane - 14, centre, "spikes"))
            parts.append(_small(LEFT + BOX + 12, centre - 6, "own spikes s"))
            if box.crossing:
                parts.append(_small(lane + 10, centre - 20, box.crossing))
            following = _next(boxes, i)
            below = (
                top + following * step - 3 if following == len(boxes) - 1 else top + following * step + HIGH / 2 - 14
            )
            parts.append(_arrow(lane, centre + 11, lane, below, "sums"))
        elif i == 0:  # the first sum is the trunk's first spikes
            below = top + _next(boxes, 0) * step + HIGH / 2 - 14
            parts.append(
                f'<path d="M{LEFT + BOX} {centre}H{lane}V{below}" stroke="{COLOURS["spikes"]}" '
                f'marker-end="url(#spikes)"/>{_small(LEFT + BOX + 12, centre - 6, "first spikes o")}'
            )
    heads = "".join(
        f'<marker id="{what}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" markerHeight="5" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" style="fill:{colour};stroke:none"/></marker>'
        for what, colour in COLOURS.items()
    )
    wide, high = (RIGHT + NARROW + 130 if dual else LEFT * 2 + BOX + 60), top + len(boxes) * step + 8
    legend = _small(LEFT, 46, f"blue: spikes, 0 or 1{' · orange: sums' if dual else ''} · grey: other values")
    size = f'viewBox="0 0 {wide} {high}" width="{wide}" height="{high}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title, quote=True)}">'
        f'<style>{_STYLE}</style><defs>{heads}</defs><text x="{LEFT}" y="28" '
        f'style="font-weight:600;font-size:15px">{escape(title)}</text>{legend}{"".join(parts)}</svg>\n'
    )

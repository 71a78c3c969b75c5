"""Cards: drawings for documents, on a ground of their own, so that they look the same on white and on dark pages."""

from __future__ import annotations

import io
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from full_spike.utils.draw.backend import pyplot
from full_spike.utils.draw.charts import COLOURS

SPIKES, SUMS = COLOURS[:2]  # blue and vermilion
VALUES = "#6b7280"
INK, SOFT, CARD, LINE = "#1d2430", "#5b6472", "#ffffff", "#c3c9d4"
STYLE = {
    "svg.fonttype": "path",  # looks the same whatever fonts the reader has
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
}


class Canvas:
    """A card of so many pixels, from its upper left corner, which is drawn on inside `with`: the same in every run.

    Args:
        width, height: in pixels.
        salt: what names inside the SVG depend on.
    """

    def __init__(self, width: int, height: int, salt: str) -> None:
        self.width, self.height, self._salt = width, height, salt
        self._open = ExitStack()

    def __enter__(self) -> Self:
        plt = pyplot()
        self._open.enter_context(plt.rc_context())
        plt.rcdefaults()  # no configuration of whoever draws has a say
        plt.rcParams.update(STYLE | {"svg.hashsalt": self._salt})
        self.figure = plt.figure(figsize=(self.width / 100, self.height / 100))
        self._open.callback(plt.close, self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0))
        self.axes.axis("off")
        self.frame(1, 1, self.width - 2, self.height - 2, face=CARD, edge=LINE, radius=14, level=-1)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def frame(
        self, x: float, y: float, width: float, height: float, *, face: str, edge: str, radius: float = 10,
        style: Any = "-", line: float = 1.0, level: float = 0.0,
    ) -> None:  # fmt: skip
        """A box with round corners."""
        from matplotlib.patches import FancyBboxPatch

        shape = f"round,pad=0,rounding_size={radius}"
        box = FancyBboxPatch((x, y), width, height, boxstyle=shape, fc=face, ec=edge, ls=style, lw=line, zorder=level)
        self.axes.add_patch(box)

    def text(
        self, x: float, y: float, words: str, *, size: float = 9.0, colour: str = INK, at: str = "center",
        weight: str = "normal",
    ) -> float:  # fmt: skip
        """Words whose middle line is at y; x is their left end, centre or right end. Returns how wide they are."""
        found = self.axes.text(x, y, words, fontsize=size, color=colour, ha=at, va="center", weight=weight, zorder=6)
        return float(found.get_window_extent().width)

    def width_of(self, words: str, *, size: float = 9.0) -> float:
        """How wide words would be."""
        found = self.axes.text(0, 0, words, fontsize=size)
        wide = float(found.get_window_extent().width)
        found.remove()
        return wide

    def plot(self, left: float, top: float, width: float, height: float, **given: Any) -> Any:
        """A chart's axes on the card, by pixels: light lines, labels in the card's colours.

        given: of `axes.set`.
        """
        place = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place, facecolor="none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LINE)
        axes.tick_params(which="both", color=LINE, labelcolor=SOFT, labelsize=8)
        axes.grid(color=LINE, alpha=0.5, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set(**given)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(fontsize=8.5, color=SOFT)
        return axes

    def svg(self) -> str:
        """The card as SVG."""
        text = io.BytesIO()
        self.save(text, "svg")
        return text.getvalue().decode()

    def save(self, where: Path | io.BytesIO, kind: str, **given: Any) -> None:
        """Write it, as svg or png, without a date or the names of programs."""
        unnamed = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        self.figure.savefig(where, format=kind, transparent=True, metadata=unnamed, **given)


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def _parts(svg: str) -> tuple[str, list[float]]:
    """What a drawing is besides its numbers, and these; names inside it, which hang on numbers, are counted instead."""
    order: dict[str, str] = {}
    for name in re.findall(r'\bid="([^"]+)"', svg):
        order.setdefault(name, f"name{len(order)}")
    svg = re.sub(r'(?<=\bid=")[^"]+|(?<=#)[\w.-]+', lambda match: order.get(match[0], match[0]), svg)
    return _NUMBER.sub("#", svg), [float(number) for number in _NUMBER.findall(svg)]


def same_drawing(first: str, second: str, tolerance: float = 0.01) -> bool:
    """Whether two SVGs differ by no more than this in any number, and in nothing else.

    The last digits of places depend on the machine that computed them.
    """
    (rest, numbers), (other_rest, other_numbers) = _parts(first), _parts(second)
    return rest == other_rest and all(abs(a - b) <= tolerance for a, b in zip(numbers, other_numbers, strict=True))

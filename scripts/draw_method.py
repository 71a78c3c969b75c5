"""Draws the method: figs/method.svg and figs/method.png. Run it from anywhere: python scripts/draw_method.py [FOLDER]

The whole network above, one block of it below. The picture is the same in every run, so a test draws it anew.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # what is run is a file of this folder, and Python looks no further by itself

from full_spike.utils.draw.card import CARD, INK, LINE, SOFT, SPIKES, SUMS, VALUES, Canvas  # noqa: E402
from matplotlib.patches import Circle, FancyArrowPatch, Polygon  # noqa: E402

BOX, ZOOM, PATHWAY = "#f4f6fa", "#eef5fa", "#fdf3ec"


class Drawing(Canvas):
    """A card with what networks are drawn of."""

    def box(self, x, y, words, *, width=44, height=34, colour=LINE, size=8.5):
        """Around its centre."""
        self.frame(x - width / 2, y - height / 2, width, height, face=BOX, edge=colour, radius=5, level=4)
        self.text(x, y, words, size=size)

    def node(self, x, y, words, colour, *, radius=13, size=11.0):
        self.axes.add_patch(Circle((x, y), radius, fc=CARD, ec=colour, lw=2.0, zorder=4))
        self.text(x, y, words, size=size, colour=colour)

    def flow(self, *points, colour=SPIKES, head=True, width=1.8):
        """Along these points; lines of sums are thicker, so that no colour is needed to tell them."""
        width = 3.0 if colour == SUMS else width
        for (x1, y1), (x2, y2) in pairwise(points[:-1]):
            self.axes.plot((x1, x2), (y1, y2), color=colour, lw=width, solid_capstyle="round", zorder=3)
        style = "-|>,head_length=5,head_width=2.8" if head else "-"
        arrow = FancyArrowPatch(
            *points[-2:], arrowstyle=style, color=colour, lw=width, shrinkA=0, shrinkB=0, zorder=3, capstyle="butt"
        )
        arrow.set_joinstyle("miter")
        self.axes.add_patch(arrow)

    def equation(self, x, y, number, words):
        self.axes.add_patch(Circle((x, y), 8.5, fc=INK, ec="none", zorder=4))
        self.text(x, y, str(number), size=8, colour=CARD, weight="bold")
        self.text(x + 15, y, words, size=10.5, at="left")


def network(on: Drawing) -> None:
    """The two streams, from the input to the loss."""
    pathway, trunk = 112, 214
    on.frame(184, 46, 690, 104, face=PATHWAY, edge=SUMS, style=(0, (5, 3)), line=1.2, level=1)
    on.text(200, 63, "auxiliary accumulation pathway (AAP)", colour=SUMS, at="left", weight="bold")
    on.text(858, 63, "trained beside it, then taken off, or kept (DSNN)", colour=SUMS, at="right")

    on.text(63, trunk - 8, "image or", size=9)
    on.text(63, trunk + 8, "event frames", size=9)
    on.flow((106, trunk), (122, trunk), colour=VALUES)
    on.box(148, trunk, "conv\nBN\nneuron", width=52, height=50, size=8)
    on.flow((174, trunk), (246, trunk))
    on.text(204, trunk + 14, "$o_0$")
    on.flow((204, trunk), (204, pathway), (263, pathway))  # the first sum is the first spikes
    on.text(236, pathway - 13, "$a_0 = o_0$", size=8.5)
    blocks = {276: "1", 416: "2", 616: "L"}
    for x, number in blocks.items():
        on.box(x, trunk, f"block {number}" if number != "L" else "block $L$", width=60, height=40, size=9.5)
        on.flow((x, trunk - 20), (x, pathway + 14))
        on.text(x + 13, 172, f"$s_{number}$")
        on.node(x, pathway, "+", SUMS)
    for y, start, end, colour, name in ((trunk, 30, 30, SPIKES, "o"), (pathway, 13, 13, SUMS, "a")):
        on.flow((276 + start, y), (416 - end, y), colour=colour)
        on.text(346, y - 13, f"${name}_1$")
        on.flow((416 + start, y), (500, y), colour=colour)
        on.text(473, y - 13, f"${name}_2$")
        on.text(516, y, "…", size=13, colour=colour)
        on.flow((534, y), (616 - end, y), colour=colour)
        on.flow((616 + start, y), (694, y), colour=colour)
        on.text(666, y - 13, f"${name}_L$")
        on.box(733, y, "mean over\nspace, time", width=78, height=36, size=8)
        on.flow((772, y), (796, y), colour=VALUES)
        on.box(826, y, "linear", width=60, height=30, size=8.5)
        on.flow((856, y), (889, y), colour=VALUES)
        on.node(907, y, "CE", VALUES, radius=17, size=9)
    on.axes.plot((826, 826), (128, 198), color=VALUES, lw=1.0, ls=(0, (1, 2.5)), zorder=3)
    on.text(820, 176, "same weights", size=7.5, colour=SOFT, at="right")
    on.text(24, 257, "full-spike network (FSNN)", colour=SPIKES, at="left", weight="bold")
    on.text(24, 274, "what is left after training", colour=SPIKES, at="left")

    middle = (pathway + trunk) / 2
    on.flow((907, pathway + 17), (907, middle - 11), colour=VALUES)
    on.flow((907, trunk - 17), (907, middle + 11), colour=VALUES)
    on.node(907, middle, "+", VALUES, radius=11)
    on.flow((918, middle), (944, middle), colour=VALUES)
    on.text(949, middle, "loss", at="left", weight="bold")
    on.equation(700, 258, 3, "loss = CE(FSNN) + CE(AAP)")


def block(on: Drawing) -> None:
    """One block, its join, and the sum beside it."""
    left, top, right, bottom = 24, 306, 976, 596
    on.axes.add_patch(Polygon(((387, 233), (445, 233), (right - 8, top + 1), (left + 8, top + 1)), fc=ZOOM, ec="none"))
    on.frame(left, top, right - left, bottom - top, face=ZOOM, edge="none", level=0.5)
    on.text(left + 16, top + 18, "block $l$, and what the pathway adds", at="left", weight="bold")

    pathway, branch, shortcut = 386, 458, 528
    on.text(62, pathway, "$a_{l-1}$", size=12)
    on.flow((86, pathway), (296, pathway), colour=SUMS)
    on.box(318, pathway, "$P_l$", colour=SUMS, size=11)
    on.text(
        318, pathway - 30, "identity, or where the shape changes: [depthwise 3x3,] 1x1, BN, ReLU", size=8, colour=SOFT
    )
    on.flow((340, pathway), (651, pathway), colour=SUMS)
    on.node(664, pathway, "+", SUMS)
    on.flow((677, pathway), (908, pathway), colour=SUMS)
    on.text(932, pathway, "$a_l$", size=12)
    on.equation(716, pathway - 24, 2, r"$a_l = P_l(a_{l-1}) + s_l$")

    on.text(62, branch, "$o_{l-1}$", size=12)
    x = 86
    for centre, words, width, colour in (
        (196, "conv", 50, SPIKES), (262, "BN", 40, VALUES), (336, "neuron", 62, VALUES),
        (446, "conv", 50, SPIKES), (512, "BN", 40, VALUES), (586, "neuron", 62, VALUES),
    ):  # fmt: skip
        on.flow((x, branch), (centre - width / 2, branch), colour=colour)
        on.box(centre, branch, words, width=width)
        x = centre + width / 2
    on.flow((x, branch), (735, branch))
    on.text(684, branch + 14, "$s_l$", size=11)
    on.flow((664, branch), (664, pathway + 14))
    on.flow((120, branch), (120, shortcut), (754, shortcut), (754, branch + 20))
    on.box(391, shortcut, "where the shape changes: conv 1x1, BN, neuron", width=290, height=28, size=8)
    on.node(754, branch, "$g$", SPIKES, radius=18, size=13)
    on.flow((772, branch), (908, branch))
    on.text(932, branch, "$o_l$", size=12)
    on.equation(784, branch + 32, 1, "$o_l = g(s_l, o_{l-1})$")

    on.text(left + 16, 574, "Boolean joins $g$, on 0 and 1:", at="left", weight="bold")
    for place, name, formula in (
        (244, "OR", r"$s + o - s\cdot o$"), (386, "IAND", r"$o\cdot(1 - s)$"),
        (526, "AND", r"$s\cdot o$"), (620, "XOR", r"$o\cdot(1 - s) + s\cdot(1 - o)$"),
    ):  # fmt: skip
        on.text(place, 574, name, at="left", weight="bold", colour=SPIKES)
        on.text(place + 8 + 9.5 * len(name), 574, formula, at="left", size=9.5)


def legend(on: Drawing) -> None:
    x = 40
    for colour, words, step in (
        (SPIKES, "spikes, 0 or 1", 160),
        (SUMS, "sums of spikes", 160),
        (VALUES, "other values", 0),
    ):
        on.flow((x, 618), (x + 34, 618), colour=colour)
        on.text(x + 42, 618, words, at="left", colour=SOFT)
        x += step


def draw(folder: Path) -> None:
    with Drawing(1000, 640, "method") as on:
        on.text(24, 24, "Training with the Auxiliary Accumulation Pathway", size=12, at="left", weight="bold")
        network(on)
        block(on)
        legend(on)
        on.save(folder / "method.svg", "svg")
        on.save(folder / "method.png", "png", dpi=200)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "figs")

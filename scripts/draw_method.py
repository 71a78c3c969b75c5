"""Draw the method into figs/method.svg and figs/method.png: python scripts/draw_method.py [FOLDER]

Above, the two streams from the input to the loss; below, one block with its Boolean join, and the pathway's sum.
"""

import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon

SPIKES, SUMS, VALUES = "#0072b2", "#d55e00", "#6b7280"
INK, SOFT, LINE, CARD, BOX, ZOOM, PATHWAY = "#1d2430", "#5b6472", "#c3c9d4", "white", "#f4f6fa", "#eef5fa", "#fdf3ec"
WIDE, HIGH = 1000, 640  # all places are in these units, from the upper left corner

matplotlib.rcParams |= {"svg.fonttype": "path", "svg.hashsalt": "method", "mathtext.fontset": "dejavusans"}
figure = Figure(figsize=(WIDE / 100, HIGH / 100))
axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDE), ylim=(HIGH, 0))
axes.axis("off")


def text(x, y, words, size=9.0, color=INK, ha="center", **style):
    axes.text(x, y, words, fontsize=size, color=color, ha=ha, va="center", zorder=6, **style)


def frame(x, y, width, height, face, edge="none", radius=10, **style):
    shape = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, fc=face, ec=edge, **style))


def box(x, y, words, width=44, height=34, color=LINE, size=8.5):
    frame(x - width / 2, y - height / 2, width, height, BOX, color, radius=5, zorder=4)
    text(x, y, words, size)


def node(x, y, words, color, radius=13, size=11.0):
    axes.add_patch(Circle((x, y), radius, fc=CARD, ec=color, lw=2, zorder=4))
    text(x, y, words, size, color)


def flow(*points, color=SPIKES):
    """An arrow along these points; sums are thicker, so that they are told from spikes without colours."""
    width = 3.0 if color == SUMS else 1.8
    axes.plot(*zip(*points[:-1], strict=True), color=color, lw=width, zorder=3)
    style = "-|>,head_length=5,head_width=2.8"
    arrow = FancyArrowPatch(*points[-2:], arrowstyle=style, color=color, lw=width, shrinkA=0, shrinkB=0, zorder=3)
    arrow.set(capstyle="butt", joinstyle="miter")
    axes.add_patch(arrow)


def equation(x, y, number, words):
    axes.add_patch(Circle((x, y), 8.5, fc=INK, zorder=4))
    text(x, y, str(number), 8, CARD, weight="bold")
    text(x + 15, y, words, 10.5, ha="left")


# the network
frame(1, 1, WIDE - 2, HIGH - 2, CARD, LINE, radius=14, zorder=-1)
text(24, 24, "Training with the Auxiliary Accumulation Pathway", 12, ha="left", weight="bold")
frame(184, 46, 690, 104, PATHWAY, SUMS, linestyle=(0, (5, 3)), linewidth=1.2)
text(200, 63, "auxiliary accumulation pathway (AAP)", color=SUMS, ha="left", weight="bold")
text(858, 63, "trained beside it, then taken off, or kept (DSNN)", color=SUMS, ha="right")
text(24, 257, "full-spike network (FSNN)", color=SPIKES, ha="left", weight="bold")
text(24, 274, "what is left after training", color=SPIKES, ha="left")
aap, trunk = 112, 214
text(63, trunk, "image or\nevent frames")
flow((106, trunk), (122, trunk), color=VALUES)
box(148, trunk, "conv\nBN\nneuron", width=52, height=50, size=8)
flow((174, trunk), (246, trunk))
text(204, trunk + 14, "$o_0$")
flow((204, trunk), (204, aap), (263, aap))
text(236, aap - 13, "$a_0 = o_0$", 8.5)
for x, number in ((276, "1"), (416, "2"), (616, "L")):
    box(x, trunk, f"block ${number}$", width=60, height=40, size=9.5)
    flow((x, trunk - 20), (x, aap + 14))
    text(x + 13, 172, f"$s_{number}$")
    node(x, aap, "+", SUMS)
for y, half, color, name in ((trunk, 30, SPIKES, "o"), (aap, 13, SUMS, "a")):
    for x, start, end in ((346, 276 + half, 416 - half), (473, 416 + half, 500), (666, 616 + half, 694)):
        flow((start, y), (end, y), color=color)
        text(x, y - 13, f"${name}_{ {346: 1, 473: 2, 666: 'L'}[x] }$")
    text(516, y, "…", 13, color)
    flow((534, y), (616 - half, y), color=color)
    box(733, y, "mean over\nspace, time", width=78, height=36, size=8)
    flow((772, y), (796, y), color=VALUES)
    box(826, y, "linear", width=60, height=30)
    flow((856, y), (889, y), color=VALUES)
    node(907, y, "CE", VALUES, radius=17, size=9)
middle = (aap + trunk) / 2
axes.plot((826, 826), (128, 198), color=VALUES, lw=1, ls=(0, (1, 2.5)))
text(820, 176, "same weights", 7.5, SOFT, ha="right")
flow((907, aap + 17), (907, middle - 11), color=VALUES)
flow((907, trunk - 17), (907, middle + 11), color=VALUES)
node(907, middle, "+", VALUES, radius=11)
flow((918, middle), (944, middle), color=VALUES)
text(949, middle, "loss", ha="left", weight="bold")
equation(700, 258, 3, "loss = CE(FSNN) + CE(AAP)")

# one block
axes.add_patch(Polygon(((387, 236), (445, 236), (968, 307), (32, 307)), fc=ZOOM, zorder=0.5))
frame(24, 306, 952, 290, ZOOM, zorder=0.5)
text(40, 324, "block $l$, and what the pathway adds", ha="left", weight="bold")
aap, branch, shortcut = 386, 458, 528
text(62, aap, "$a_{l-1}$", 12)
flow((86, aap), (296, aap), color=SUMS)
box(318, aap, "$P_l$", color=SUMS, size=11)
text(318, aap - 30, "identity, or where the shape changes: [depthwise 3x3,] 1x1, BN, ReLU", 8, SOFT)
flow((340, aap), (651, aap), color=SUMS)
node(664, aap, "+", SUMS)
flow((677, aap), (908, aap), color=SUMS)
text(932, aap, "$a_l$", 12)
equation(716, aap - 24, 2, r"$a_l = P_l(a_{l-1}) + s_l$")
text(62, branch, "$o_{l-1}$", 12)
start = 86
for x, words in ((196, "conv"), (262, "BN"), (336, "neuron"), (446, "conv"), (512, "BN"), (586, "neuron")):
    half = 4 + 4.6 * len(words)
    flow((start, branch), (x - half, branch), color=SPIKES if words == "conv" else VALUES)
    box(x, branch, words, width=2 * half)
    start = x + half
flow((start, branch), (735, branch))
text(700, branch + 14, "$s_l$", 11)
flow((664, branch), (664, aap + 14))
flow((120, branch), (120, shortcut), (754, shortcut), (754, branch + 20))
box(391, shortcut, "where the shape changes: conv 1x1, BN, neuron", width=290, height=28, size=8)
node(754, branch, "$g$", SPIKES, radius=18, size=13)
flow((772, branch), (908, branch))
text(932, branch, "$o_l$", 12)
equation(784, branch + 32, 1, "$o_l = g(s_l, o_{l-1})$")
text(40, 574, "Boolean joins $g$, on 0 and 1:", ha="left", weight="bold")
for x, name, formula in (
    (244, "OR", r"$s + o - s\cdot o$"), (386, "IAND", r"$o\cdot(1 - s)$"),
    (526, "AND", r"$s\cdot o$"), (620, "XOR", r"$o\cdot(1 - s) + s\cdot(1 - o)$"),
):  # fmt: skip
    text(x, 574, name, color=SPIKES, ha="left", weight="bold")
    text(x + 8 + 9.5 * len(name), 574, formula, 9.5, ha="left")
for x, color, words in ((40, SPIKES, "spikes, 0 or 1"), (200, SUMS, "sums of spikes"), (360, VALUES, "other values")):
    flow((x, 618), (x + 34, 618), color=color)
    text(x + 42, 618, words, color=SOFT, ha="left")

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "figs"
figure.savefig(folder / "method.svg", metadata={"Date": None, "Creator": None}, transparent=True)
figure.savefig(folder / "method.png", dpi=200, transparent=True)

"""Draw the method into figs/method.svg and figs/method.png: python scripts/draw_method.py [FOLDER]

Above, the two streams from the input to the loss; below, one block with its Boolean join, and the pathway's sum.
"""

import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon

SPIKES, SUMS, VALUES, SOFT, LINE = "#0072b2", "#d55e00", "#6b7280", "#5b6472", "#c3c9d4"
BOLD = {"ha": "left", "weight": "bold"}
matplotlib.rcParams |= {"svg.hashsalt": "method", "mathtext.fontset": "dejavusans", "text.color": "#1d2430"}
figure = Figure(figsize=(10, 6.4))
axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1000), ylim=(640, 0))  # places are counted from the upper left corner
axes.axis("off")


def text(x, y, words, size=9.0, ha="center", **style):
    axes.text(x, y, words, fontsize=size, ha=ha, va="center", zorder=6, **style)


def frame(x, y, width, height, face, edge="none", radius=10, **style):
    shape = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, fc=face, ec=edge, **style))


def box(x, y, words, width, height=34, size=8.5, color=LINE):
    frame(x - width / 2, y - height / 2, width, height, "#f4f6fa", color, radius=5, zorder=4)
    text(x, y, words, size)


def node(x, y, words, color, radius=13, size=11.0):
    axes.add_patch(Circle((x, y), radius, fc="white", ec=color, lw=2, zorder=4))
    text(x, y, words, size, color=color)


def flow(color, *points):
    """An arrow along these points; sums are thicker, so that they are told from spikes without colours."""
    style = {"color": color, "lw": 3.0 if color == SUMS else 1.8, "zorder": 3}
    head = {"arrowstyle": "-|>,head_length=5,head_width=2.8", "shrinkA": 0, "shrinkB": 0, "joinstyle": "miter"}
    axes.plot(*zip(*points[:-1], strict=True), **style)
    axes.add_patch(FancyArrowPatch(*points[-2:], capstyle="butt", **head, **style))


# the network
aap, trunk, loss = 112, 214, 163
frame(1, 1, 998, 638, "white", LINE, radius=14, zorder=-1)
text(24, 24, "Training with the Auxiliary Accumulation Pathway", 12, **BOLD)
frame(184, 46, 690, 104, "#fdf3ec", SUMS, linestyle=(0, (5, 3)), linewidth=1.2)
text(200, 63, "auxiliary accumulation pathway (AAP)", color=SUMS, **BOLD)
text(858, 63, "trained beside it, then taken off, or kept (DSNN)", color=SUMS, ha="right")
text(24, 257, "full-spike network (FSNN)", color=SPIKES, **BOLD)
text(24, 274, "what is left after training", color=SPIKES, ha="left")
text(63, trunk, "image or\nevent frames")
flow(VALUES, (106, trunk), (122, trunk))
box(148, trunk, "conv\nBN\nneuron", 52, 50, 8)
flow(SPIKES, (174, trunk), (246, trunk))
flow(SPIKES, (204, trunk), (204, aap), (263, aap))
text(204, trunk + 14, "$o_0$")
text(236, aap - 13, "$a_0 = o_0$", 8.5)
for x, number in ((276, "1"), (416, "2"), (616, "L")):
    box(x, trunk, f"block ${number}$", 60, 40, 9.5)
    flow(SPIKES, (x, trunk - 20), (x, aap + 14))
    text(x + 13, 172, f"$s_{number}$")
    node(x, aap, "+", SUMS)
for y, half, color, name, down in ((trunk, 30, SPIKES, "o", -1), (aap, 13, SUMS, "a", 1)):
    for start, end in ((276 + half, 416 - half), (416 + half, 500), (534, 616 - half), (616 + half, 694)):
        flow(color, (start, y), (end, y))
    for x, number in ((346, "1"), (473, "2"), (666, "L")):
        text(x, y - 13, f"${name}_{number}$")
    text(516, y, "…", 13, color=color)
    box(733, y, "mean over\nspace, time", 78, 36, 8)
    flow(VALUES, (772, y), (796, y))
    box(826, y, "linear", 60, 30)
    flow(VALUES, (856, y), (889, y))
    node(907, y, "CE", VALUES, 17, 9)
    flow(VALUES, (907, y + 17 * down), (907, loss - 11 * down))
axes.plot((826, 826), (128, 198), color=VALUES, lw=1, ls=(0, (1, 2.5)))
text(820, 176, "same weights", 7.5, color=SOFT, ha="right")
node(907, loss, "+", VALUES, 11)
flow(VALUES, (918, loss), (944, loss))
text(949, loss, "loss", **BOLD)
text(692, 258, "❸ loss = CE(FSNN) + CE(AAP)", 10.5, ha="left")

# one block
aap, branch, shortcut = 386, 458, 528
axes.add_patch(Polygon(((387, 235), (445, 235), (968, 307), (32, 307)), fc="#eef5fa", zorder=0.5))
frame(24, 306, 952, 290, "#eef5fa", zorder=0.5)
text(40, 324, "block $l$, and what the pathway adds", **BOLD)
for x, y, words in ((62, aap, "$a_{l-1}$"), (932, aap, "$a_l$"), (62, branch, "$o_{l-1}$"), (932, branch, "$o_l$")):
    text(x, y, words, 12)
for start, end in ((86, 296), (340, 651), (677, 908)):
    flow(SUMS, (start, aap), (end, aap))
box(318, aap, "$P_l$", 44, size=11, color=SUMS)
text(318, aap - 30, "identity, or where the shape changes: [depthwise 3x3,] 1x1, BN, ReLU", 8, color=SOFT)
node(664, aap, "+", SUMS)
text(708, aap - 24, r"❷ $a_l = P_l(a_{l-1}) + s_l$", 10.5, ha="left")
for x in (221, 471):
    flow(SPIKES, (86 if x == 221 else 367, branch), (x - 50, branch))
    flow(VALUES, (x, branch), (x + 21, branch))
    flow(VALUES, (x + 61, branch), (x + 84, branch))
    for place, words, width in ((x - 25, "conv", 50), (x + 41, "BN", 40), (x + 115, "neuron", 62)):
        box(place, branch, words, width)
flow(SPIKES, (617, branch), (735, branch))
flow(SPIKES, (664, branch), (664, aap + 14))
flow(SPIKES, (120, branch), (120, shortcut), (754, shortcut), (754, branch + 20))
flow(SPIKES, (772, branch), (908, branch))
text(700, branch + 14, "$s_l$", 11)
box(391, shortcut, "where the shape changes: conv 1x1, BN, neuron", 290, 28, 8)
node(754, branch, "$g$", SPIKES, 18, 13)
text(776, branch + 32, "❶ $o_l = g(s_l, o_{l-1})$", 10.5, ha="left")
text(40, 574, "Boolean joins $g$, on 0 and 1:", **BOLD)
joins = r"$\bf{OR}$   $s + o - s\cdot o$        $\bf{IAND}$   $o\cdot(1 - s)$        $\bf{AND}$   $s\cdot o$"
text(246, 574, rf"{joins}        $\bf{{XOR}}$   $o\cdot(1 - s) + s\cdot(1 - o)$", ha="left")
for x, color, words in ((40, SPIKES, "spikes, 0 or 1"), (200, SUMS, "sums of spikes"), (360, VALUES, "other values")):
    flow(color, (x, 618), (x + 34, 618))
    text(x + 42, 618, words, color=SOFT, ha="left")

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "figs"
figure.savefig(folder / "method.svg", metadata={"Date": None, "Creator": None}, transparent=True)
figure.savefig(folder / "method.png", dpi=200, transparent=True)

"""Pictures of runs and of spikes.

    python -m full_spike.utils.plots RUN

draws the learning curves and firing rates of a run into its folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from full_spike.utils.errors import UserError, run_command, warn
from full_spike.utils.files import write_picture
from full_spike.utils.log import METRICS, read_metrics
from full_spike.utils.options import Parser

if TYPE_CHECKING:  # numpy and matplotlib are imported where they are used, so that --help is quick
    import numpy as np
    from matplotlib.figure import Figure

    from full_spike.utils.measure.spikes import LayerSpikes

READOUTS = {"fsnn": "FSNN (pathway detached)", "aap": "pathway alone", "sum": "DSNN (sum of both)", "output": "network"}
# of Okabe and Ito, told apart without red and green
BLUE, VERMILION = "#0072b2", "#d55e00"
COLOURS = (BLUE, VERMILION, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="python -m full_spike.utils.plots")
    parser.add_argument("folder", type=Path, help="the run's folder, the one with metrics.jsonl")
    return parser.parse_args(argv)


def scored_epochs(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's metrics.jsonl with the loss and the scores of an epoch; none if there is no such file."""
    entries = read_metrics(folder, warn) if (folder / METRICS).exists() else []
    return [entry for entry in entries if {"train_loss", "train", "test"} <= set(entry)]


def new_figure(width: float, height: float) -> Figure:
    """In inches. No pyplot: it would look for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _tidy(axes: Any, **options: Any) -> None:
    axes.set(**options)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def _over_epochs(axes: Any, *, log: bool = False, **options: Any) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    _tidy(axes, xlabel="epoch", **options)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")


def learning_curves(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and top-1 accuracy of every readout, training and test, of `scored_epochs`."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    numbers = [entry["epoch"] + 1 for entry in epochs]
    left.plot(numbers, [entry["train_loss"] for entry in epochs], color="black", label="training objective")
    for colour, name in zip(COLOURS, epochs[0]["test"], strict=False):
        label = READOUTS.get(name, name)
        left.plot(numbers, [e["test"][name]["loss"] for e in epochs], color=colour, label=f"test, {label}")
        right.plot(numbers, [e["train"][name]["acc1"] for e in epochs], color=colour, alpha=0.4, linestyle="--")
        right.plot(numbers, [e["test"][name]["acc1"] for e in epochs], color=colour, label=f"test, {label}")
    right.plot([], [], color="grey", alpha=0.6, linestyle="--", label="training, same colours")
    _over_epochs(left, ylabel="cross entropy", log=True)
    _over_epochs(right, ylabel="top-1 accuracy, %")
    for axes in (left, right):
        axes.legend(fontsize=8, frameon=False)
    return figure


def compared_curves(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Figure:
    """Training objective and test accuracy (first readout) of several runs: their titles and `scored_epochs`."""
    figure = new_figure(10, 4 + 0.2 * len(runs))
    left, right = figure.subplots(1, 2)
    for i, (title, epochs) in enumerate(runs):
        style = {"color": COLOURS[i % len(COLOURS)], "label": title.replace("$", r"\$")}
        numbers = [entry["epoch"] + 1 for entry in epochs]
        left.plot(numbers, [entry["train_loss"] for entry in epochs], **style)
        right.plot(numbers, [next(iter(entry["test"].values()))["acc1"] for entry in epochs], **style)
    _over_epochs(left, ylabel="training objective", log=True)
    _over_epochs(right, ylabel="test top-1 accuracy of the first readout, %")
    handles, titles = left.get_legend_handles_labels()  # below both: titles may be wider than the axes
    figure.legend(handles, titles, fontsize=8, frameon=False, loc="outside lower center")
    return figure


def firing_rates(epochs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Spikes per neuron and time step of every layer: after the last epoch, and over all; None without any."""
    from matplotlib.ticker import MaxNLocator

    epochs = [entry for entry in epochs if entry.get("firing_rate")]
    if not epochs:
        return None
    layers = list(epochs[-1]["firing_rate"])
    table = [[100 * entry["firing_rate"].get(layer, 0.0) for entry in epochs] for layer in layers]
    figure = new_figure(10, 1.2 + 0.2 * len(layers))
    bars, over = figure.subplots(1, 2, sharey=True)
    drawn = bars.barh(range(len(layers)), [row[-1] for row in table], color=BLUE)
    bars.bar_label(drawn, fmt="%.1f", padding=2, fontsize=7)
    bars.set_yticks(range(len(layers)), layers, fontsize=7)
    bars.set_ylim(len(layers) - 0.5, -0.5)  # first to last, from the top
    _tidy(bars, xlabel="firing rate after the last epoch, %")
    bars.margins(x=0.08)
    extent = (epochs[0]["epoch"] + 0.5, epochs[-1]["epoch"] + 1.5, len(layers) - 0.5, -0.5)
    image = over.imshow(table, aspect="auto", cmap="cividis", vmin=0, extent=extent, interpolation="nearest")
    over.set(xlabel="epoch")
    over.xaxis.set_major_locator(MaxNLocator(integer=True))
    over.tick_params(axis="y", labelleft=False, left=False)
    figure.colorbar(image, ax=over, label="firing rate, %", aspect=40)
    return figure


def energy(networks: Sequence[Mapping[str, Any]], pj: Mapping[str, float]) -> Figure:
    """Energy of every layer, ACs and MACs.

    Args:
        networks: as in synops.json.
        pj: picojoules of an `ac` and a `mac`.
    """
    shown = [[layer for layer in network["layers"] if layer["ac"] or layer["mac"]] for network in networks]
    rows = max(map(len, shown))
    figure = new_figure(4.6 * len(networks), 1.4 + 0.17 * rows)
    for axes, network, layers in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, shown, strict=True):
        start = [0.0] * len(layers)
        for kind, colour in (("ac", BLUE), ("mac", VERMILION)):
            share = [layer[kind] * pj[kind] * 1e-9 for layer in layers]
            axes.barh(range(len(layers)), share, left=start, color=colour, label=kind.upper())
            start = share
        axes.set_yticks(range(len(layers)), [layer["name"] for layer in layers], fontsize=6)
        axes.set_ylim(rows - 0.4, -0.6)
        _tidy(axes, title=f"{network['network']}: {network['energy_mj']:.3g} mJ", xlabel="mJ per image")
        axes.title.set_fontsize(9)
        axes.ticklabel_format(axis="x", scilimits=(-2, 3))
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def spikes(layers: Sequence[LayerSpikes], title: str, image: np.ndarray | None = None) -> Figure:
    """A raster of some neurons of every layer, first to last from the top, beside the layers' firing rates over time.

    Args:
        layers: layer i lies between i and i + 1, its neurons evenly between these.
        image: what they fired at, [H, W, 3], uint8.
    """
    import numpy as np

    T, count = len(layers[0].rates), len(layers)
    figure = new_figure(11 if image is None else 14, 1.6 + 0.42 * count)
    shown, raster, rates = figure.subplots(1, 3, width_ratios=(0.01 if image is None else 2, 3, 2))
    shown.axis("off")
    if image is not None:
        shown.imshow(image)
    for i, layer in enumerate(layers):
        steps, neurons = np.nonzero(layer.spikes)
        y = i + (neurons + 0.5) / len(layer.chosen)
        # two colours in turn show where a layer ends
        raster.hlines(y, steps + 0.7, steps + 1.3, color="black" if i % 2 else BLUE, linewidth=1.2)
        raster.axhline(i, color="grey", linewidth=0.4)
    labels = [f"{layer.name}\n{len(layer.chosen)} of {layer.neurons:,}" for layer in layers]
    raster.set_yticks(np.arange(count) + 0.5, labels, fontsize=7)
    raster.set(xlim=(0.5, T + 0.5), ylim=(count, 0), xlabel="time step", title="spikes of some neurons of each layer")
    table = np.stack([100 * layer.rates for layer in layers])
    drawn = rates.imshow(table, aspect="auto", extent=(0.5, T + 0.5, count, 0), cmap="cividis", vmin=0.0)
    for i, row in enumerate(table):
        rates.text(1.01, i + 0.5, f"{row.mean():.1f} %", transform=rates.get_yaxis_transform(), va="center", fontsize=7)
    rates.set(yticks=[], xlabel="time step", title="firing rate of each layer, and its mean")
    figure.colorbar(drawn, ax=rates, label="spikes per neuron, %", pad=0.1, aspect=40)
    for axes in (raster, rates):
        axes.set_xticks(range(1, T + 1, -(-T // 8)))
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    folder = parse(argv).folder
    if not (folder / METRICS).exists():
        raise UserError(f"there is no {folder / METRICS}: name the folder of a run")
    epochs = scored_epochs(folder)
    if not epochs:
        raise UserError(f"{folder / METRICS} holds no epoch yet: wait for the first one")
    for name, figure in (("learning_curves", learning_curves(epochs)), ("firing_rates", firing_rates(epochs))):
        if figure is not None:
            write_picture(folder / f"{name}.png", figure)
            print(f"wrote {folder / name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Pictures of a run: learning curves and firing rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from full_spike.utils.draw.backend import pyplot

NAMES = {"fsnn": "FSNN (pathway detached)", "aap": "pathway alone", "sum": "DSNN (sum of both)", "output": "network"}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scores(value: Any, *names: str) -> dict[str, dict[str, float]]:
    """Scores by readout, of the readouts that have a number under each of these names."""
    scores = value if isinstance(value, dict) else {}
    whole = {readout: s for readout, s in scores.items() if isinstance(s, dict)}
    return {readout: s for readout, s in whole.items() if all(_number(s.get(name)) for name in names)}


def drawable(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a run that hold all of what `learning_curves` draws, for the same readouts as the first of them.

    Each has `epoch`, `train_loss`, and by readout `train` (top-1 accuracy) and `test` (loss and top-1 accuracy).
    """
    found: list[dict[str, Any]] = []
    for entry in entries:
        train, test = _scores(entry.get("train"), "acc1"), _scores(entry.get("test"), "loss", "acc1")
        same = not found or set(test) == set(found[0]["test"])
        if test and set(test) <= set(train) and same and _number(entry.get("train_loss")):
            found.append({**entry, "train": train, "test": test})
    return found


def rates_of(entry: dict[str, Any]) -> dict[str, float]:
    """The firing rates of an entry by layer; empty if it holds none."""
    rates = entry.get("firing_rate")
    return {name: rate for name, rate in rates.items() if _number(rate)} if isinstance(rates, dict) else {}


def learning_curves(entries: list[dict[str, Any]], path: Path) -> None:
    """Loss and top-1 accuracy over epochs, training and test, every readout, of entries that are `drawable`."""
    plt = pyplot()
    epochs = [entry["epoch"] + 1 for entry in entries]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(epochs, [entry["train_loss"] for entry in entries], color="black", label="training objective")
    for i, name in enumerate(entries[0]["test"]):
        color = f"C{i}"
        label = NAMES.get(name, name)
        left.plot(epochs, [e["test"][name]["loss"] for e in entries], color=color, label=f"test, {label}")
        right.plot(epochs, [e["test"][name]["acc1"] for e in entries], color=color, label=f"test, {label}")
        right.plot(epochs, [e["train"][name]["acc1"] for e in entries], color=color, alpha=0.4, linestyle="--")
    right.plot([], [], color="grey", alpha=0.6, linestyle="--", label="training, same colours")
    left.set(xlabel="epoch", ylabel="cross entropy", yscale="log")
    right.set(xlabel="epoch", ylabel="top-1 accuracy, %", ylim=(None, 100.5))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def firing_rates(rates: dict[str, float], path: Path) -> None:
    """Spikes per neuron and time step of every neuron layer, first to last."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.24 * len(rates)), layout="constrained")
    bars = axes.barh(list(rates), [100.0 * rate for rate in rates.values()], color="C0")
    axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axes.set(xlabel="firing rate, % of neurons and time steps (test set)")
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(x=0.08, y=0.01)
    axes.invert_yaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)

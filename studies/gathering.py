"""From the folders of a study's runs to its CSV files: one line a run, one an epoch, one a block."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from full_spike.models import create_model, detach_aap
from full_spike.utils.checkpoints.weights import read_weights
from full_spike.utils.files import read_text, write_file
from full_spike.utils.log import read_metrics, training_seconds
from full_spike.utils.runtime.plain_yaml import read_mapping

from studies.grid import AFTER, Planned
from studies.running import LATEST, trained

RESULTS = Path(__file__).parent / "results"
LARGEST = 1 << 24  # bytes of a file of JSON
TEXTS = (
    "row",
    "title",
    "side",
    "device",
    "machine",
    "torch",
    "commit",
    "command",
    "when",
    "block",
)  # columns; all others are of numbers
READOUTS = ("fsnn", "aap", "sum", "output")


def _parameters(folder: Path) -> tuple[int, int]:
    """Of the network as it was trained, and without its pathway."""
    config, _ = read_weights(folder / LATEST)
    with torch.device("meta"):
        model = create_model(**(config or {}))
        alone = model if getattr(model, "aap", None) is None else detach_aap(model)
    both = [sum(p.numel() for p in network.parameters()) for network in (model, alone)]
    return both[0], both[1]


def _energy(folder: Path) -> dict[str, Any]:
    """ACs, MACs and mJ of one image, by the exact count of the network that was trained and without its pathway."""
    path = folder / AFTER["synops"]
    if not path.exists():
        return {}
    first, *others = json.loads(read_text(path, LARGEST))["networks"]
    networks = {"trained": first, "detached": next((n for n in others if n["network"].endswith("detached")), first)}
    return {
        f"{which}_{what}": value
        for which, network in networks.items()
        for what, value in (
            ("ac", network["totals"]["ac"]),
            ("mac", network["totals"]["mac"]),
            ("mj", network["energy_mj"]),
        )
    }


def _integers(folder: Path) -> dict[str, float]:
    """Top-1 in percent of the exported integers, and of the network that they were made of, on the same images."""
    found = {}
    for step in ("integer8", "integer4"):
        path = folder / AFTER[step]
        if path.exists():
            told = json.loads(read_text(path, LARGEST))
            found[step] = 100 * told["right_runtime"] / told["images"]
            found[f"{step}_floats"] = 100 * told["right_original"] / told["images"]
    return found


def line(run: Planned, folder: Path) -> dict[str, Any]:
    """A run's line in the CSV: what it was, where and when it ran, and what it came to."""
    entries = read_metrics(folder)
    config = read_mapping(folder / "config.yaml", "the configuration")
    versions = config.get("versions", {})
    first = next(iter(entries[-1]["test"]))
    best = max(entries, key=lambda entry: entry["test"][first]["acc1"])
    trained_parameters, alone = _parameters(folder)
    last = entries[-1]["test"]
    return {
        "row": run.row,
        "seed": run.seed,
        "epochs": len(entries),
        "parameters": trained_parameters,
        "parameters_detached": alone,
        **{f"final_{name}": last[name]["acc1"] for name in READOUTS if name in last},
        "best": best["test"][first]["acc1"],
        "best_epoch": best["epoch"] + 1,
        "train_loss": entries[-1]["train_loss"],
        "train_acc1": entries[-1]["train"][first]["acc1"],
        **_energy(folder),
        **_integers(folder),
        "seconds": round(training_seconds(entries) or 0.0, 1) or None,
        "machine": versions.get("machine"),
        "torch": versions.get("torch"),
        "commit": versions.get("commit"),
        "command": run.command(),
    }


def epochs(run: Planned, folder: Path) -> list[dict[str, Any]]:
    """A line for each epoch of a run."""
    return [
        {
            "row": run.row,
            "seed": run.seed,
            "epoch": entry["epoch"] + 1,
            "train_loss": round(entry["train_loss"], 6),
            **{f"test_{name}": score["acc1"] for name, score in entry["test"].items()},
        }
        for entry in read_metrics(folder)
    ]


def blocks(run: Planned, folder: Path) -> list[dict[str, Any]]:
    """A line for each block of a run, before training and after it; none where that was not asked for."""
    path = folder / AFTER["blocks"]
    if not path.exists():
        return []
    return [{"row": run.row, "seed": run.seed, **entry} for entry in json.loads(read_text(path, LARGEST))]


def write_csv(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """A CSV with a column for every name that any line has; nothing is written for no lines."""
    if not lines:
        return
    columns = list(dict.fromkeys(name for entry in sorted(lines, key=len, reverse=True) for name in entry))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text.getvalue().encode())


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The lines of a CSV, numbers as such; None where there is nothing. No lines where there is no file."""
    if not path.exists():
        return []
    return [
        {name: _value(name, text) for name, text in entry.items()}
        for entry in csv.DictReader(io.StringIO(path.read_text()))
    ]


def _value(name: str, text: str) -> Any:
    for kind in () if name in TEXTS else (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def gather(planned: Iterable[Planned], runs: Path, results: Path = RESULTS) -> int:
    """Write a study's CSV files of those of its runs that have ended; returns how many these are.

    Runs that are not in `runs` keep the lines that they have: a grid may be trained on several machines.
    """
    planned = list(planned)
    name = planned[0].study.name
    places = [(run, runs / name / run.name) for run in planned]
    found = [(run, folder) for run, folder in places if trained(run, folder)]
    have = {(run.row, run.seed) for run, _ in found}
    order = {(run.row, run.seed): i for i, run in enumerate(planned)}
    tables = {
        f"{name}.csv": [line(run, folder) for run, folder in found],
        f"{name}_epochs.csv": [entry for run, folder in found for entry in epochs(run, folder)],
        f"{name}_blocks.csv": [entry for run, folder in found for entry in blocks(run, folder)],
    }
    for file, lines in tables.items():
        path = results / file
        kept = [e for e in read_csv(path) if (e["row"], e["seed"]) in order and (e["row"], e["seed"]) not in have]
        write_csv(path, sorted([*kept, *lines], key=lambda e: order[e["row"], e["seed"]]))
    return len(found)

"""From the folders of a study's runs to its CSV files: a line for each run, epoch and block."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from full_spike.models import create_model, detach_aap
from full_spike.utils.checkpoint import load
from full_spike.utils.errors import UserError
from full_spike.utils.files import write_file
from full_spike.utils.log import read_metrics, training_seconds
from studies.grid import AFTER, Run, Study
from studies.running import LATEST, trained

RESULTS = Path(__file__).parent / "results"
TEXTS = {"row", "title", "side", "device", "machine", "torch", "commit", "command", "when", "block"}  # not numbers


def read_config(run: Path) -> dict[str, Any]:
    """A run's config.yaml: its options, and `versions`."""
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"there is no {path}: name the folder of a run")
    return yaml.safe_load(path.read_text())


def _parameters(folder: Path) -> dict[str, int]:
    with torch.device("meta"):
        model = create_model(**load(folder / LATEST)["config"])
        alone = model if getattr(model, "aap", None) is None else detach_aap(model)
    names = {"parameters": model, "parameters_detached": alone}
    return {name: sum(p.numel() for p in network.parameters()) for name, network in names.items()}


def _energy(folder: Path) -> dict[str, float]:
    """ACs, MACs and mJ an image, of the network as trained and without its pathway."""
    path = folder / AFTER["synops"]
    if not path.exists():
        return {}
    first, *others = json.loads(path.read_text())["networks"]
    detached = next((network for network in others if network["network"].endswith("detached")), first)
    found = {}
    for which, network in (("trained", first), ("detached", detached)):
        found |= {f"{which}_ac": network["totals"]["ac"], f"{which}_mac": network["totals"]["mac"]}
        found[f"{which}_mj"] = network["energy_mj"]
    return found


def _integers(folder: Path) -> dict[str, float]:
    """Top-1 in percent of the exported integers, and of the floats they were made from, on the same images."""
    found = {}
    for step in ("integer8", "integer4"):
        if (path := folder / AFTER[step]).exists():
            scores = json.loads(path.read_text())
            found[step] = 100 * scores["right_runtime"] / scores["images"]
            found[f"{step}_floats"] = 100 * scores["right_original"] / scores["images"]
    return found


def run_line(run: Run, folder: Path) -> dict[str, Any]:
    """A run's line: what it was, where it ran, and what it reached."""
    entries = read_metrics(folder)
    versions = read_config(folder)["versions"]
    last = entries[-1]
    first = next(iter(last["test"]))
    best = max(entries, key=lambda entry: entry["test"][first]["acc1"])
    return {
        "row": run.row,
        "seed": run.seed,
        "epochs": len(entries),
        **_parameters(folder),
        **{f"final_{readout}": scores["acc1"] for readout, scores in last["test"].items()},
        "best": best["test"][first]["acc1"],
        "best_epoch": best["epoch"] + 1,
        "train_loss": last["train_loss"],
        "train_acc1": last["train"][first]["acc1"],
        **_energy(folder),
        **_integers(folder),
        "seconds": round(training_seconds(entries) or 0.0, 1) or None,
        **{name: versions.get(name) for name in ("machine", "torch", "commit")},
        "command": run.command(),
    }


def epoch_lines(run: Run, folder: Path) -> list[dict[str, Any]]:
    return [
        {"row": run.row, "seed": run.seed, "epoch": entry["epoch"] + 1, "train_loss": round(entry["train_loss"], 6)}
        | {f"test_{readout}": scores["acc1"] for readout, scores in entry["test"].items()}
        for entry in read_metrics(folder)
    ]


def block_lines(run: Run, folder: Path) -> list[dict[str, Any]]:
    path = folder / AFTER["blocks"]
    return [{"row": run.row, "seed": run.seed, **e} for e in json.loads(path.read_text())] if path.exists() else []


def write_csv(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """A column for every name in any line; no file for no lines."""
    if lines:
        columns = dict.fromkeys(name for line in sorted(lines, key=len, reverse=True) for name in line)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text.getvalue().encode())


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The lines of a CSV, numbers as such and None for empty cells; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: _value(name, text) for name, text in line.items()} for line in csv.DictReader(file)]


def _value(name: str, text: str) -> Any:
    if name in TEXTS or not text:
        return text or None
    try:
        return int(text)
    except ValueError:
        return float(text)


def gather(study: Study, runs: Path, results: Path = RESULTS) -> int:
    """Write the CSV files of a study; returns how many of its runs in `runs` have ended.

    Lines of runs that are not in `runs` stay: a grid may be trained on several machines.
    """
    order = {(run.row, run.seed): i for i, run in enumerate(study.runs())}
    folders = [(run, runs / study.name / run.name) for run in study.runs()]
    ended = [(run, folder) for run, folder in folders if trained(run, folder)]
    new = {
        f"{study.name}.csv": [run_line(*one) for one in ended],
        f"{study.name}_epochs.csv": [line for one in ended for line in epoch_lines(*one)],
        f"{study.name}_blocks.csv": [line for one in ended for line in block_lines(*one)],
    }
    done = {(run.row, run.seed) for run, _ in ended}
    for file, lines in new.items():
        kept = [line for line in read_csv(results / file) if (line["row"], line["seed"]) in order.keys() - done]
        write_csv(results / file, sorted([*kept, *lines], key=lambda line: order[line["row"], line["seed"]]))
    return len(ended)

"""From the folders of a study's runs to its CSV files: a line for each run, epoch and block."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from full_spike.models import create_model, detach_aap
from full_spike.utils.checkpoint import LATEST, load
from full_spike.utils.files import replacing
from full_spike.utils.log import read_metrics, training_seconds
from full_spike.utils.report import read_config
from studies.grid import AFTER, Run, Study

RESULTS = Path(__file__).parent / "results"
TEXTS = {"row", "title", "side", "device", "machine", "torch", "commit", "command", "when", "block"}  # not numbers


def run_line(run: Run, folder: Path) -> dict[str, Any]:
    """A run's line: what it was, where it ran, and what it reached, from the files in its folder."""
    entries, versions = read_metrics(folder), read_config(folder)["versions"]
    last = entries[-1]
    first = next(iter(last["test"]))
    best = max(entries, key=lambda entry: entry["test"][first]["acc1"])
    with torch.device("meta"):
        model = create_model(**load(folder / LATEST)["config"])
        trunk = model if getattr(model, "aap", None) is None else detach_aap(model)
    line = {
        "row": run.row,
        "seed": run.seed,
        "epochs": len(entries),
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_detached": sum(p.numel() for p in trunk.parameters()),
        **{f"final_{readout}": scores["acc1"] for readout, scores in last["test"].items()},
        "best": best["test"][first]["acc1"],
        "best_epoch": best["epoch"] + 1,
        "train_loss": last["train_loss"],
        "train_acc1": last["train"][first]["acc1"],
    }
    if (path := folder / AFTER["synops"]).exists():  # of an image, as trained and without the pathway
        networks = json.loads(path.read_text())["networks"]
        detached = next((network for network in networks if network["network"].endswith("detached")), networks[0])
        for which, network in (("trained", networks[0]), ("detached", detached)):
            line |= {f"{which}_ac": network["totals"]["ac"], f"{which}_mac": network["totals"]["mac"]}
            line[f"{which}_mj"] = network["energy_mj"]
    for step in ("integer8", "integer4"):  # top-1 of the integers, and of the floats that they were made from
        if (path := folder / AFTER[step]).exists():
            scores = json.loads(path.read_text())
            line[step] = 100 * scores["right_runtime"] / scores["images"]
            line[f"{step}_floats"] = 100 * scores["right_original"] / scores["images"]
    seconds = training_seconds(entries)
    line["seconds"] = seconds and round(seconds, 1)
    return line | {name: versions.get(name) for name in ("machine", "torch", "commit")} | {"command": run.command()}


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
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The lines of a CSV, numbers as such and None for empty cells; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: _value(name, text) for name, text in line.items()} for line in csv.DictReader(file)]


def _value(name: str, text: str) -> Any:
    if name in TEXTS or not text:
        return text or None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def gather(study: Study, runs: Path, results: Path = RESULTS) -> int:
    """Write the CSV files of a study; returns how many of its runs in `runs` have ended.

    Lines of runs that are not in `runs` stay: a grid may be trained on several machines.
    """
    order = {(run.row, run.seed): i for i, run in enumerate(study.runs())}
    ended = [run for run in study.runs() if run.trained(runs)]
    new = {
        "": [run_line(run, run.folder(runs)) for run in ended],
        "_epochs": [line for run in ended for line in epoch_lines(run, run.folder(runs))],
        "_blocks": [line for run in ended for line in block_lines(run, run.folder(runs))],
    }
    left = order.keys() - {(run.row, run.seed) for run in ended}
    for part, lines in new.items():
        path = results / f"{study.name}{part}.csv"
        lines += [line for line in read_csv(path) if (line["row"], line["seed"]) in left]
        write_csv(path, sorted(lines, key=lambda line: order[line["row"], line["seed"]]))
    return len(ended)

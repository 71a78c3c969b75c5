"""Weights that come along: made of a run's folder, measured, and described."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from full_spike.utils import commands
from full_spike.utils.checkpoints.weights import read_weights
from full_spike.utils.trained import batches
from full_spike.utils.cli.inspection import load_data
from full_spike.utils.errors import UserError
from full_spike.utils.files import read_text, replacing, write_file
from full_spike.utils.measure.certificate import certify
from full_spike.utils.measure.synops import write_report

from full_spike import models
from studies.cards import Measured, card, integer_card
from studies.gathering import write_csv
from studies.provenance import Stage, stages

BATCH = 64
SCORE = re.compile(r"(?m)^(\w+) +([\d.]+) +[\d.]+ +[\d.]+ +(\d+)$")  # of a readout, as --test-only prints it


def said(function: Callable[..., Any], *args: Any, **options: Any) -> str:
    """What a function prints.

    Raises:
        UserError: it is a command, and ended otherwise than well.
    """
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = function(*args, **options)
    if isinstance(status, int) and status:
        raise UserError(f"{' '.join(map(str, *args))} ended with status {status}: its error says why")
    return out.getvalue().strip()


def networks(run: Stage) -> dict[str, Any]:
    """The run's network by its name, and without its pathway, if it has one."""
    config, state = read_weights(run.checkpoint)
    model: Any = models.create_model(**(config or {}))
    model.load_state_dict(state)
    found = {model.config["model"]: model.eval()}
    if getattr(model, "aap", None) is not None:
        alone: Any = models.detach_aap(model)
        found[alone.config["model"]] = alone.eval()
    return found


def ship(
    run: Path, name: str, output: Path, about_data: str, *, data_path: str | None = None, images: int | None = None
) -> Path:
    """Make a folder of weights; it appears whole or not at all.

    Args:
        run: the folder of a run that has ended.
        name: of the weights.
        output: where the folder of this name is made.
        about_data: what they were trained on, in words.
        data_path: where the data are, if not where the run found them.
        images: of the test set, to count and certify on; all by default.

    Returns:
        The folder.

    Raises:
        UserError: the run or its data are not what they should be, or something that is measured fails.
    """
    told = stages(run)
    last = told[-1]
    for stage in told:  # whatever cannot be told is said before hours of counting
        stage.told(), stage.command()
    data, _ = load_data(last.script, run / "config.yaml", data_path)
    if "mean" not in data.inputs:
        raise UserError(f"{run} was trained on frames of events: cards are of networks that read images")
    made = networks(last)
    trunk = list(made)[-1]  # what is left to be deployed
    with replacing(output / name) as folder, tempfile.TemporaryDirectory() as aside:
        folder.mkdir(parents=True)
        about = {"data_set": last.script.partition(".")[0], **data.about(), "recipe": last.data_options()}
        for model, network in made.items():
            models.save_pretrained(network, folder / model, about)
        tests = {model: _test(folder, name, model, last, data_path) for model in made}
        integers = f"{trunk}_integer"
        _export(folder, trunk, integers, last, data_path)
        loader = batches(data.test, data.collate, BATCH, images)
        first = next(iter(made.values()))
        print("counting", flush=True)
        report = said(write_report, first, loader, aside, syops=False, data=about_data)
        energy = report.rpartition("\nsaved ")[0]
        print("certifying", flush=True)
        certificates = {model: "\n".join(certify(network, loader).lines()) for model, network in made.items()}
        write_csv(folder / "log.csv", [line for i, stage in enumerate(told) for line in _log(i + 1, stage)])
        for model, network in made.items():
            measured = Measured(
                name, network, folder / model / "model.safetensors", tests[model], energy, certificates[model],
                about_data, told, f"{len(data.train):,} training and {len(data.test):,} test {data.unit}",
                tuple(data.classes), data.inputs, len(loader.dataset),
            )  # fmt: skip
            write_file(folder / model / "README.md", card(measured, others=[o for o in made if o != model]).encode())
            if model == trunk:
                comparison = json.loads(read_text(folder / integers / "comparison.json"))
                path = folder / integers / "integer.pth"
                write_file(folder / integers / "README.md", integer_card(measured, path, comparison).encode())
    print(f"wrote {output / name}")
    return output / name


def _test(folder: Path, name: str, model: str, run: Stage, data_path: str | None) -> str:
    """What the command on the card prints, with the weights' name for the place where they lie now."""
    print(f"testing {model}", flush=True)
    where = ["--data-path", data_path or run.config.get("data_path")]
    words = ["test", run.script.partition(".")[0], "--resume", str(folder / model), "--device", "cpu"]
    text = said(commands.main, words + (where if where[1] else []))
    if not SCORE.search(text):
        raise UserError(f"{' '.join(words)} prints no accuracy: look at what it does print")
    return text.replace(str(folder / model), f"{name}/{model}")


def _export(folder: Path, trunk: str, integers: str, run: Stage, data_path: str | None) -> None:
    print(f"exporting {trunk} to integers", flush=True)
    where = data_path or run.config.get("data_path")
    words = ["export", "--checkpoint", str(folder / trunk), "--to", "integer", "--output", str(folder / integers)]
    words += ["--data", where] if where else []
    said(commands.main, words)


def _log(number: int, stage: Stage) -> list[dict[str, Any]]:
    """A line for each epoch of a run."""
    return [
        {
            "run": number,
            "epoch": entry["epoch"] + 1,
            "lr": entry["lr"],
            "train_loss": round(entry["train_loss"], 4),
            **{f"train_{readout}": round(score["acc1"], 2) for readout, score in entry["train"].items()},
            **{f"test_{readout}": round(score["acc1"], 2) for readout, score in entry["test"].items()},
        }
        for entry in stage.entries
    ]

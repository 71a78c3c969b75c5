"""Where weights come from: the runs that made them, one after the other, and the command of each."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from full_spike.utils import checkpoint
from full_spike.utils.data.images.augment import AugmentOptions
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.log import read_metrics, training_seconds
from full_spike.utils.report import guess_script, read_config
from full_spike.utils.train.clock import in_words
from full_spike.utils.train.config import Recipe

from full_spike import models

# Options that a card tells first, in the order in which they matter; the others follow where they are not the defaults
TOLD = (
    "model", "T", "width", "stem", "connect_f", "neuron", "surrogate", "initial_checkpoint", "epochs", "batch_size",
    "optimizer", "lr", "weight_decay", "lr_scheduler", "warmup_epochs", "dataset", "image_size", "crop", "amp", "fused",
    "seed",
)  # fmt: skip
# Options that say where a run lies, on what machine, and what it prints
ELSEWHERE = {
    "output_dir", "device", "world_size", "dist_url", "dist_timeout", "print_freq", "workers", "cache_dataset", "tb",
    "download", "checkpoint_every",
}  # fmt: skip
NOT_TO_TEST = {field.name for field in dataclasses.fields(AugmentOptions)} | {"crop"}


@dataclass(frozen=True)
class Stage:
    """A run that made weights, or a part of them.

    file: its checkpoint whose weights are meant.
    epoch: how many it has trained.
    recipe: what its checkpoint keeps of its options and data.
    """

    folder: Path
    file: str
    config: dict[str, Any]
    script: str
    entries: list[dict[str, Any]]
    epoch: int
    recipe: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        return self.folder / self.file

    @property
    def versions(self) -> dict[str, Any]:
        return self.config.get("versions") or {}

    @property
    def time(self) -> str:
        """How long it trained, in words."""
        seconds = training_seconds(self.entries)
        return "not recorded" if seconds is None else f"{in_words(seconds)}, tests not counted"

    def data_options(self) -> dict[str, Any]:
        """What of its options the commands need to read the data as it did."""
        known = {field.name for field in dataclasses.fields(self.parser().defaults.data)} - NOT_TO_TEST
        return {name: value for name, value in self.recipe.items() if name in known and value is not None}

    def told(self) -> dict[str, Any]:
        """The options that a card tells."""
        given = self._given()
        found = _shown({name: self.config.get(name) for name in TOLD} | given)
        left_out = {
            "data_path",
            "name",
            *(name for name, v in found.items() if v in (None, False) and name not in given),
        }
        return {name: value for name, value in found.items() if name not in left_out}

    def _given(self) -> dict[str, Any]:
        """Those that are not the defaults, as a command gives them."""
        parser = self.parser()
        usual = {name: value for group in vars(parser.defaults).values() for name, value in vars(group).items()}
        given = {name: v for name, v in self.config.items() if name in usual.keys() - ELSEWHERE and v != usual[name]}
        given = {name: value for name, value in given.items() if value or usual[name]}

        def meant(options: dict[str, Any]) -> Any:
            parsed = parser.parse(_words(parser.flags(), options)).resolved()
            known = models.model_options(parsed.network.model)
            values = {name: known.get(name) if v is None else v for name, v in vars(parsed.network).items()}
            return dataclasses.replace(parsed, network=dataclasses.replace(parsed.network, **values))

        wanted = meant(given)
        for name in list(given):
            fewer = {other: value for other, value in given.items() if other != name}
            with contextlib.suppress(UsageError):  # some options need others
                if meant(fewer) == wanted:
                    given = fewer
        return given

    def parser(self) -> Any:
        return importlib.import_module(self.script).parser

    def command(self) -> str:
        """What starts it again."""
        return f"python -m {self.script} {shlex.join(_words(self.parser().flags(), _shown(self._given())))}"


def _shown(options: dict[str, Any]) -> dict[str, Any]:
    """Options without the places of one machine: a run's checkpoint lies below runs/, the data in FOLDER."""
    found = dict(options)
    if found.get("data_path"):
        found["data_path"] = "FOLDER"
    path = Path(found.get("initial_checkpoint") or "")
    if path.suffix:
        found["initial_checkpoint"] = str(Path("runs", *path.parts[-2:]))
    return found


def _words(flags: dict[str, tuple[str, ...]], options: dict[str, Any]) -> list[str]:
    """What is typed for options."""
    found = []
    for name, value in options.items():
        if isinstance(value, bool):
            found.append(flags[name][0] if value else f"--no-{flags[name][0][2:]}")
        else:
            found += [flags[name][0], ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return found


def stages(folder: Path, file: str = checkpoint.LATEST) -> list[Stage]:
    """The run in a folder up to one of its checkpoints, and before it those that it began with.

    Raises:
        UserError: it is no run's folder, or the checkpoint is not of the end of an epoch.
    """
    config = read_config(folder)
    script = guess_script(config)
    if script is None:
        raise UserError(f"{folder} does not say what trained it: name a run's folder")
    state = checkpoint.read(folder / file)
    if state["step"] or not state["epoch"]:
        raise UserError(f"{folder / file} stopped inside an epoch: go on with --resume auto until it ends")
    entries = [entry for entry in read_metrics(folder) if entry["epoch"] < state["epoch"]]
    # a run that was made longer later on has another config.yaml than these weights were trained by
    options = {field.name for field in dataclasses.fields(Recipe)} | {"batch_size"}
    config |= {name: value for name, value in state["recipe"].items() if name in options}
    stage = Stage(folder, file, config, script, entries, state["epoch"], state["recipe"])
    initial = config.get("initial_checkpoint")
    before = Path(initial) if initial else None
    if before is None or not (before.parent / "config.yaml").is_file():
        return [stage]
    if "epoch" not in checkpoint.load(before):  # weights alone do not say how far their run had come
        return [stage]
    return [*stages(before.parent, before.name), stage]

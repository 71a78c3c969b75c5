"""A run's folder: its name, what it may hold when a run begins, and the configuration that is kept in it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from full_spike.utils.checkpoints import checkpoint
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError
from full_spike.utils.files import write_file
from full_spike.utils.log import METRICS
from full_spike.utils.runtime.parser import to_yaml
from full_spike.utils.train.config import Config, RunOptions
from full_spike.utils.versions import commit, machine, versions

CONFIG = "config.yaml"
OVERWRITTEN = "overwritten"

# options of the network that stand in the name where they are not the script's defaults
_NAMED = ("neuron", "tau", "surrogate", "alpha", "stem", "width", "aux_head", "aap_pool")
# options of the recipe that the release's name has, or leaves out on purpose: a run may be made longer, and the
# published command has --amp
_RELEASED = {
    "epochs", "lr", "cos_lr_T", "lr_scheduler", "step_size", "gamma", "optimizer", "weight_decay", "amp", "amp_dtype",
}  # fmt: skip
_LONGEST = 200  # bytes of a name, of the 255 that file systems take


def run_name(
    config: Config,
    network: dict[str, Any],
    defaults: Config,
    known: dict[str, Any],
    prefix: str = "",
    of_data: Sequence[str] = (),
) -> str:
    """The folder's name: --name, or else the release's, and what else differs from the script's defaults.

    Args:
        network: the model's options.
        defaults: the script's.
        known: defaults of the model's options, in this script.
        prefix: which data.
        of_data: words for options of the data that are not the defaults.
    """
    if config.run.name is not None:
        return config.run.name
    name = "_".join([_released_name(config, network), *of_data])
    for option in _NAMED:
        if option in network and network[option] != known.get(option):
            name += f"_{option.replace('_', '')}{network[option]}"
    if config.recipe.cosine and config.recipe.lr_scheduler != "cosine":
        name += f"_{config.recipe.lr_scheduler}"
    for field in dataclasses.fields(config.recipe):
        value, usual = (getattr(recipe, field.name) for recipe in (config.recipe, defaults.recipe))
        if field.name not in _RELEASED and value != usual:
            name += f"_{field.name.replace('_', '')}{'' if value is True else _in_a_name(value)}"
    name = prefix + name
    if len(name.encode()) > _LONGEST:
        name = f"{name[: _LONGEST - 13]}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return name


def _in_a_name(value: Any) -> str:
    text = "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return re.sub(r"[^\w.+=-]", "-", text)


def _released_name(config: Config, network: dict[str, Any]) -> str:
    recipe = config.recipe
    name = f"{config.network.model}_b{config.data.batch_size}_lr{recipe.lr}_T{network.get('T', config.network.T)}"
    if network.get("zero_init_residual"):
        name += "_zi"
    if recipe.weight_decay:
        name += f"_wd{recipe.weight_decay}"
    name += f"_coslr{recipe.period}" if recipe.cosine else f"_{recipe.lr_scheduler}lr{recipe.step_size}_{recipe.gamma}"
    name += f"_{recipe.optimizer}"
    if network.get("connect_f"):
        name += f"_cnf_{network['connect_f']}"
    return name


def prepare(folder: Path, run: RunOptions, world: World) -> None:
    """Refuse to write over a run that is in the folder unless that is asked for.

    Raises:
        UsageError: it holds a run that is neither overwritten nor resumed.
    """
    with world.main_only("preparing the output folder") as main:
        if not main:
            return
        there = checkpoint.candidates(folder)
        if not there:
            return
        if run.overwrite:
            _set_aside(folder, [*there, folder / METRICS])
        elif not run.resume:
            raise UsageError(
                f"{folder} holds a run already ({there[0].name}): go on with --resume auto, "
                "begin anew with --overwrite, or choose another --output-dir"
            )
        elif run.resume != "auto" and not Path(run.resume).resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{folder} holds a run already ({there[0].name}), and --resume {run.resume} is of another one: "
                "choose another --output-dir"
            )


def _set_aside(folder: Path, files: list[Path]) -> None:
    """Move a run to a folder in its own, where it stays until the one that replaces it has saved."""
    aside = folder / OVERWRITTEN
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    for path in files:
        if path.exists():
            os.replace(path, aside / path.name)


def discard_overwritten(folder: Path) -> None:
    """Delete the run that was set aside, if there is one."""
    shutil.rmtree(folder / OVERWRITTEN, ignore_errors=True)


def keep_config(folder: Path, config: Config, world: World, script: str | None = None) -> None:
    """Write config.yaml: every option in effect, and what the run was made with, the script's name included.

    `--config` starts it again.
    """
    with world.main_only(f"writing {CONFIG}") as main:
        if main:
            about: dict[str, Any] = {"script": script} if script else {}
            about |= versions() | {"machine": machine(world.device, world.size)}
            about |= {"commit": found} if (found := commit()) else {}
            write_file(folder / CONFIG, to_yaml(config, about).encode())

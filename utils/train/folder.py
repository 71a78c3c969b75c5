"""A run's folder: its name, what it may hold when a run begins, and the configuration that is kept in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from utils.runtime.distributed import World
from utils.runtime.errors import UsageError
from utils.runtime.files import write_file
from utils.runtime.log import METRICS
from utils.runtime.parser import to_yaml
from utils.runtime.versions import commit, versions
from utils.train import checkpoint
from utils.train.config import Config, RunOptions

CONFIG = "config.yaml"
OVERWRITTEN = "overwritten"

# options of the network that stand in the name where they are not the script's defaults
_NAMED = ("neuron", "tau", "surrogate", "alpha", "stem", "width", "aux_head", "aap_pool")


def run_name(config: Config, network: dict[str, Any], defaults: dict[str, Any]) -> str:
    """The folder's name: the release's, and what else differs from the script's defaults.

    Args:
        network: the model's options.
        defaults: of these, in this script.
    """
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
    for option in _NAMED:
        if option in network and network[option] != defaults.get(option):
            name += f"_{option.replace('_', '')}{network[option]}"
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


def keep_config(folder: Path, config: Config, world: World) -> None:
    """Write config.yaml: every option in effect, and what the run was made with. `--config` starts it again."""
    with world.main_only(f"writing {CONFIG}") as main:
        if main:
            about: dict[str, Any] = versions()
            about |= {"commit": found} if (found := commit()) else {}
            write_file(folder / CONFIG, to_yaml(config, about).encode())

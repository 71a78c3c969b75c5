"""The runs that lie beside a run's folder, and in which options they differ from it.

`--resume auto` looks into the folder that the options name. If there is no run, it may be in another one: begun with
other options, or when names had fewer of them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from full_spike.utils.checkpoints import checkpoint
from full_spike.utils.errors import UserError
from full_spike.utils.train.config import Config
from full_spike.utils.train.folder import CONFIG

# options of the data that say how they are read and not what they are
_READING = {"workers", "cache_dataset", "download"}
# what may differ in a run that goes on
_ONWARD = {"epochs"}
MOST = 50  # folders that are looked at, the newest first
SHOWN = 3  # that are told of


@dataclass(frozen=True)
class Neighbour:
    """A run in another folder, with (there, here) by option for all that describes it and differs."""

    folder: Path
    named: bool  # by --name
    different: dict[str, tuple[Any, Any]]

    def in_words(self) -> str:
        parts = [
            f"{name} {_short(there)} there and {_short(here)} here" for name, (there, here) in self.different.items()
        ]
        more = [f"{len(parts) - 4} more"] if len(parts) > 4 else []
        return f"{self.folder} ({', '.join([*parts[:4], *more]) or 'the same options'})"


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _describing(config: Config) -> dict[str, Any]:
    """The options that make a run what it is, as plain values."""
    groups = (config.data, config.network, config.recipe)
    values = {name: value for group in groups for name, value in dataclasses.asdict(group).items()}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name not in _READING | _ONWARD
    }


def kept_options(folder: Path) -> dict[str, Any] | None:
    """The options in a run's config.yaml, or None where that cannot be read."""
    from full_spike.utils.runtime.plain_yaml import read_mapping

    try:
        return read_mapping(folder / CONFIG, "the configuration") or None
    except UserError:
        return None


def neighbours(folder: Path, config: Config) -> list[Neighbour]:
    """The runs beside a folder, those that differ least first.

    Args:
        config: what the command asks for, complete; what an older run does not know of counts as the same.
    """
    here = _describing(config)
    try:
        others = [path for path in folder.parent.iterdir() if path != folder and (path / CONFIG).is_file()]
        others.sort(key=lambda path: (path / CONFIG).stat().st_mtime, reverse=True)
    except OSError:  # no such folder, or one that is gone by now
        return []
    found = []
    for path in others[:MOST]:
        there = kept_options(path) if checkpoint.candidates(path) else None
        if there is not None:
            different = {
                name: (there[name], here[name]) for name in here if name in there and there[name] != here[name]
            }
            found.append(Neighbour(path, there.get("name") is not None, different))
    return sorted(found, key=lambda neighbour: len(neighbour.different))


def in_words(found: list[Neighbour]) -> str:
    """What lies beside it, for a line; nothing where there is nothing."""
    return f"; beside it: {'; '.join(one.in_words() for one in found[:SHOWN])}" if found else ""


def the_same_run(found: list[Neighbour], config: Config, *, testing: bool) -> Neighbour | None:
    """The one that a command means, if there is exactly one: with the same options, or, to test it, of the same network
    and data. Runs that were given names are meant by their names alone."""
    if config.run.name is not None:
        return None
    how_trained = (
        {field.name for field in dataclasses.fields(config.recipe)} | {"batch_size", "data_path"} if testing else set()
    )
    meant = [one for one in found if not (one.named or one.different.keys() - how_trained)]
    exact = [one for one in meant if not one.different]
    meant = exact or meant
    return meant[0] if len(meant) == 1 else None

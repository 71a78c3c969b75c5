"""What a study is: a YAML file that names options of a training script, rows that differ in some, and seeds."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from full_spike.utils.errors import UsageError
from full_spike.utils.report import SCRIPTS
from full_spike.utils.runtime.plain_yaml import read_mapping

KEYS = ("title", "script", "data", "seeds", "options", "rows", "labels", "after", "pairs", "about")
# what may be done with a trained network, see `running` -> the file that shows that it was done, in the run's folder
AFTER = {
    "synops": "synops/synops.json",
    "integer8": "integer8/comparison.json",
    "integer4": "integer4/comparison.json",
    "blocks": "blocks.json",
}


@dataclass(frozen=True)
class Study:
    """A grid of runs.

    name: of its file, of its runs' folder and of its results.
    title: one line for people.
    about: what has to be known to read the results.
    script: what trains, e.g. cifar.train.
    data: what --data of `scripts/study.py` has to name the folder of; None where nothing is needed.
    seeds: each row is trained with each of them.
    options: of every row, by their names in a run's config.yaml.
    rows: options of each row besides, by its name.
    labels: of rows, for people; a row without one has its name.
    after: what is done after training -> names of the rows that it is done with.
    pairs: what is compared -> (row, row that is taken from it), seed by seed.
    """

    name: str
    title: str
    script: str
    seeds: tuple[int, ...]
    options: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    data: str | None = None
    about: str = ""
    after: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def runs(self) -> list[Planned]:
        """Every run; all rows with the first seed come before the second, so a grid that is stopped is balanced."""
        return [Planned(self, row, seed) for seed in self.seeds for row in self.rows]


@dataclass(frozen=True)
class Planned:
    """One run of a study."""

    study: Study
    row: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row}_seed{self.seed}"

    @property
    def options(self) -> dict[str, Any]:
        return {**self.study.options, **self.study.rows[self.row], "seed": self.seed}

    @property
    def epochs(self) -> int:
        return int(self.options["epochs"])

    @property
    def after(self) -> list[str]:
        return [step for step, rows in self.study.after.items() if self.row in rows]

    def arguments(self, data: str | None = None) -> list[str]:
        """The script's command line, without the folders of the run."""
        named = dict(self.options)
        if self.study.data is not None:
            named["data_path"] = data or self.study.data.upper()
        found = []
        for name, value in named.items():
            flag = f"--{name.replace('_', '-')}"
            if value is True:
                found.append(flag)
            elif value is False:
                found.append(f"--no-{flag[2:]}")
            else:
                found += [flag, str(value)]
        return found

    def command(self) -> str:
        """The line that trains it alone, with one thread, as a study does."""
        return f"OMP_NUM_THREADS=1 python -m {self.study.script} {shlex.join(self.arguments())}"


def _require(what: Any, kind: type | tuple[type, ...], path: Path, name: str, example: str) -> Any:
    if not isinstance(what, kind):
        raise UsageError(f"{path}: {name} is {what!r}: write it as {example}")
    return what


def _names(value: Any, rows: dict[str, Any], path: Path, name: str) -> tuple[str, ...]:
    found = tuple(rows) if value == "all" else tuple(_require(value, list, path, name, "all, or [a row, another]"))
    for row in found:
        if row not in rows:
            raise UsageError(f"{path}: {name} names {row!r}, which is no row: choose from {', '.join(rows)}")
    return found


def read_study(path: Path) -> Study:
    """The study that a YAML file describes.

    Raises:
        UsageError: it cannot be read, or something in it is missing, unknown or of the wrong kind.
    """
    content = read_mapping(path, "the study")
    for key in content:
        if key not in KEYS:
            raise UsageError(f"{path}: {key!r} is unknown: a study has {', '.join(KEYS)}")
    for key in ("title", "script", "seeds", "options", "rows"):
        if key not in content:
            raise UsageError(f"{path}: {key} is missing: a study has at least title, script, seeds, options, rows")
    if content["script"] not in SCRIPTS:
        raise UsageError(f"{path}: script is {content['script']!r}: choose one of {', '.join(SCRIPTS)}")
    seeds = _require(content["seeds"], list, path, "seeds", "[0, 1, 2]")
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(s) is int and s >= 0 for s in seeds):
        raise UsageError(f"{path}: seeds is {seeds!r}: write whole numbers, each once, e.g. [0, 1, 2]")
    rows: dict[str, Any] = _require(content["rows"], dict, path, "rows", "a mapping from names to options")
    for row, options in rows.items():
        if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", str(row)):
            raise UsageError(f"{path}: the row {row!r} names a folder: use small letters, digits and underscores")
        _require(options, dict, path, f"row {row}", "{option: value}")
    options = _require(content["options"], dict, path, "options", "a mapping from names to values")
    if not rows or any(type({**options, **row}.get("epochs")) is not int for row in rows.values()):
        raise UsageError(f"{path}: every row needs a number of epochs: write it among options")
    after = {
        step: _names(names, rows, path, f"after {step}")
        for step, names in _require(content.get("after", {}), dict, path, "after", "a mapping").items()
    }
    for step in after:
        if step not in AFTER:
            raise UsageError(f"{path}: after knows no {step!r}: choose from {', '.join(AFTER)}")
    pairs = {}
    for what, names in _require(content.get("pairs", {}), dict, path, "pairs", "a mapping").items():
        two = _names(names, rows, path, f"pair {what}")
        if len(two) != 2:
            raise UsageError(f"{path}: pair {what} has {len(two)} rows: write [row, row that is taken from it]")
        pairs[str(what)] = (two[0], two[1])
    labels = {
        row: str(words)
        for row, words in _require(content.get("labels", {}), dict, path, "labels", "{row: its name}").items()
    }
    _names(list(labels), rows, path, "labels")
    return Study(
        path.stem, str(content["title"]), content["script"], tuple(seeds), options, rows,
        content.get("data"), str(content.get("about", "")), after, pairs, labels,
    )  # fmt: skip

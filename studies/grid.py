"""A study: a YAML file with the options of a training script, rows that change some of them, and seeds."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_origin, get_type_hints

import yaml

from full_spike.utils.errors import UsageError
from full_spike.utils.log import METRICS, read_metrics

# steps after training -> the file in the run's folder that shows the step is done
AFTER = {
    "synops": "synops/synops.json",
    "integer8": "integer8/comparison.json",
    "integer4": "integer4/comparison.json",
    "blocks": "blocks.json",
}


@dataclass(frozen=True)
class Study:
    """A grid of runs, rows x seeds.

    name: stem of the YAML file; also of the runs' folder and of the CSV files.
    title, about: heading of the table, and what a reader has to know.
    script: module that trains, e.g. cifar.train.
    options: of every row, named as in config.yaml; rows: options of one row, which override these.
    data: name of the folder that `--data NAME=FOLDER` has to give; None if the data come along.
    labels: row -> its name in tables and figures.
    after: step -> rows it is run for, or "all".
    pairs: comparison -> (row, baseline), compared seed by seed.
    """

    name: str
    title: str
    script: str
    seeds: list[int]
    options: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    data: str | None = None
    about: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, list[str]] = field(default_factory=dict)

    def runs(self) -> list[Run]:
        """All runs, seed by seed, so that a grid that was stopped has about as many seeds of each row."""
        return [Run(self, row, seed) for seed in self.seeds for row in self.rows]

    def label(self, row: str) -> str:
        return self.labels.get(row, row)


@dataclass(frozen=True)
class Run:
    """One run of a study; its folder is <runs>/<study>/<name>."""

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
    def after(self) -> list[str]:
        return [step for step, rows in self.study.after.items() if rows == "all" or self.row in rows]

    def folder(self, runs: Path) -> Path:
        return runs / self.study.name / self.name

    def trained(self, runs: Path) -> bool:
        """Whether the last epoch is done."""
        folder = self.folder(runs)
        entries = read_metrics(folder) if (folder / METRICS).exists() else []
        return bool(entries) and entries[-1]["epoch"] == self.options["epochs"] - 1

    def arguments(self, data: str | None = None) -> list[str]:
        """Command line of the script, without the run's folder."""
        options = dict(self.options)
        if self.study.data is not None:
            options["data_path"] = data or self.study.data.upper()
        found = []
        for name, value in options.items():
            flag = f"--{name.replace('_', '-')}" if value is not False else f"--no-{name.replace('_', '-')}"
            found += [flag] if isinstance(value, bool) else [flag, str(value)]
        return found

    def command(self) -> str:
        """The line that trains this run alone."""
        return f"OMP_NUM_THREADS=1 python -m {self.study.script} {shlex.join(self.arguments())}"


def read_study(path: Path) -> Study:
    """The study in a YAML file.

    Raises:
        UsageError: it cannot be read, or names rows or steps that there are not.
    """
    try:
        return _checked(Study(path.stem, **yaml.safe_load(path.read_text())), path)
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is no study: {' '.join(str(error).split())}") from None


def _checked(study: Study, path: Path) -> Study:
    for name, hint in get_type_hints(Study).items():
        value, kind = getattr(study, name), hint if isinstance(hint, UnionType) else get_origin(hint) or hint
        if not isinstance(value, kind):
            raise UsageError(f"{path}: {name} is {value!r}, and must be {hint}")
    for options in (study.options, *study.rows.values()):
        if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
            raise UsageError(f"{path}: {options!r} are no options: write `name: value`")
    lists = [rows for rows in [*study.after.values(), *study.pairs.values()] if rows != "all"]
    for names, known in ((study.after, AFTER), (study.labels, study.rows), *((rows, study.rows) for rows in lists)):
        for name in names:
            if name not in known:
                raise UsageError(f"{path} names {name!r}, which is not one of {', '.join(known)}")
    for row, options in study.rows.items():
        if not isinstance({**study.options, **options}.get("epochs"), int):
            raise UsageError(f"{path}: {row} needs a number of epochs: add it to options")
    return study

"""A study with what its runs came to: what tables and figures are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studies.gathering import RESULTS, read_csv
from studies.grid import Study, read_study
from studies.statistics import Summary, paired

DEPLOYED = ("final_fsnn", "final_output")  # top-1 of what is left to be deployed; the one that a row has


@dataclass(frozen=True)
class Pair:
    """Two rows that are compared, by the seeds that both have.

    what: is compared, in words.
    rows: the second is taken from the first.
    first, second: top-1 in percent by seed, of all their seeds.
    difference: of the seeds that both have, in points.
    """

    what: str
    rows: tuple[str, str]
    first: dict[int, float]
    second: dict[int, float]
    difference: Summary

    @property
    def differences(self) -> list[float]:
        """By seed."""
        return [self.first[seed] - self.second[seed] for seed in sorted(self.first.keys() & self.second.keys())]


@dataclass(frozen=True)
class Ran:
    """A study and the lines of its CSV files, none where none has been gathered."""

    study: Study
    lines: list[dict[str, Any]]
    epochs: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def label(self, row: str) -> str:
        """A row in words."""
        return self.study.labels.get(row, row)

    def values(self, row: str, *columns: str) -> dict[int, float]:
        """A row's values by seed, of the first of these columns that it has; empty if it has none."""
        found: dict[int, float] = {}
        for line in self.lines:
            values = [line[column] for column in columns if line.get(column) is not None]
            if line["row"] == row and values:
                found[line["seed"]] = values[0]
        return found

    def deployed(self, row: str) -> dict[int, float]:
        """Top-1 in percent of what is deployed, by seed."""
        return self.values(row, *DEPLOYED)

    def pairs(self) -> Iterator[Pair]:
        """What the study compares, where there is a seed that both rows have."""
        for what, rows in self.study.pairs.items():
            first, second = map(self.deployed, rows)
            if first.keys() & second.keys():
                yield Pair(what, rows, first, second, paired(first, second))


def _read(path: Path, folder: Path) -> Ran:
    return Ran(read_study(path), *(read_csv(folder / f"{path.stem}{part}.csv") for part in ("", "_epochs", "_blocks")))


class Results(dict[str, Ran]):
    """Every study of this folder with its results, by name.

    speed: lines that the benchmarks kept, see `benchmarks.common`.

    Raises:
        UsageError: a study cannot be read.
    """

    def __init__(self, folder: Path = RESULTS) -> None:
        paths = sorted(Path(__file__).parent.glob("*.yaml"))
        super().__init__({path.stem: _read(path, folder) for path in paths})
        self.speed = read_csv(folder / "speed.csv")

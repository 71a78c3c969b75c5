"""What studies came to: statistics, tables and the power law of docs/RESULTS.md, from the CSV files alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, stats

from studies.gathering import RESULTS, read_csv
from studies.grid import Study, read_study


@dataclass(frozen=True)
class Summary:
    """Mean of n values, standard deviation, and half of the mean's 95 % interval by Student's t; None of one value."""

    n: int
    mean: float
    sd: float | None = None
    half: float | None = None

    @property
    def p(self) -> float:
        """Of Student's t-test, two-sided, that the mean is 0."""
        if not self.sd:
            return 1.0 if self.sd is None or self.mean == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.mean) / (self.sd / math.sqrt(self.n)), self.n - 1))

    @property
    def verdict(self) -> str:
        """Said of three values or more: two may be equal by chance."""
        if self.half is None or self.n < 3:
            return "open"
        return "not shown" if abs(self.mean) <= self.half else "better" if self.mean > 0 else "worse"

    def __str__(self) -> str:
        if self.half is None:
            return f"{self.mean:+.2f} (one seed: no interval)"
        return f"{self.mean:+.2f} [{self.mean - self.half:+.2f}, {self.mean + self.half:+.2f}]"


def summary(values: Collection[float]) -> Summary:
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Summary(n, mean)
    sd = statistics.stdev(values)
    return Summary(n, mean, sd, float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n))


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Summary | None:
    """Of first - second over the seeds that both have; None if there are none."""
    seeds = sorted(first.keys() & second.keys())
    return summary([first[seed] - second[seed] for seed in seeds]) if seeds else None


class Result:
    """A study with the lines of its CSV files."""

    def __init__(self, study: Study, folder: Path = RESULTS) -> None:
        self.study = study
        self.lines, self.blocks = (read_csv(folder / f"{study.name}{part}.csv") for part in ("", "_blocks"))

    def values(self, row: str, *columns: str) -> dict[int, float]:
        """A row's values by seed, of the first of these columns that it has."""
        found = [(line["seed"], line.get(c)) for line in self.lines if line["row"] == row for c in reversed(columns)]
        return {seed: value for seed, value in found if value is not None}

    def deployed(self, row: str) -> dict[int, float]:
        """Top-1 in percent by seed, of the network without its pathway."""
        return self.values(row, "final_fsnn", "final_output")

    def pairs(self) -> dict[str, Summary]:
        """The study's comparisons that have a seed in common."""
        both = {what: paired(*map(self.deployed, rows)) for what, rows in self.study.pairs.items()}
        return {what: found for what, found in both.items() if found}


Results = dict[str, Result]


def read_results(folder: Path = RESULTS) -> Results:
    """Every study of this folder, by name."""
    studies = map(read_study, sorted(Path(__file__).parent.glob("*.yaml")))
    return {study.name: Result(study, folder) for study in studies}


# Tables

COLUMNS = {  # heading -> (column of the CSV, factor, digits)
    "pathway alone, %": ("final_aap", 1, 2),
    "both, %": ("final_sum", 1, 2),
    "parameters": ("parameters_detached", 1, None),
    "AC, M": ("detached_ac", 1e-6, 3),
    "MAC, M": ("detached_mac", 1e-6, 3),
    "µJ an image": ("detached_mj", 1e3, 2),
    "µJ with the pathway kept": ("trained_mj", 1e3, 2),
    "integers, 8 bits, %": ("integer8", 1, 2),
    "4 bits, %": ("integer4", 1, 2),
}


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]


def _cell(values: Collection[float], digits: int | None = 2) -> str:
    if not values:
        return "-"
    if digits is None:
        return f"{next(iter(values)):,}"
    found = summary(values)
    return f"{found.mean:.{digits}f}" + ("" if found.sd is None else f" ± {found.sd:.{digits}f}")


def _cells(result: Result, row: str) -> list[str]:
    found = [_cell(result.deployed(row).values())]
    for column, factor, digits in COLUMNS.values():
        kept = column != "trained_mj" or result.values(row, "final_sum")  # a network without a pathway keeps none
        found.append(_cell([factor * v for v in result.values(row, column).values()] if kept else [], digits))
    return found


def _comparisons(result: Result) -> Iterator[tuple[str, Summary]]:
    yield from result.pairs().items()
    for row in result.study.rows:
        for bits in (8, 4):
            integers, floats = (result.values(row, f"integer{bits}{which}") for which in ("", "_floats"))
            if found := paired(integers, floats):
                yield f"integers of {bits} bits against floats, {result.study.label(row)}", found


def table(result: Result) -> str:
    """What a study was, its rows, and its comparisons."""
    study, cells = result.study, {row: _cells(result, row) for row in result.study.rows if result.deployed(row)}
    if not cells:
        return f"*Not run.* {study.title}. {study.about} Its grid is `studies/{study.name}.yaml`.\n"
    head = ["network", "row", "seeds", "top-1 of what is deployed, %", *COLUMNS]
    body = [[study.label(row), f"`{row}`", str(len(result.deployed(row))), *own] for row, own in cells.items()]
    filled = [column for column in zip(head, *body, strict=True) if any(cell != "-" for cell in column[1:])]
    head, *body = map(list, zip(*filled, strict=True))
    left = "; ".join(study.label(row) for row in study.rows if row not in cells)
    text = [f"*Reproduced here.* {study.title}. {study.about}" + (f" Not run: {left}." if left else ""), ""]
    text += markdown(head, body)
    compared = [[what, str(found.n), str(found), found.verdict] for what, found in _comparisons(result) if found.n > 2]
    if compared:
        text += ["", *markdown(["compared", "seeds", "difference in points [95 % interval]", ""], compared)]
    return "\n".join(text) + "\n"


# The power law: error = exp(a) * width^b * T^c * epochs^d

FACTORS = ("width", "T", "epochs")


def scaling_runs(results: Results) -> list[tuple[dict[str, Any], float]]:
    """(options, test error in percent) of the CIFAR-10 runs of dsnn18 that differ in width, T and epochs alone."""
    found = []
    for name, only in (("cifar10_scaling", None), ("cifar10_joins", "or_with"), ("cifar10_integers", "or_with")):
        study = results[name].study
        for row in [only] if only else study.rows:
            options = {**study.options, **study.rows[row]}
            if options["model"] == "dsnn18":
                found += [(options, 100 - score) for score in results[name].deployed(row).values()]
    return found


def fit(points: Sequence[tuple[Mapping[str, float], float]]) -> tuple[np.ndarray, np.ndarray]:
    """(coefficients, standard errors), the constant first, of log(error) over the logarithms of the factors."""
    x = np.log([[math.e, *(place[factor] for factor in FACTORS)] for place, _ in points])  # [points, 1 + factors]
    y = np.log([error for _, error in points])
    found, covariance = optimize.curve_fit(lambda x, *b: x @ np.array(b), x, y, p0=np.zeros(x.shape[1]))
    return found, np.sqrt(np.diag(covariance))


def fit_table(results: Results) -> str:
    """The exponents of the law of scaling."""
    runs = scaling_runs(results)
    coefficients, errors = fit(runs)
    freedom = len(runs) - len(coefficients)
    body = []
    for factor, value, error in zip(FACTORS, coefficients[1:], errors[1:], strict=True):
        half = stats.t.ppf(0.975, freedom) * error
        body.append([factor, f"{value:+.3f} ± {error:.3f}", f"[{value - half:+.3f}, {value + half:+.3f}]"])
    ranges = [f"{f} {min(o[f] for o, _ in runs)} to {max(o[f] for o, _ in runs)}" for f in FACTORS]
    text = [
        f"Least squares of log(error) over the logarithms of the factors, {len(runs)} runs of 18 layers "
        f"({', '.join(ranges)}), {freedom} degrees of freedom.",
        "",
        *markdown(["factor", "exponent ± standard error", "95 % interval"], body),
    ]
    return "\n".join(text) + "\n"

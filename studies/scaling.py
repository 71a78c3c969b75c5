"""How the error falls with width, time steps and epochs: runs of several studies that differ in these alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studies.fit import PowerLaw, fit
from studies.ran import Ran
from studies.tables import lines_of

STUDIES = ("cifar10_scaling", "cifar10_joins", "cifar10_integers")
FACTORS = ("width", "T", "epochs")
ROW = "or_with"  # of the studies beside the first
BASE = {"width": 16, "T": 4, "epochs": 5, "depth": 18}  # what one thing is changed of at a time
# width, T, epochs: where the law is asked what it says, beyond what was run
FURTHER = ({"width": 64, "T": 4, "epochs": 10}, {"width": 64, "T": 4, "epochs": 100})


@dataclass(frozen=True)
class Run:
    """One run: what may differ from others, and the top-1 error in percent of the trunk alone."""

    options: Mapping[str, Any]
    error: float


def runs(rans: Mapping[str, Ran]) -> list[Run]:
    """All of them, those of another depth included."""
    found = []
    for name in STUDIES:
        ran = rans[name]
        rows = ran.study.rows if name == STUDIES[0] else {ROW: ran.study.rows[ROW]}
        for row, own in rows.items():
            options = {**ran.study.options, **own}
            depth = int(options["model"].removeprefix("dsnn"))
            found += [Run({**options, "depth": depth}, 100 - score) for score in ran.deployed(row).values()]
    return found


def law(found: list[Run]) -> PowerLaw:
    """The power law of width, T and epochs at 18 layers.

    Raises:
        ValueError: there are too few runs.
    """
    return fit([(run.options, run.error) for run in found if run.options["depth"] == BASE["depth"]], FACTORS)


def _said(place: Mapping[str, float]) -> str:
    return f"width {place['width']}, T = {place['T']}, {place['epochs']} epochs"


def fit_table(rans: Mapping[str, Ran]) -> str:
    """The law's exponents, and what it says of networks that were not trained."""
    found = runs(rans)
    try:
        power = law(found)
    except ValueError as error:
        return f"*Not fitted*: {error}.\n"
    ranges = []
    for factor in power.factors:
        values = [run.options[factor] for run in found if run.options["depth"] == BASE["depth"]]
        ranges.append(f"{factor} {min(values)} to {max(values)}")
    terms = " + ".join(f"b_{factor} log({factor})" for factor in power.factors)
    text = [
        f"Least squares of log(error) = a + {terms} over {power.points} runs of 18 layers ({', '.join(ranges)}): "
        f"{power.freedom} degrees of freedom, residual standard deviation {100 * power.deviation:.1f} % of the error. "
        "Intervals take the logarithms' noise as independent, Normal and of one spread, and the law as true.",
        "",
    ]
    body = []
    for factor in power.factors:
        value, error = power.exponent(factor)
        half = power.quantile * error
        body.append([factor, f"{value:+.3f} ± {error:.3f}", f"[{value - half:+.3f}, {value + half:+.3f}]"])
    text += [*lines_of(["factor", "exponent ± standard error", "95 % interval"], body), ""]
    missing = [factor for factor in FACTORS if factor not in power.factors]
    if missing:
        text.append(f"Nothing is said of {', '.join(missing)}, which no run varies yet, and so nothing extrapolated.")
        return "\n".join(text) + "\n"
    body = []
    for place in FURTHER:
        error, low, high = power.at(place, one_more=True)
        cells = [f"{value:.1f} [{first:.1f}, {last:.1f}]" for value, first, last in (
            (error, low, high), (100 - error, 100 - min(high, 100), 100 - low)
        )]  # fmt: skip
        body.append([f"*extrapolation*: {_said(place)}", *cells])
    head = ["not trained", "error of one run, % [95 % prediction interval]", "top-1, %"]
    return "\n".join([*text, *lines_of(head, body)]) + "\n"

"""Means over seeds, and differences of rows seed by seed, with Student's 95 % interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """The mean of n values, their standard deviation, and half the width of the mean's 95 % interval.

    The last two are None for a single value.
    """

    n: int
    mean: float
    deviation: float | None
    half: float | None

    @property
    def shown(self) -> bool | None:
        """Whether the interval leaves 0 out; None of fewer than three values, which may be equal by chance alone."""
        return None if self.half is None or self.n < 3 else abs(self.mean) > self.half


def summary(values: Sequence[float]) -> Summary:
    """Of at least one value.

    Raises:
        ValueError: there is none.
    """
    if not values:
        raise ValueError("there are no values: name a row that has runs")
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Summary(1, mean, None, None)
    from scipy.stats import t  # scikit-learn brings it

    deviation = statistics.stdev(values)
    return Summary(n, mean, deviation, float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n))


def paired(first: dict[int, float], second: dict[int, float]) -> Summary:
    """Of first - second, by seed, over the seeds that both have.

    Raises:
        ValueError: there is none.
    """
    return summary([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])

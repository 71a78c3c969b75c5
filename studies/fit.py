"""Power laws: error = exp(a) * width^b * T^c * ..., by least squares of logarithms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PowerLaw:
    """log(value) = coefficients[0] + sum of coefficients[i] * log(factor i), plus noise.

    The covariance is that of ordinary least squares, s^2 (X'X)^-1. With Student's t it gives intervals that hold if the
    noise of each value is independent, Normal and of one spread in logarithms, and if the law itself holds.

    factors: names.
    coefficients: [1 + factors], the constant first.
    covariance: [1 + factors, 1 + factors], of these.
    deviation: of the noise, s.
    points: how many values it was made of.
    """

    factors: tuple[str, ...]
    coefficients: np.ndarray
    covariance: np.ndarray
    deviation: float
    points: int

    @property
    def freedom(self) -> int:
        """Degrees of freedom that are left for the noise."""
        return self.points - len(self.coefficients)

    @property
    def quantile(self) -> float:
        """How many standard errors a 95 % interval goes to either side."""
        from scipy.stats import t  # scikit-learn brings it

        return float(t.ppf(0.975, self.freedom))

    def exponent(self, factor: str) -> tuple[float, float]:
        """Of a factor, with its standard error."""
        i = 1 + self.factors.index(factor)
        return float(self.coefficients[i]), math.sqrt(self.covariance[i, i])

    def at(self, values: Mapping[str, float], *, one_more: bool = False) -> tuple[float, float, float]:
        """The law there, and its 95 % interval: of the law itself, or of one more value that is measured there."""
        x = np.array([1.0, *(math.log(values[factor]) for factor in self.factors)])
        middle = float(x @ self.coefficients)
        half = self.quantile * math.sqrt(x @ self.covariance @ x + one_more * self.deviation**2)
        return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def fit(points: Sequence[tuple[Mapping[str, float], float]], factors: Sequence[str]) -> PowerLaw:
    """The power law of these factors, of those that take more than one value, by (factors, value) of each point.

    Raises:
        ValueError: a value has no logarithm, or there are too few points to tell the factors apart and have a degree of
            freedom left.
    """
    wrong = next((value for _, value in points if not value > 0), None)
    if wrong is not None:
        raise ValueError(f"{wrong} has no logarithm: leave it out")
    varied = tuple(factor for factor in factors if len({given[factor] for given, _ in points}) > 1)
    x = np.array([[1.0, *(math.log(given[factor]) for factor in varied)] for given, _ in points])
    if not varied:
        raise ValueError(f"in {len(points)} runs nothing varies of {', '.join(factors)}")
    if len(points) <= x.shape[1] or np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError(f"{len(points)} runs are too few to tell {', '.join(varied)} apart")
    y = np.log([value for _, value in points])
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    variance = float(((y - x @ coefficients) ** 2).sum()) / (len(points) - x.shape[1])
    return PowerLaw(varied, coefficients, variance * np.linalg.inv(x.T @ x), math.sqrt(variance), len(points))

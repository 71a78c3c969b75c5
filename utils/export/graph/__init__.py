"""Networks for other runtimes: what a network computes as a list of layers, exact in floats or in integers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .exact import exact_sums, round_input
from .fast import FastRunner
from .nodes import Graph
from .quantize import quantize_graph
from .rounding import keep_rounded, round_weights
from .run import Runner, Stream
from .saved import from_plain, to_plain
from .trace import describe

__all__ = [
    "FastRunner", "Graph", "Runner", "Stream", "describe", "exact", "exact_sums", "from_plain", "keep_rounded",
    "quantize", "quantize_graph", "round_input", "round_weights", "to_plain",
]  # fmt: skip


def exact(model: Any, size: tuple[int, int]) -> Runner:
    """A network without its pathway, norms folded, whose sums have no rounding; see `exact_sums`.

    Args:
        size: (height, width) of its images.

    Raises:
        ValueError: see `describe`.
    """
    return Runner(exact_sums(describe(model, size)))


def quantize(model: Any, calibration: list[Tensor], bits: int = 8) -> Runner:
    """The integer network of a trained one whose pathway was taken off.

    Args:
        calibration: a few batches of what it is to run on, [N, C, H, W] or [T, N, C, H, W].
        bits: 8 or 4, of the weights.

    Raises:
        ValueError: see `describe` and `quantize_graph`.
    """
    height, width = calibration[0].shape[-2:]
    return FastRunner(quantize_graph(exact_sums(describe(model, (height, width))), calibration, bits))

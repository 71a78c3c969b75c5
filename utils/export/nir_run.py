"""A small interpreter of NIR in numpy: the nodes that our networks take, one time step after the other.

Convolutions are summed in float64 and rounded to float32, all else is float32: with dt = 1,

    IF    v = v + r I                        LIF   v = v + (v_leak - v + r I) / tau
    spike where v > v_threshold, and v = v_reset there
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from full_spike.utils.errors import UserError

Function = Callable[[np.ndarray], np.ndarray]


def _pair(value: Any) -> tuple[int, int]:
    a, b = np.broadcast_to(np.asarray(value), 2)
    return int(a), int(b)


def windows(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> np.ndarray:
    """A view of x [N, C, H, W] as [N, C, H', W', kh, kw]."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    seen = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    return seen[:, :, :: stride[0], :: stride[1]]


def _conv(node: Any) -> Function:
    weight, bias = np.asarray(node.weight, np.float64), np.asarray(node.bias, np.float64)
    stride, padding, groups = _pair(node.stride), _pair(node.padding), int(node.groups)
    outputs, inputs, kh, kw = weight.shape
    matrices = weight.reshape(groups, outputs // groups, inputs * kh * kw)

    def run(x: np.ndarray) -> np.ndarray:
        seen = windows(x.astype(np.float64), (kh, kw), stride, padding)
        n, _, h, w = seen.shape[:4]
        seen = seen.reshape(n, groups, inputs, h, w, kh, kw).transpose(1, 0, 3, 4, 2, 5, 6)
        sums = seen.reshape(groups, n * h * w, inputs * kh * kw) @ matrices.transpose(0, 2, 1)
        sums = sums.reshape(groups, n, h, w, outputs // groups).transpose(1, 0, 4, 2, 3).reshape(n, outputs, h, w)
        return (sums + bias[:, None, None]).astype(np.float32)

    return run


def _sum_pool(node: Any) -> Function:
    kernel, stride, padding = (_pair(v) for v in (node.kernel_size, node.stride, node.padding))

    def run(x: np.ndarray) -> np.ndarray:
        seen = windows(x, kernel, stride, padding)
        return seen.sum((4, 5), dtype=np.float32)

    return run


def _neuron(node: Any) -> Function:
    threshold, reset, r = (np.asarray(getattr(node, name), np.float32) for name in ("v_threshold", "v_reset", "r"))
    leaky = hasattr(node, "tau")
    v: np.ndarray | None = None

    def run(x: np.ndarray) -> np.ndarray:
        nonlocal v
        if v is None:
            v = np.zeros_like(x)
        if leaky:
            v = v + (np.asarray(node.v_leak, np.float32) - v + r * x) / np.asarray(node.tau, np.float32)
        else:
            v = v + r * x
        spikes = v > threshold
        v = np.where(spikes, reset, v)
        return spikes.astype(np.float32)

    return run


def _function(name: str, node: Any) -> Function:
    kind = type(node).__name__
    if kind == "Conv2d":
        return _conv(node)
    if kind == "SumPool2d":
        return _sum_pool(node)
    if kind in ("IF", "LIF"):
        return _neuron(node)
    if kind == "Flatten":
        return lambda x: x.reshape(len(x), -1)
    if kind == "Affine":
        weight, bias = np.asarray(node.weight, np.float32), np.asarray(node.bias, np.float32)
        return lambda x: x @ weight.T + bias
    if kind in ("Input", "Output"):
        return lambda x: x
    raise UserError(f"{name} is a NIR node {kind}, which this interpreter has not: use another simulator")


class Interpreter:
    """A network in NIR, at rest; `step` takes it on by one time step."""

    def __init__(self, graph: Any) -> None:
        self.sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in graph.edges:
            if source not in self.sources or target not in self.sources:
                raise UserError(f"an edge from {source} to {target} ends at no node: the NIR file is damaged")
            self.sources[target].append(source)
        self.functions = {name: _function(name, node) for name, node in graph.nodes.items()}
        self.order = self._sorted()

    def _sorted(self) -> list[str]:
        order: list[str] = []
        waiting = dict(self.sources)
        while waiting:
            ready = [name for name, sources in waiting.items() if not any(source in waiting for source in sources)]
            if not ready:
                raise UserError(
                    f"the nodes {', '.join(sorted(waiting)[:3])} read each other: only loop-free networks run here"
                )
            order += ready
            for name in ready:
                del waiting[name]
        return order

    def step(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """What every node gives, of a frame [N, C, H, W]."""
        values: dict[str, np.ndarray] = {}
        for name in self.order:
            inputs = [values[source] for source in self.sources[name]] or [frame]
            total = inputs[0]
            for other in inputs[1:]:
                total = total + other
            values[name] = self.functions[name](total)
        return values

"""A description run in PyTorch: what every other runtime must agree with, spike by spike."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .exact import round_input
from .nodes import Graph
from .sums import IntegerSums

LARGEST_INT = 2**31 - 1


def _charge(node: Any, v: Tensor, x: Tensor) -> Tensor:
    """h of v and x; of floats operation by operation as spikingjelly has it."""
    if node.leak:
        d = x - v
        for sign, shift in node.leak:
            v = v + sign * (d >> shift)
        return v
    if node.neuron == "IF":
        return v + x
    return v + ((x - v) / node.time if node.neuron == "LIF" else (x - v) * node.time)


def gate(node: Any, identity: Tensor, residual: Tensor) -> Tensor:
    """The gate's value of two tensors of 0 and 1, in their type."""
    i, r = identity.bool(), residual.bool()
    result = torch.zeros_like(i)
    for bit, a, b in zip(node.table, (~i, ~i, i, i), (~r, r, ~r, r), strict=True):
        if bit:
            result = result | (a & b)
    return result.to(identity.dtype)


def attention(node: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Q K^T V of spikes [T, N, C, H, W], whole numbers below 2^24 in the same shape; exact in either order."""
    q, k, v = (x.flatten(3).unflatten(2, (node.heads, -1)) for x in (q, k, v))  # [T, N, heads, d, L]
    product = (v @ k.mT) @ q if node.channels_first else v @ (k.mT @ q)
    return product.flatten(2, 3).unflatten(3, node.shape[-2:])


def or_pool(node: Any, x: Tensor) -> Tensor:
    """The maximum over windows of spikes [M, C, H, W], in their type and layout."""
    (height, width), (kh, kw), (sh, sw), (top, left) = node.shape[-2:], node.kernel, node.stride, node.padding
    # a window may reach past the last row; a zero is never more than a spike
    bottom, right = (height - 1) * sh + kh - top - x.shape[-2], (width - 1) * sw + kw - left - x.shape[-1]
    padded = F.pad(x, (left, max(0, right), top, max(0, bottom)))
    parts = [
        padded[:, :, i : i + (height - 1) * sh + 1 : sh, j : j + (width - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return functools.reduce(torch.maximum, parts)


class Runner(nn.Module):
    """A network from its description.

    Input: images [N, C, H, W], shown T times, or frames [T', N, C, H, W]; floats, which an integer network turns into
    bytes first, or those bytes. Returns logits [N, classes], int32 of an integer network.

    Raises:
        ValueError: the input is of another size, or an integer could overflow after so many time steps.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.config = graph.config
        self.event_frames = graph.frames
        self.in_channels = graph.input_shape[0]
        self.most_steps = max_steps(graph) if graph.integer else None
        self._sums: dict[str, Any] = {}
        for node in graph.nodes:
            for field in ("weight", "bias", "threshold"):
                value = getattr(node, field, None)
                if isinstance(value, Tensor):
                    self.register_buffer(f"{node.name}:{field}".replace(".", "/"), value)
            if graph.integer and node.kind == "conv":
                self._sums[node.name] = IntegerSums(node, stem=node is graph.stem)
        self._last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}

    def _of(self, node: Any, field: str) -> Any:
        value = getattr(node, field)
        return getattr(self, f"{node.name}:{field}".replace(".", "/")) if isinstance(value, Tensor) else value

    def quantised(self, x: Tensor) -> Tensor:
        """The bytes that an integer network reads, uint8; given bytes, the same ones."""
        if x.dtype == torch.uint8:
            return x
        return (x.float() / self.graph.scale).round().add(self.graph.zero).clamp(0, 255).to(torch.uint8)

    def _check_size(self, x: Tensor) -> None:
        if x.ndim not in (4, 5) or tuple(x.shape[-3:]) != self.graph.input_shape:
            raise ValueError(f"an input of shape {tuple(x.shape)} does not end in {self.graph.input_shape}")

    def _prepared(self, x: Tensor) -> Tensor:
        self._check_size(x)
        if self.graph.integer:
            return self.quantised(x)
        return round_input(x)

    def _conv(self, node: Any, x: Tensor) -> Tensor:
        """Currents [T, N, O, H', W'] of x [T, N, C, H, W]."""
        flat = x.flatten(0, 1)
        if self.graph.integer:
            y = self._sums[node.name](flat, self.graph.zero)
        elif node is self.graph.stem:  # see `exact`
            weight, bias = self._of(node, "weight").double(), self._of(node, "bias").double()
            y = F.conv2d(flat.double(), weight, bias, node.stride, node.padding, 1, node.groups).float()
        else:
            weight, bias = self._of(node, "weight"), self._of(node, "bias")
            y = F.conv2d(flat, weight, bias, node.stride, node.padding, 1, node.groups)
        return y.unflatten(0, x.shape[:2])

    def _fire(self, node: Any, x: Tensor, steps: int, state: dict[str, Tensor] | None) -> Tensor:
        """Spikes [T, N, C, H, W] of currents [T, N, C, H, W], or of [1, N, C, H, W] that every step sees."""
        threshold, bias = self._of(node, "threshold"), self._of(node, "bias")
        if node.gain != 1.0:
            x = x * node.gain
        if bias is not None:
            threshold = threshold[:, None, None]
            x = (x << node.fraction) + bias[:, None, None]
        v = torch.zeros_like(x[0]) if state is None or node.name not in state else state[node.name]
        spikes = []
        for t in range(steps):
            h = _charge(node, v, x[min(t, len(x) - 1)])
            fired = h >= threshold
            spikes.append(fired)
            v = torch.where(fired, torch.zeros_like(h), h)
        if state is not None:
            state[node.name] = v
        return torch.stack(spikes).to(torch.uint8 if self.graph.integer else torch.float32)

    def _counts(self, x: Tensor) -> Tensor:
        """[T, N, C, H, W] -> [N, C], summed over all of T, H and W."""
        return x.sum(dim=(0, 3, 4), dtype=torch.int32 if self.graph.integer else torch.float32)

    def _check_steps(self, steps: int) -> None:
        if self.most_steps is not None and steps > self.most_steps:
            raise ValueError(
                f"after {steps} time steps a membrane or logit could overflow: show at most {self.most_steps}"
            )

    def logits(self, counts: Tensor, steps: int) -> Tensor:
        """Of the sums over time, height and width [N, C]."""
        head = self.graph.head
        weight, bias = self._of(head, "weight"), self._of(head, "bias")
        if self.graph.integer:
            return (counts.double() @ weight.double().T).to(torch.int32) + steps * bias  # exact below 2^53
        height, width = self.graph.node(head.inputs[0]).shape[-2:]
        return F.linear(counts / (height * width * steps), weight, bias)

    def run(
        self, x: Tensor, state: dict[str, Tensor] | None = None, see: Callable[[str, Tensor], None] | None = None
    ) -> tuple[Tensor, int]:
        """(the head's sums [N, C], time steps) of an input.

        Args:
            state: membranes by layer, which the next call goes on from.
            see: is told every layer's name and spikes [T, N, C, H, W].
        """
        graph = self.graph
        x = self._prepared(x)
        steps = x.shape[0] if x.ndim == 5 else graph.T
        self._check_steps(steps)
        values = {"input": x if x.ndim == 5 else x.unsqueeze(0)}
        for i, node in enumerate(graph.nodes[:-1]):
            inputs = [values[name] for name in node.inputs]
            if node.kind == "conv":
                values[node.name] = self._conv(node, inputs[0])
            elif node.kind == "fire":
                values[node.name] = self._fire(node, inputs[0], steps, state)
            elif node.kind == "gate":
                values[node.name] = gate(node, *inputs)
            elif node.kind == "add":
                values[node.name] = inputs[0] + inputs[1]
            elif node.kind == "attention":
                values[node.name] = attention(node, *inputs)
            else:
                values[node.name] = or_pool(node, inputs[0].flatten(0, 1)).unflatten(0, inputs[0].shape[:2])
            if see is not None and node.kind in ("fire", "gate", "pool"):
                see(node.name, values[node.name])
            for name in node.inputs:
                if self._last_use[name] <= i:
                    values.pop(name, None)
        return self._counts(values[graph.head.inputs[0]]), steps

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(*self.run(x))

    @torch.no_grad()
    def spikes(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(spikes [T, N, C, H, W] of every neuron, gate and pooling, logits [N, classes])."""
        seen: dict[str, Tensor] = {}
        counts, steps = self.run(x, see=seen.__setitem__)
        return seen, self.logits(counts, steps)


class Stream:
    """A network fed one time step at a time; its spikes and logits are those of the whole sequence, up to here.

    A network of static images is shown the picture at each step. Keeps the membranes, and nothing else of the past.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.reset()

    def reset(self) -> None:
        """Begin at rest."""
        self._state: dict[str, Tensor] = {}
        self._counts: Tensor | None = None
        self.steps = 0

    @torch.no_grad()
    def step(self, frame: Tensor, see: Callable[[str, Tensor], None] | None = None) -> Tensor:
        """Logits [N, classes] after one more frame [N, C, H, W]; `see` is told each layer's spikes [1, N, C, H, W].

        Raises:
            ValueError: see `Runner`.
        """
        most = self.runner.most_steps
        if most is not None and self.steps >= most:
            raise ValueError(f"after {most} time steps a membrane or logit could overflow: reset the stream")
        counts, _ = self.runner.run(frame.unsqueeze(0), self._state, see)
        self._counts = counts if self._counts is None else self._counts + counts
        self.steps += 1
        return self.runner.logits(self._counts, self.steps)


def max_steps(graph: Graph) -> int:
    """How many time steps an integer network may be shown until a membrane or a logit of 32 bits could overflow.

    Raises:
        ValueError: not even one.
    """
    most = LARGEST_INT
    for node in graph.of_kind("fire"):
        conv = graph.node(node.inputs[0])
        largest = max(graph.zero, 255 - graph.zero) if conv is graph.stem else 1
        bias, threshold = node.bias.to(torch.int64).abs(), node.threshold.to(torch.int64).abs()
        current = (conv.weight.to(torch.int64).abs().flatten(1).sum(1) * largest << node.fraction) + bias
        reached = int((current + threshold).max())
        if node.leak:  # a leaky membrane stays between the currents' extremes, and differences are twice as large
            if 2 * reached > LARGEST_INT // 2:
                raise ValueError(f"{node.name} needs more than 32 bits: use fewer fraction bits")
            continue
        most = min(most, LARGEST_INT // max(1, reached) - 1)
    head = graph.head  # whose logits are summed over time
    height, width = graph.shape_of(head.inputs[0])[-2:]
    reached = int((head.weight.to(torch.int64).abs().sum(1) * height * width + head.bias.to(torch.int64).abs()).max())
    most = min(most, LARGEST_INT // max(1, reached))
    if most < 1:
        raise ValueError(f"a membrane or logit of {graph.name} needs more than 32 bits")
    return most

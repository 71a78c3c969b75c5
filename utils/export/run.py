"""A description run in PyTorch: what every other runtime must agree with, spike by spike."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from full_spike.models import returning
from full_spike.models.neuron import carrying
from full_spike.utils.export.graph import SPIKING, Add, Attention, Conv, Fire, Gate, Graph, Head, Pool

INPUT_BITS = 20  # inputs of float networks are rounded to multiples of 2^-20
EXACT_FLOAT32 = 1 << 24  # below which float32 sums of whole numbers are exact; float64 ones are below 2^53
LARGEST_INT = 2**31 - 1


def round_input(x: Tensor) -> Tensor:
    """To multiples of 2^-20, float32."""
    return (x.float() * 2.0**INPUT_BITS).round() * 2.0**-INPUT_BITS


def to_bytes(graph: Graph, x: Tensor) -> Tensor:
    """What an integer network reads, uint8, of floats; bytes stay as they are."""
    if x.dtype == torch.uint8:
        return x
    return (x.float() / graph.scale).round().add(graph.zero).clamp(0, 255).to(torch.uint8)


class Layers:
    """The layers of a graph for `Graph.walk`, on tensors [T, N, C, H, W]; T is 1 up to a static image's first neuron.

    Args:
        graph: whose layers they are.
        steps: T.
        state: membranes by layer, from which the next time step goes on.
    """

    def __init__(self, graph: Graph, steps: int, state: dict[str, Tensor] | None = None) -> None:
        self.graph, self.steps, self.state = graph, steps, state
        self.spike = torch.uint8 if graph.integer else torch.float32

    def conv(self, node: Conv, x: Tensor) -> Tensor:
        """Currents."""
        graph, flat = self.graph, x.flatten(0, 1)
        geometry = node.stride, node.padding, 1, node.groups
        if graph.integer:
            # in floats, exactly; devices other than the CPU may sum float32 in pieces of lower precision
            dtype = torch.float32 if x.is_cpu and largest_sum(graph, node) < EXACT_FLOAT32 else torch.float64
            values = flat.to(dtype) - graph.zero if node is graph.stem and graph.zero else flat.to(dtype)
            y = F.conv2d(values, node.weight.to(x.device, dtype), None, *geometry).round().to(torch.int32)
        else:
            dtype = torch.float64 if node is graph.stem else torch.float32  # see floats.py
            weight, bias = node.weight.to(x.device, dtype), node.bias.to(x.device, dtype)  # type: ignore[union-attr]
            y = F.conv2d(flat.to(dtype), weight, bias, *geometry).float()
        return y.unflatten(0, x.shape[:2])

    def charge(self, node: Fire, v: Tensor, x: Tensor) -> Tensor:
        """h from v and x; for floats operation by operation as spikingjelly has it."""
        if node.leak:
            d = x - v
            for sign, shift in node.leak:
                v = v + sign * (d >> shift)
            return v
        if node.time is None:
            return v + x
        return v + ((x - v) / node.time if node.neuron == "LIF" else (x - v) * node.time)

    def fire(self, node: Fire, x: Tensor) -> Tensor:
        threshold: Any = node.threshold
        if node.gain != 1.0:
            x = x * node.gain
        if node.bias is not None:
            threshold = threshold.to(x.device)[:, None, None]
            x = (x << node.fraction) + node.bias.to(x.device)[:, None, None]
        v = (self.state or {}).get(node.name, torch.zeros_like(x[0]))
        spikes = []
        for t in range(self.steps):
            h = self.charge(node, v, x[min(t, len(x) - 1)])
            fired = h >= threshold
            spikes.append(fired)
            v = torch.where(fired, torch.zeros_like(h), h)
        if self.state is not None:
            self.state[node.name] = v
        return torch.stack(spikes).to(self.spike)

    def gate(self, node: Gate, identity: Tensor, residual: Tensor) -> Tensor:
        i, r = identity.bool(), residual.bool()
        result = torch.zeros_like(i)
        for bit, a, b in zip(node.table, (~i, ~i, i, i), (~r, r, ~r, r), strict=True):
            if bit:
                result = result | (a & b)
        return result.to(identity.dtype)

    def add(self, _node: Add, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def attention(self, node: Attention, *qkv: Tensor) -> Tensor:
        """Whole numbers below 2^24, exact in either order."""
        q, k, v = (x.flatten(3).unflatten(2, (node.heads, -1)) for x in qkv)  # [T, N, heads, d, L]
        product = (v @ k.mT) @ q if node.channels_first else v @ (k.mT @ q)
        return product.flatten(2, 3).unflatten(3, node.shape[-2:])

    def pool(self, node: Pool, x: Tensor) -> Tensor:
        return max_pool(node, x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def head(self, _node: Head, x: Tensor) -> Tensor:
        """Sums over time, height and width [N, C]."""
        return x.sum(dim=(0, 3, 4), dtype=torch.int32 if self.graph.integer else torch.float32)


def max_pool(node: Pool, x: Tensor) -> Tensor:
    """The maximum over windows of spikes [M, C, H, W], in their type and layout; torch's own takes no bytes."""
    (height, width), (kh, kw), (sh, sw), (top, left) = node.shape[1:], node.kernel, node.stride, node.padding
    bottom, right = node.end_padding(x.shape[-2:])
    padded = F.pad(x, (left, right, top, bottom))  # a zero is never more than a spike
    parts = [
        padded[:, :, i : i + (height - 1) * sh + 1 : sh, j : j + (width - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return functools.reduce(torch.maximum, parts)


class Runner(nn.Module):
    """A network from its description.

    Input: images [N, C, H, W], shown T times, or frames [T', N, C, H, W]; floats, which an integer network turns into
    bytes first, or those bytes. Returns logits [N, classes], int32 for an integer network.

    Raises:
        ValueError: the input is of another size, or an integer could overflow after so many time steps.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.max_steps = max_steps(graph) if graph.integer else None

    def check(self, x: Tensor) -> int:
        """How many time steps an input has."""
        if x.ndim not in (4, 5) or tuple(x.shape[-3:]) != self.graph.input_shape:
            raise ValueError(f"an input of shape {tuple(x.shape)} does not end in {self.graph.input_shape}")
        steps = len(x) if x.ndim == 5 else self.graph.T
        self.check_steps(steps)
        return steps

    def check_steps(self, steps: int) -> None:
        if self.max_steps is not None and steps > self.max_steps:
            raise ValueError(
                f"after {steps} time steps a membrane or logit could overflow: show at most {self.max_steps}"
            )

    def logits(self, counts: Tensor, steps: int) -> Tensor:
        """Of the sums over time, height and width [N, C]."""
        head = self.graph.head
        weight, bias = head.weight.to(counts.device), head.bias.to(counts.device)
        if self.graph.integer:
            return (counts.double() @ weight.double().T).to(torch.int32) + steps * bias  # exact below 2^53
        height, width = self.graph.shape_of(head.inputs[0])[-2:]
        return F.linear(counts / (height * width * steps), weight, bias)

    def run(
        self, x: Tensor, state: dict[str, Tensor] | None = None, see: Callable[[str, Tensor], None] | None = None
    ) -> tuple[Tensor, int]:
        """(the last spikes' sums over time, height and width [N, C], time steps) of an input.

        Args:
            state: membranes by layer, from which the next call goes on.
            see: called with the name and the output [T, N, C, H, W] of every layer.
        """
        steps = self.check(x)
        values = to_bytes(self.graph, x) if self.graph.integer else round_input(x)
        layers = Layers(self.graph, steps, state)
        return self.graph.walk(layers, values if x.ndim == 5 else values.unsqueeze(0), see), steps

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(*self.run(x))

    @torch.no_grad()
    def spikes(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(spikes [T, N, C, H, W] of every neuron, gate and pooling, logits [N, classes])."""
        seen: dict[str, Tensor] = {}
        names = {node.name for node in self.graph.of(*SPIKING)}
        counts, steps = self.run(x, see=lambda name, output: seen.update({name: output} if name in names else {}))
        return seen, self.logits(counts, steps)


class Stream:
    """A network fed one time step at a time; its spikes and logits are those of the whole sequence, up to here.

    A network of static images is shown the picture at each step. Keeps the membranes, and nothing else of the past.

    Args:
        network: a `Runner`, or a network of `create_model`, which may be used otherwise meanwhile.

    Raises:
        ValueError: the network is in training mode, or returns two readouts.
    """

    def __init__(self, network: Any) -> None:
        if network.training and not isinstance(network, Runner):
            raise ValueError("a stream is for evaluation: call eval() on the network first")
        if getattr(network, "aap", None) is not None and network.readout == "both":
            raise ValueError('a stream has one readout: set the network\'s to "fsnn", "aap" or "sum"')
        self.network = network
        self.reset()

    def reset(self) -> None:
        """Begin at rest."""
        self._state: dict[str, Any] = {}
        self._sums: Tensor | None = None
        self.steps = 0

    @torch.no_grad()
    def step(self, frame: Tensor, see: Callable[[str, Tensor], None] | None = None) -> Tensor:
        """Logits [N, classes] after one more frame [N, C, H, W]; `see` as in `Runner.run`.

        Raises:
            ValueError: it has another number of samples than the frames before, or see `Runner`.
        """
        if self._sums is not None and len(frame) != len(self._sums):
            raise ValueError(f"{len(frame)} samples cannot go on where {len(self._sums)} were: reset() begins anew")
        network = self.network
        if isinstance(network, Runner):
            network.check_steps(self.steps + 1)
            now, _ = network.run(frame.unsqueeze(0), self._state, see)
        else:
            with returning(network, by_step=True), carrying(network, self._state):
                (now,) = network(frame.unsqueeze(0))
        self._sums = now if self._sums is None else self._sums + now
        self.steps += 1
        return network.logits(self._sums, self.steps) if isinstance(network, Runner) else self._sums / self.steps

    def until_sure(self, x: Tensor, confidence: float) -> Tensor:
        """Logits [N, classes] after as many steps as it takes until every sample's class has this probability.

        From rest, and at most to the last step; `steps` tells how many it took.

        Args:
            x: images [N, C, H, W] or frames [T, N, C, H, W].
        """
        self.reset()
        graph = self.network.graph if isinstance(self.network, Runner) else self.network
        for frame in x if x.ndim == 5 else [x] * graph.T:
            logits = self.step(frame)
            mean = logits * (graph.logit_scale * graph.T / self.steps) if getattr(graph, "integer", False) else logits
            if bool((mean.softmax(dim=1).amax(dim=1) >= confidence).all()):
                break
        return logits


def largest_sum(graph: Graph, conv: Conv) -> int:
    """The largest sum that an integer convolution can make."""
    largest_input = 255 if conv is graph.stem else 1
    return int(conv.weight.to(torch.int64).abs().flatten(1).sum(1).max()) * largest_input


def max_steps(graph: Graph) -> int:
    """How many time steps an integer network can be shown before a membrane or a logit of 32 bits could overflow.

    Raises:
        ValueError: not even one.
    """
    most = LARGEST_INT
    for fire in graph.of(Fire):
        conv = graph.node(fire.inputs[0])
        largest = max(graph.zero, 255 - graph.zero) if conv is graph.stem else 1
        bias, threshold = (value.to(torch.int64).abs() for value in (fire.bias, fire.threshold))  # type: ignore[union-attr]
        current = (conv.weight.to(torch.int64).abs().flatten(1).sum(1) * largest << fire.fraction) + bias
        reached = int((current + threshold).max())
        if not fire.leak:
            most = min(most, LARGEST_INT // max(1, reached) - 1)
        elif 2 * reached > LARGEST_INT // 2:  # it stays between the currents' extremes; differences are twice as large
            raise ValueError(f"{fire.name} needs more than 32 bits: use fewer fraction bits")
    head = graph.head  # whose logits are summed over time
    height, width = graph.shape_of(head.inputs[0])[-2:]
    reached = int((head.weight.to(torch.int64).abs().sum(1) * height * width + head.bias.to(torch.int64).abs()).max())
    most = min(most, LARGEST_INT // max(1, reached))
    if most < 1:
        raise ValueError(f"a membrane or logit of {graph.name} needs more than 32 bits")
    return most

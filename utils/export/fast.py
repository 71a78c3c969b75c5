"""An integer network on the CPU, fast: oneDNN's int8 convolutions, and one compiled loop for what follows each.

The loop integrates, fires and joins: it reads a layer's sums of all time steps once and writes bytes. Images go through
a section of the network at a time, in pieces whose sums stay in the cache: as many as there is room for, since weights
are read again for each piece. Spikes and logits are those of `Runner`, bit for bit.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from full_spike.models.connect import Join
from full_spike.models.fused.compilation import call
from full_spike.models.fused.rule import Operands, Rule
from full_spike.utils.export.graph import INPUT, Conv, Fire, Gate, Graph
from full_spike.utils.export.run import EXACT_FLOAT32, Runner, largest_sum, max_pool, to_bytes

PIECE = 16 << 20  # bytes of one layer's sums and spikes at once

_SPIKES = (0, 1, 0, 1)  # the table of a gate that gives what fired
# a function of one bit, by its values of 0 and 1: the compiler then has no arithmetic left to do
_OF_BIT: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {
    (0, 0): torch.zeros_like,
    (0, 1): lambda bit: bit,
    (1, 0): lambda bit: 1 - bit,
    (1, 1): torch.ones_like,
}


@functools.cache
def _join(table: tuple[int, ...]) -> Join:
    """A gate of whole numbers and of what fired."""
    silent, fired = _OF_BIT[table[0], table[2]], _OF_BIT[table[1], table[3]]
    return Join(str(table), "spikes", "logic", lambda *, identity, residual: torch.where(
        residual, fired(identity), silent(identity)))  # fmt: skip


def integrate(operands: Operands, *outs_and_rule: Any) -> None:
    """Write spikes, or what their gate gives, of sums [T, P, C] or [1, P, C] that are whole numbers.

    Operands: x, scale the threshold and shift the bias, both int32 [C], and the shortcut's spikes uint8 [T, P, C].
    Then T tensors uint8 [P, C] to write to, since a stack of bytes would copy what the loop wrote. Then the rule,
    whose tau is 2 to the number of fraction bits.
    """
    x, threshold, bias, _, shortcut, _ = operands
    *outs, rule = outs_and_rule
    v = torch.zeros_like(x[0], dtype=torch.int32)
    for t, out in enumerate(outs):
        current = x[0 if rule.T else t].to(torch.int32)
        h = v + (current * int(rule.tau or 1) + bias)  # type: ignore[operator]
        fired = h >= threshold  # type: ignore[operator]
        v = torch.where(fired, 0, h)
        identity = v if shortcut is None else shortcut[t].to(torch.int32)
        out.copy_(rule.join.function(identity=identity, residual=fired))


class Int8Conv:
    """oneDNN's int8 convolution: uint8 [M, C, H, W] channels last -> float32 [M, O, H', W'] channels last.

    It sums in int32 and gives float32, which is exact below 2^24.

    Args:
        conv: with int8 weights.
        shape: of its input, (M, C, H, W); weights are laid out for it, and anew in each call for other sizes.
        zero: the zero point of the bytes, which padding then is.
    """

    def __init__(self, conv: Conv, shape: tuple[int, ...], zero: int = 0) -> None:
        self.geometry = list(conv.stride), list(conv.padding), [1, 1], conv.groups
        self.zero, outputs = zero, len(conv.weight)
        self.ones, self.zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
        self.packed = torch.ops.onednn.qconv_prepack(
            conv.weight, self.ones, 1.0, zero, *self.geometry, list(shape)
        )  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.onednn.qconv_pointwise(
            x, 1.0, self.zero, self.packed, self.ones, self.zeros, None, *self.geometry, 1.0, 0, torch.float32, "none",
            [], "",
        )  # fmt: skip
        return y


@functools.cache
def has_int8_convolutions() -> bool:
    """Whether this torch has oneDNN's int8 convolutions, and this CPU instructions that sum them without saturating:
    AVX-512 alone clips sums of two products to 16 bits, with VNNI it does not."""
    if not (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.onednn, "qconv_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    ):
        return False
    weight = torch.full((16, 16, 3, 3), 127, dtype=torch.int8)
    conv = Conv("largest", (INPUT,), (16, 1, 1), weight, None, (1, 1), (0, 0))
    bytes_ = torch.full((1, 16, 3, 3), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    return bool((Int8Conv(conv, bytes_.shape)(bytes_) == 255 * 127 * 16 * 9).all())


class _Section(NamedTuple):
    """Nodes from `first` up to `end`, of which only the last one's spikes are read further on."""

    first: int
    end: int
    images: int  # at once


def _by_step(x: Tensor, steps: int) -> Tensor:
    """[T * n, C, H, W] channels last as [T, n * H * W, C], without a copy."""
    return x.permute(0, 2, 3, 1).reshape(steps, -1, x.shape[1])


def _empty(node: Any, steps: int, images: int) -> Tensor:
    """Memory for a layer's spikes [T, N, H, W, C]."""
    channels, height, width = node.shape
    return torch.empty((steps, images, height, width, channels), dtype=torch.uint8)


class FastRunner(Runner):
    """A `Runner` of an integer network, faster where it can be: on a CPU with AVX-512 and VNNI, for IF neurons."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        nodes = graph.nodes
        names, convs = [node.name for node in nodes], graph.of(Conv)
        self._last_use = {name: i for i, node in enumerate(nodes) for name in node.inputs}
        self.fast = (
            has_int8_convolutions()
            and graph.head.inputs == (names[-2],)
            and self._last_use.keys() >= set(names[:-1])  # a file may hold layers that nobody reads
            and not any(fire.leak for fire in graph.of(Fire))
            and all(largest_sum(graph, conv) < EXACT_FLOAT32 and conv.groups == 1 for conv in convs)
        )
        self._int8 = {
            conv.name: Int8Conv(
                conv, (graph.T, *graph.shape_of(conv.inputs[0])), graph.zero if conv is graph.stem else 0
            )
            for conv in (convs if self.fast else [])
        }
        readers = [name for node in nodes for name in node.inputs]
        # the loop takes in a gate right behind its neuron if nobody else reads that neuron's spikes
        self._gates = {
            fire.name: gate
            for fire, gate in itertools.pairwise(nodes)
            if isinstance(fire, Fire) and isinstance(gate, Gate) and gate.inputs[1] == fire.name
            and readers.count(fire.name) == 1
        }  # fmt: skip
        self._fused_gates = {gate.name for gate in self._gates.values()}

    def _sections(self, steps: int) -> list[_Section]:
        """As few as hold at least twice as many images as the one before, in order."""
        sections: list[_Section] = []
        first, reach = 0, self._last_use[INPUT]  # the last node that reads anything from before
        nodes = self.graph.nodes[:-1]
        for end, node in enumerate(nodes, 1):
            if not isinstance(node, Conv) and reach < end:
                sizes = [math.prod(n.shape) for n in nodes[first:end] if isinstance(n, Conv)]
                before = sections[-1].images if sections else 0
                images = max(1, PIECE // (5 * max(sizes) * steps)) if sizes else before  # sums of 4 bytes, spikes of 1
                if images < 2 * before:
                    first, images = sections.pop().first, min(images, before)
                sections.append(_Section(first, end, images))
                first = end
            reach = max(reach, self._last_use[node.name])
        return sections

    def run(
        self, x: Tensor, state: dict[str, Tensor] | None = None, see: Callable[[str, Tensor], None] | None = None
    ) -> tuple[Tensor, int]:
        usual = (x.ndim == 5) == self.graph.frames and x.is_cpu and x.numel() > 0
        if not (self.fast and usual) or state is not None or see is not None:
            return super().run(x, state, see)
        steps = self.check(x)
        return self._run_sections(x, steps), steps

    @torch.inference_mode()  # elsewhere views know their base, for whose sizes the loops would be compiled again
    def _run_sections(self, x: Tensor, steps: int) -> Tensor:
        """The last spikes' sums [N, C]."""
        values = (x if x.ndim == 5 else x[None]).permute(0, 1, 3, 4, 2)  # [T, N, H, W, C], as they lie in memory
        for section in self._sections(steps):
            outputs = _empty(self.graph.nodes[section.end - 1], steps, values.shape[1])
            count = -(-values.shape[1] // section.images)
            for part, out in zip(*(x.tensor_split(count, dim=1) for x in (values, outputs)), strict=True):
                self._run_piece(section, part, out)
            values = outputs
        return values.sum(dim=(0, 2, 3), dtype=torch.int32)

    def _run_piece(self, section: _Section, x: Tensor, out: Tensor) -> None:
        """Write a section's spikes for a few images' [T, n, H, W, C] to `out` [T, n, H', W', C']."""
        graph = self.graph
        steps, images = out.shape[:2]
        first = x.flatten(0, 1).permute(0, 3, 1, 2)
        if section.first == 0:
            first = to_bytes(graph, first).contiguous(memory_format=torch.channels_last)
        values = {graph.nodes[section.first - 1].name if section.first else INPUT: first}
        last = graph.nodes[section.end - 1].name
        for i, node in enumerate(graph.nodes[section.first : section.end], section.first):
            read, done = list(node.inputs), i
            if node.name in self._fused_gates:
                continue
            if isinstance(node, Conv):
                values[node.name] = self._int8[node.name](values[node.inputs[0]])
            elif isinstance(node, Fire):
                gate = self._gates.get(node.name)
                if gate is not None:
                    read, done = [*read, *gate.inputs], i + 1
                result = gate or node
                spikes = out if result.name == last else _empty(result, steps, images)
                self._fire_into(spikes, node, gate, values)
                if spikes is not out:
                    values[result.name] = spikes.flatten(0, 1).permute(0, 3, 1, 2)
            elif isinstance(node, Gate):
                identity, residual = (values[name] for name in node.inputs)
                function: Any = _join(node.table).function
                values[node.name] = function(identity=identity, residual=residual.bool())
            else:
                values[node.name] = max_pool(node, values[node.inputs[0]])
            for name in read:
                if self._last_use[name] <= done:
                    values.pop(name, None)
        if last in values:  # no loop wrote it
            out.copy_(values[last].permute(0, 2, 3, 1).unflatten(0, (steps, -1)))

    def _fire_into(self, out: Tensor, node: Any, gate: Gate | None, values: dict[str, Tensor]) -> None:
        """Write the spikes of a neuron and its gate to `out` [T, n, H, W, C]."""
        sums, steps = values[node.inputs[0]], len(out)
        static = node.inputs[0] == self.graph.stem.name and not self.graph.frames
        x = _by_step(sums, 1 if static else steps)
        shortcut = None if gate is None else _by_step(values[gate.inputs[0]], steps)
        rule = Rule(
            "", 0.0, float(1 << node.fraction), _join(gate.table if gate else _SPIKES), steps if static else None
        )
        outs = [step.view(-1, sums.shape[1]) for step in out]
        call(integrate, rule, Operands(x, node.threshold, node.bias, None, shortcut), *outs)

"""An integer network on the CPU, fast: oneDNN's int8 convolutions, and one compiled loop for what follows each.

The loop integrates, fires and joins: it reads a layer's sums of all time steps once and writes bytes. Images go through
a section of the network at a time, in pieces whose sums stay in the cache: as many as there is room for, since weights
are read again for each piece. Spikes and logits are those of `Runner`, bit for bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from full_spike.models.connect import Join
from full_spike.models.fused.compilation import call
from full_spike.models.fused.rule import Operands, Rule

from .nodes import INPUT, Graph
from .run import Runner, or_pool
from .sums import EXACT, Int8Sums, has_int8_convolutions

PIECE = 16 << 20  # bytes of one layer's sums and spikes at once

_SPIKES = (0, 1, 0, 1)  # the table of a gate that gives what fired
# a function of one bit, by its values of 0 and 1: the compiler then has no arithmetic left to do
_OF_BIT: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {
    (0, 0): torch.zeros_like,
    (0, 1): lambda bit: bit,
    (1, 0): lambda bit: 1 - bit,
    (1, 1): torch.ones_like,
}


class _Section(NamedTuple):
    """Nodes from `first` up to `end`, of which nothing but the last one's spikes is read further on."""

    first: int
    end: int
    images: int  # at once


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
    x, threshold, bias, _, shortcut = operands
    *outs, rule = outs_and_rule
    v = torch.zeros_like(x[0], dtype=torch.int32)
    for t, out in enumerate(outs):
        current = x[0 if rule.T else t].to(torch.int32)
        h = v + (current * int(rule.tau or 1) + bias)  # type: ignore[operator]
        fired = h >= threshold  # type: ignore[operator]
        v = torch.where(fired, 0, h)
        identity = v if shortcut is None else shortcut[t].to(torch.int32)
        out.copy_(rule.join.function(identity=identity, residual=fired))


def _packed(x: Tensor, steps: int) -> Tensor:
    """[T * n, C, H, W] channels last as [T, n * H * W, C], without a copy."""
    return x.permute(0, 2, 3, 1).reshape(steps, -1, x.shape[1])


def _room(node: Any, steps: int, images: int) -> Tensor:
    """For a layer's spikes [T, N, H, W, C], as they lie in memory."""
    channels, height, width = node.shape
    return torch.empty((steps, images, height, width, channels), dtype=torch.uint8)


class FastRunner(Runner):
    """A `Runner` of an integer network that takes the fast way where there is one: on a CPU with AVX-512, for IF."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        convs = graph.of_kind("conv")
        names = [node.name for node in graph.nodes]
        self.fast = (
            has_int8_convolutions()
            and graph.head.inputs == (names[-2],)
            and self._last_use.keys() >= set(names[:-1])  # a file may hold layers that nobody reads
            and not any(node.leak for node in graph.of_kind("fire"))
            and all(self._sums[node.name].largest < EXACT and node.groups == 1 for node in convs)
        )
        self._int8 = {
            node.name: Int8Sums(
                node, (graph.T, *graph.shape_of(node.inputs[0])), graph.zero if node is graph.stem else 0
            )
            for node in (convs if self.fast else [])
        }
        readers = [name for node in graph.nodes for name in node.inputs]
        # a gate right behind its neuron, whose spikes nobody else reads, is taken in by the loop
        self._gates = {
            fire.name: gate
            for fire, gate in zip(graph.nodes, graph.nodes[1:], strict=False)
            if fire.kind == "fire" and gate.kind == "gate" and gate.inputs[1] == fire.name
            and readers.count(fire.name) == 1
        }  # fmt: skip

    def _sections(self, steps: int) -> list[_Section]:
        """As few as hold at least twice as many images as the one before, in order."""
        sections: list[_Section] = []
        first, reach = 0, self._last_use[INPUT]  # the last node that reads anything from before
        nodes = self.graph.nodes[:-1]
        for end, node in enumerate(nodes, 1):
            if node.kind != "conv" and reach < end:
                sizes = [math.prod(n.shape) for n in nodes[first:end] if n.kind == "conv"]
                before = sections[-1].images if sections else 0
                images = max(1, PIECE // (5 * max(sizes) * steps)) if sizes else before  # sums of 4 bytes, spikes of 1
                if images < 2 * before:
                    first, images = sections.pop().first, min(images, before)
                sections.append(_Section(first, end, images))
                first = end
            reach = max(reach, self._last_use[node.name])
        return sections

    def run(
        self,
        x: Tensor,
        state: dict[str, Tensor] | None = None,
        see: Callable[[str, Tensor], None] | None = None,
    ) -> tuple[Tensor, int]:
        usual = (x.ndim == 5) == self.graph.frames and x.is_cpu and x.numel() > 0
        if not (self.fast and usual) or state is not None or see is not None:
            return super().run(x, state, see)
        self._check_size(x)
        steps = x.shape[0] if x.ndim == 5 else self.graph.T
        self._check_steps(steps)
        return self._whole(x, steps), steps

    @torch.inference_mode()  # elsewhere views know their base, for whose sizes the loops would be compiled again
    def _whole(self, x: Tensor, steps: int) -> Tensor:
        """The head's sums [N, C] of all images."""
        values = (x if x.ndim == 5 else x[None]).permute(0, 1, 3, 4, 2)  # [T, N, H, W, C], as they lie in memory
        for section in self._sections(steps):
            made = _room(self.graph.nodes[section.end - 1], steps, values.shape[1])
            count = -(-values.shape[1] // section.images)
            for part, place in zip(*(x.tensor_split(count, dim=1) for x in (values, made)), strict=True):
                self._piece(section, part, place)
            values = made
        return values.sum(dim=(0, 2, 3), dtype=torch.int32)

    def _piece(self, section: _Section, x: Tensor, place: Tensor) -> None:
        """Write a section's spikes of a few images' [T, n, H, W, C] to `place` [T, n, H', W', C']."""
        graph = self.graph
        steps, images = place.shape[:2]
        read = x.flatten(0, 1).permute(0, 3, 1, 2)
        if section.first == 0:
            read = self.quantised(read).contiguous(memory_format=torch.channels_last)
        values = {(graph.nodes[section.first - 1].name if section.first else INPUT): read}
        taken = {gate.name for gate in self._gates.values()}
        last = graph.nodes[section.end - 1].name
        for i, node in enumerate(graph.nodes[section.first : section.end], section.first):
            if node.name in taken:
                continue
            if node.kind == "conv":
                values[node.name] = self._int8[node.name](values[node.inputs[0]])
            elif node.kind == "fire":
                gate = self._gates.get(node.name)
                made = gate or node
                out = place if made.name == last else _room(made, steps, images)
                self._loop(node, gate, values, out)
                if out is not place:
                    values[made.name] = out.flatten(0, 1).permute(0, 3, 1, 2)
            elif node.kind == "gate":
                values[node.name] = self._gate(node, values)
            else:
                values[node.name] = or_pool(node, values[node.inputs[0]])
            for name in [*node.inputs, *(self._gates[node.name].inputs if node.name in self._gates else ())]:
                if self._last_use[name] <= i + (node.name in self._gates):
                    values.pop(name, None)
        if last in values:  # no loop wrote it
            place.copy_(values[last].permute(0, 2, 3, 1).unflatten(0, (steps, -1)))

    def _gate(self, node: Any, values: dict[str, Tensor]) -> Tensor:
        identity, residual = (values[name] for name in node.inputs)
        result: Tensor = _join(node.table).function(identity=identity, residual=residual.bool())  # type: ignore[misc]
        return result

    def _loop(self, node: Any, gate: Any, values: dict[str, Tensor], place: Tensor) -> None:
        """Write the spikes of a neuron and its gate to `place` [T, n, H, W, C]."""
        sums, steps = values[node.inputs[0]], len(place)
        static = node.inputs[0] == self.graph.stem.name and not self.graph.frames
        x = _packed(sums, 1 if static else steps)
        shortcut = None if gate is None else _packed(values[gate.inputs[0]], steps)
        join = _join(gate.table if gate else _SPIKES)
        rule = Rule("", 0.0, float(1 << node.fraction), join, steps if static else None)
        outs = [step.view(-1, sums.shape[1]) for step in place]
        call(integrate, rule, Operands(x, node.threshold, node.bias, None, shortcut), *outs)

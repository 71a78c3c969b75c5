"""An integer network on the CPU, fast: oneDNN's int8 convolutions, and one compiled loop for what follows each.

The loop integrates, fires and joins: it reads a layer's sums of all time steps once and writes bytes. Images go through
the whole network in pieces whose sums stay in the cache. Spikes and logits are those of `Runner`, bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..connect import Join
from ..fused.compilation import call
from ..fused.rule import Operands, Rule
from .nodes import Graph
from .run import Runner, or_pool
from .sums import EXACT, Int8Sums, has_int8_convolutions

PIECE = 8 << 20  # bytes of one layer's sums at once


@functools.cache
def _join(table: tuple[int, ...]) -> Join:
    """A gate as the polynomial of whole numbers that it is."""
    none, residual, identity, both = table
    i, r, product = identity - none, residual - none, both - identity - residual + none
    return Join(str(table), "spikes", "logic", lambda *, identity, residual: none + i * identity + r * residual
                + product * (identity * residual))  # fmt: skip


def integrate(operands: Operands, rule: Rule) -> Tensor:
    """Spikes, or what their gate gives, uint8 [T, P, C], of sums [T, P, C] or [1, P, C] that are whole numbers.

    Operands: x, scale the threshold and shift the bias, both int32 [C], and the shortcut's spikes uint8 [T, P, C].
    `rule.tau` is 2 to the number of fraction bits.
    """
    x, threshold, bias, _, shortcut = operands
    out = []
    v = torch.zeros_like(x[0], dtype=torch.int32)
    for t in range(rule.T or x.shape[0]):
        current = x[0 if rule.T else t].to(torch.int32)
        h = v + (current * int(rule.tau or 1) + bias)  # type: ignore[operator]
        fired = h >= threshold  # type: ignore[operator]
        v = torch.where(fired, 0, h)
        s = torch.where(fired, 1, 0).to(torch.int32)
        if shortcut is not None:
            s = rule.join.function(identity=shortcut[t].to(torch.int32), residual=s)  # type: ignore[union-attr, misc]
        out.append(s.to(torch.uint8))
    return torch.stack(out)


def _packed(x: Tensor, steps: int) -> Tensor:
    """[T * n, C, H, W] channels last as [T, n * H * W, C], without a copy."""
    return x.permute(0, 2, 3, 1).reshape(steps, -1, x.shape[1])


class FastRunner(Runner):
    """A `Runner` of an integer network that takes the fast way where there is one: on a CPU with AVX-512, for IF."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        body = [node for node in graph.of_kind("conv") if node is not graph.stem]
        self.fast = (
            has_int8_convolutions()
            and not any(node.leak for node in graph.of_kind("fire"))
            and all(self._sums[node.name].largest < EXACT and node.groups == 1 for node in body)
        )
        self._int8 = {node.name: Int8Sums(node) for node in body} if self.fast else {}
        readers = [name for node in graph.nodes for name in node.inputs]
        # a gate right behind its neuron, whose spikes nobody else reads, is taken in by the loop
        self._gates = {
            fire.name: gate
            for fire, gate in zip(graph.nodes, graph.nodes[1:], strict=False)
            if fire.kind == "fire" and gate.kind == "gate" and gate.inputs[1] == fire.name
            and readers.count(fire.name) == 1
        }  # fmt: skip
        sizes = [node.shape[0] * node.shape[1] * node.shape[2] for node in graph.of_kind("conv")]
        self._largest = 4 * max(sizes)  # bytes of one image's sums in one time step

    def run(
        self,
        x: Tensor,
        state: dict[str, Tensor] | None = None,
        see: Callable[[str, Tensor], None] | None = None,
    ) -> tuple[Tensor, int]:
        if not self.fast or state is not None or see is not None or not x.is_cpu:
            return super().run(x, state, see)
        x = self._prepared(x)
        steps = x.shape[0] if x.ndim == 5 else self.graph.T
        self._check_steps(steps)
        piece = max(1, PIECE // (self._largest * steps))
        return torch.cat([self._piece(part, steps) for part in x.split(piece, dim=x.ndim - 4)]), steps

    def _stem(self, x: Tensor) -> Tensor:
        node, last = self.graph.stem, torch.channels_last
        values = x.flatten(0, 1) if x.ndim == 5 else x
        values = values.to(torch.float32, memory_format=last)
        if self.graph.zero:
            values = values - self.graph.zero
        weight = node.weight.to(torch.float32, memory_format=last)
        return F.conv2d(values, weight, None, node.stride, node.padding)

    def _piece(self, x: Tensor, steps: int) -> Tensor:
        """The head's sums [n, C] of a few images."""
        graph = self.graph
        values: dict[str, Tensor] = {}
        taken = {gate.name for gate in self._gates.values()}
        for i, node in enumerate(graph.nodes[:-1]):
            if node.name in taken:
                continue
            if node.kind == "conv":
                values[node.name] = (
                    self._stem(x) if node is graph.stem else self._int8[node.name](values[node.inputs[0]])
                )
            elif node.kind == "fire":
                gate = self._gates.get(node.name)
                made = gate or node
                values[made.name] = self._loop(node, gate, values, steps)
            elif node.kind == "gate":
                values[node.name] = self._gate(node, values)
            else:
                values[node.name] = or_pool(node, values[node.inputs[0]])
            for name in [*node.inputs, *(self._gates[node.name].inputs if node.name in self._gates else ())]:
                if self._last_use[name] <= i + (node.name in self._gates):
                    values.pop(name, None)
        spikes = values[graph.head.inputs[0]]
        return spikes.unflatten(0, (steps, -1)).sum(dim=(0, 3, 4), dtype=torch.int32)

    def _gate(self, node: Any, values: dict[str, Tensor]) -> Tensor:
        identity, residual = (values[name] for name in node.inputs)
        result: Tensor = _join(node.table).function(identity=identity, residual=residual)  # type: ignore[misc]
        return result.to(torch.uint8)

    def _loop(self, node: Any, gate: Any, values: dict[str, Tensor], steps: int) -> Tensor:
        sums = values[node.inputs[0]]
        static = node.inputs[0] == self.graph.stem.name and not self.graph.frames
        x = _packed(sums, 1 if static else steps)
        shortcut = None if gate is None else _packed(values[gate.inputs[0]], steps)
        join = None if gate is None else _join(gate.table)
        rule = Rule("", 0.0, float(1 << node.fraction), join, steps if static else None)
        spikes = call(integrate, rule, Operands(x, node.threshold, node.bias, None, shortcut))
        _, _, height, width = sums.shape
        return spikes.view(-1, height, width, spikes.shape[-1]).permute(0, 3, 1, 2)

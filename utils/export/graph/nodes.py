"""The description of a network that is to run elsewhere: an ordered list of what it computes, with its numbers.

Every node works on one time step of one image, [C, H, W]; only a `Fire` remembers anything from one step to the next.
Writers of other formats tell nodes apart by `kind`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

INPUT = "input"  # what the first layer reads


@dataclass(frozen=True)
class Node:
    """One layer.

    name: of the module that it was made of.
    inputs: the nodes that it reads, or `INPUT`.
    shape: what it gives for one time step of one image: (C, H, W), or (classes,).
    """

    kind: ClassVar[str]
    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Conv(Node):
    """Sums of weights: current = w * x + b, or w * x alone where `bias` is None.

    weight: [O, I / groups, kh, kw]; float32, or int8 of an integer network.
    bias: [O] or None.
    """

    kind: ClassVar[str] = "conv"
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int = 1


@dataclass(frozen=True)
class Fire(Node):
    """A neuron: h = charge(v, x); s = [h >= threshold]; v = 0 where it fired, else h.

    neuron: IF: h = v + x. LIF: h = v + (x - v) / time. PLIF: h = v + (x - v) * time.
    threshold: a number; [C] int32 of an integer network.
    time: the time constant of LIF, the learned rate of PLIF; None for IF.
    gain: what the input is multiplied by.

    Of an integer network alone, whose v counts 2^-fraction of the weights' unit, with x = (sum << fraction) + b:

    bias: b, [C] int32.
    leak: (sign, shift) of each term of h = v + sum of sign * ((x - v) >> shift); empty for IF.
    """

    kind: ClassVar[str] = "fire"
    neuron: str
    threshold: float | Tensor
    time: float | None = None
    gain: float = 1.0
    bias: Tensor | None = None
    leak: tuple[tuple[int, int], ...] = ()
    fraction: int = 0


@dataclass(frozen=True)
class Gate(Node):
    """A Boolean function of two spikes; inputs are (identity, residual).

    join: its name.
    table: its value for (identity, residual) = (0, 0), (0, 1), (1, 0), (1, 1).
    """

    kind: ClassVar[str] = "gate"
    join: str
    table: tuple[int, int, int, int]


@dataclass(frozen=True)
class Add(Node):
    """A sum of two inputs: of currents in front of a neuron, or of spikes, which are none any more then."""

    kind: ClassVar[str] = "add"


@dataclass(frozen=True)
class Pool(Node):
    """The maximum over windows; of spikes, whether any is 1. Padding is never the maximum."""

    kind: ClassVar[str] = "pool"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True)
class Attention(Node):
    """Q K^T V in each head, counts of spikes, with a position of the map as a token; inputs are (q, k, v).

    heads: each has a share of the channels, one after the other.
    """

    kind: ClassVar[str] = "attention"
    heads: int

    @property
    def channels_first(self) -> bool:
        """Whether K^T V, of the channels with each other, is the cheaper product."""
        channels, height, width = self.shape
        return channels // self.heads <= height * width


@dataclass(frozen=True)
class Head(Node):
    """The classifier, of the mean over height, width and time: logits = w * mean + b.

    weight: [classes, C]; bias: [classes]. Of an integer network int8 and int32: logits = w * sum + (time steps) * b.
    """

    kind: ClassVar[str] = "head"
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Graph:
    """A network.

    nodes: in an order in which they can run; the last one is the head.
    T: time steps that a static image is shown for, or frames of a sequence.
    frames: whether its input is a sequence of frames [T, N, C, H, W]; else images [N, C, H, W].
    input_shape: (C, H, W).
    config: of the model.
    bits: of the weights of an integer network; None for one of floats.
    scale, zero: of an integer network, whose input is the byte clamp(round(x / scale) + zero, 0, 255).
    logit_scale: of an integer network; the float logits are its int32 ones times this.
    """

    nodes: tuple[Any, ...]
    T: int
    frames: bool
    input_shape: tuple[int, int, int]
    config: dict[str, Any] = field(default_factory=dict)
    bits: int | None = None
    scale: float = 1.0
    zero: int = 0
    logit_scale: float = 1.0

    @property
    def integer(self) -> bool:
        return self.bits is not None

    @property
    def stem(self) -> Any:
        """The convolution that reads values."""
        return next(node for node in self.nodes if node.inputs == (INPUT,))

    @property
    def head(self) -> Any:
        return self.nodes[-1]

    @property
    def name(self) -> str:
        return " ".join(str(self.config[key]) for key in ("model", "connect_f") if key in self.config)

    def of_kind(self, kind: str) -> list[Any]:
        return [node for node in self.nodes if node.kind == kind]

    def node(self, name: str) -> Any:
        return next(node for node in self.nodes if node.name == name)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """What a node, or the input, gives for one time step of one image."""
        return self.input_shape if name == INPUT else self.node(name).shape

    def largest_inputs(self) -> dict[str, int]:
        """Node -> the largest value that it can give; the input and currents have none. 1 means spikes."""
        largest: dict[str, int] = {}
        for node in self.nodes:
            known = [largest.get(name, 0) for name in node.inputs]
            if node.kind in ("fire", "gate"):
                largest[node.name] = 1
            elif node.kind == "add":
                largest[node.name] = sum(known) if all(known) else 0
            elif node.kind == "pool":
                largest[node.name] = known[0]
        return largest

    def require_binary(self, target: str) -> None:
        """Raises ValueError if anything but 0 and 1 goes from layer to layer."""
        for node in self.of_kind("add"):
            raise ValueError(
                f"{node.name} adds, so {self.name} is not full-spike and cannot become {target}: use a network whose "
                "join is AND, IAND, OR or XOR"
            )

    def with_nodes(self, nodes: dict[str, Any], **changes: Any) -> Graph:
        """A copy in which some nodes, by name, and some fields are others."""
        return dataclasses.replace(self, nodes=tuple(nodes.get(n.name, n) for n in self.nodes), **changes)

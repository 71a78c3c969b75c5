"""What a network computes, as a list of nodes with their numbers: the description that every export starts from.

Each node works on one time step of one image, [C, H, W]; only a `Fire` remembers anything from one step to the next.
`describe` makes the list by running the network once and watching what each layer reads. Layers hand tensors on as they
are or as views, so the memory that a layer reads tells which layer filled it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from spikingjelly.activation_based.neuron import BaseNode
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import _pair
from torch.utils.hooks import RemovableHandle

from full_spike.models import fold_batchnorm, use_fused
from full_spike.models.connect import JoinLayer
from full_spike.utils.measure.hooks import hooked

INPUT = "input"  # what the first layer reads


@dataclass(frozen=True)
class Node:
    """One layer.

    name: of its module.
    inputs: names of the nodes it reads, or `INPUT`.
    shape: of its output for one time step of one image: (C, H, W), or (classes,).
    """

    kind: ClassVar[str]
    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Conv(Node):
    """Weighted sums: current = w * x + b, without b where `bias` is None.

    weight: [O, I / groups, kh, kw]; float32, or int8 in an integer network.
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
    threshold: a number; [C] int32 in an integer network.
    time: the time constant of LIF, the learned rate of PLIF; None for IF.
    gain: factor of the input.

    In an integer network v counts 2^-fraction of the weights' unit, x = (sum << fraction) + bias, and

    bias: [C] int32.
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
    """A sum of two inputs: of currents before a neuron, or of spikes, whose sum is no spike."""

    kind: ClassVar[str] = "add"


@dataclass(frozen=True)
class Pool(Node):
    """The maximum over windows; for spikes, whether any is 1. Padding never wins."""

    kind: ClassVar[str] = "pool"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def end_padding(self, size: Sequence[int]) -> list[int]:
        """How far the last windows reach past an input of this (height, width)."""
        sides = zip(self.shape[1:], self.stride, self.kernel, self.padding, size, strict=True)
        return [max(0, (out - 1) * s + k - p - n) for out, s, k, p, n in sides]


@dataclass(frozen=True)
class Attention(Node):
    """Q K^T V in each head, as counts of spikes; each position of the map is a token; inputs are (q, k, v).

    heads: each has its share of the channels, one after the other.
    """

    kind: ClassVar[str] = "attention"
    heads: int

    @property
    def channels_first(self) -> bool:
        """Whether K^T V, channels by channels, is the cheaper product."""
        channels, height, width = self.shape
        return channels // self.heads <= height * width


@dataclass(frozen=True)
class Head(Node):
    """The classifier of the mean over height, width and time: logits = w * mean + b.

    weight: [classes, C]; bias: [classes]. In an integer network int8 and int32: logits = w * sum + (time steps) * b.
    """

    kind: ClassVar[str] = "head"
    weight: Tensor
    bias: Tensor


KINDS: tuple[Any, ...] = (Conv, Fire, Gate, Add, Pool, Attention, Head)
SPIKING = (Fire, Gate, Pool)  # whose outputs are spikes in a full-spike network; what runtimes are compared on
Kind = TypeVar("Kind", bound=Node)


@dataclass(frozen=True)
class Graph:
    """A network.

    nodes: in an order in which they can run; the last one is the head.
    T: time steps that a static image is shown for, or frames of a sequence.
    frames: whether its input is a sequence of frames [T, N, C, H, W]; else images [N, C, H, W].
    input_shape: (C, H, W).
    config: of the model.
    bits: of the weights of an integer network; None for floats.
    scale, zero: of an integer network, whose input is the byte clamp(round(x / scale) + zero, 0, 255).
    logit_scale: of an integer network; the float logits are its int32 ones times this.
    metadata: "classes", their names, and "inputs", how an input is made of a file; as checkpoints have them.
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
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def integer(self) -> bool:
        return self.bits is not None

    @property
    def stem(self) -> Conv:
        """The convolution that reads values."""
        return next(node for node in self.nodes if node.inputs == (INPUT,))

    @property
    def head(self) -> Head:
        return self.nodes[-1]

    @property
    def name(self) -> str:
        return " ".join(str(self.config[key]) for key in ("model", "connect_f") if key in self.config)

    @property
    def facts(self) -> dict[str, str]:
        """What a file says besides the network, so that it alone predicts: text, or JSON."""
        found = {"network": self.name, "T": self.T, "bits": self.bits or "float32", "logit_scale": self.logit_scale}
        return {k: v if isinstance(v, str) else json.dumps(v) for k, v in {**found, **self.metadata}.items()}

    def of(self, *kinds: type[Kind]) -> list[Kind]:
        return [node for node in self.nodes if isinstance(node, kinds)]

    def node(self, name: str) -> Any:
        return next(node for node in self.nodes if node.name == name)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Of the output of a node, or of the input, for one time step of one image."""
        return self.input_shape if name == INPUT else self.node(name).shape

    def walk(self, layers: Any, value: Any, see: Callable[[str, Any], None] | None = None) -> Any:
        """What the head comes to: every node in order, by the method of `layers` that is named as its kind.

        Args:
            layers: called with a node and the values of its inputs, gives the node's: tensors, or names in a file.
            value: of the input.
            see: called with the name and the value of every node but the head.
        """
        last_use = {name: i for i, node in enumerate(self.nodes) for name in node.inputs}
        values = {INPUT: value}
        for i, node in enumerate(self.nodes):
            made = getattr(layers, node.kind)(node, *(values[name] for name in node.inputs))
            if see is not None and node is not self.head:
                see(node.name, made)
            for name in set(node.inputs):
                if last_use[name] == i:
                    del values[name]
            values[node.name] = made
        return made

    def require_binary(self, target: str) -> None:
        """Raises ValueError if anything but 0 and 1 goes from layer to layer."""
        for node in self.of(Add, Attention):
            does, use = "adds", "use a network whose join is AND, IAND, OR or XOR"
            if isinstance(node, Attention):
                does, use = "is attention, which counts spikes", "export floats to ONNX"
            raise ValueError(f"{node.name} {does}, so {self.name} cannot become {target}: {use}")

    def with_nodes(self, nodes: dict[str, Any], **changes: Any) -> Graph:
        """A copy with some nodes, by name, and some fields replaced."""
        return dataclasses.replace(self, nodes=tuple(nodes.get(n.name, n) for n in self.nodes), **changes)


# From modules to nodes


def _values(parameter: Tensor) -> Tensor:
    return parameter.detach().clone().float()


def _conv(module: nn.Conv2d, **node: Any) -> Conv:
    if module.padding_mode != "zeros" or module.dilation != (1, 1) or isinstance(module.padding, str):
        raise ValueError(f"{node['name']} is dilated or pads with other values than zeros: use a plain convolution")
    bias = torch.zeros(module.out_channels) if module.bias is None else _values(module.bias)
    geometry: Any = {"stride": module.stride, "padding": module.padding, "groups": module.groups}
    return Conv(weight=_values(module.weight), bias=bias, **geometry, **node)


def _fire(module: Any, **node: Any) -> Fire:
    spec = getattr(module, "spec", None)
    if spec is None or spec.kind not in ("IF", "LIF", "PLIF") or module.v_reset != 0.0:
        raise ValueError(
            f"{node['name']} is a {type(module).__name__}: only IF, LIF and PLIF with a reset to 0 can be described"
        )
    if not getattr(module, "decay_input", True):
        raise ValueError(f"{node['name']} takes its current in undecayed: use decay_input=True")
    time = float(spec.rate) if spec.rate is not None else spec.tau
    return Fire(neuron=spec.kind, threshold=spec.threshold, time=time, gain=spec.gain, **node)


def _join(module: JoinLayer, inputs: tuple[str, ...], **node: Any) -> Gate | Add:
    node["inputs"] = inputs[::-1]  # `JoinLayer.forward` takes (residual, identity)
    function: Any = module.join.function
    values = [float(function(identity=float(i), residual=float(r))) for i in (0, 1) for r in (0, 1)]
    if set(values) <= {0.0, 1.0} and module.acts_on == "spikes":
        table: Any = tuple(map(int, values))
        return Gate(join=module.name, table=table, **node)
    if values != [0.0, 1.0, 1.0, 2.0]:
        raise ValueError(f"{node['name']} joins by {module.name}, neither a gate nor a sum: use another join")
    return Add(**node)


def _pool(module: nn.MaxPool2d, **node: Any) -> Pool:
    return Pool(kernel=_pair(module.kernel_size), stride=_pair(module.stride), padding=_pair(module.padding), **node)


_MAKERS: dict[Any, Callable[..., Any]] = {nn.Conv2d: _conv, BaseNode: _fire, JoinLayer: _join, nn.MaxPool2d: _pool}


class _Trace:
    """Nodes in the order in which their modules run."""

    def __init__(self, model: Any, example: Tensor) -> None:
        self.model = model
        self.nodes: list[Any] = []
        self._alive = [example]  # so that no other tensor is given their memory
        self._sources = {example.untyped_storage().data_ptr(): INPUT}
        self._pooled: tuple[str, ...] = ()  # what the average pooling reads

    def hooks(self) -> Iterator[RemovableHandle]:
        for name, module in self.model.named_modules():
            if callable(getattr(module, "product", None)):  # attention, which reshapes by copying on the way
                module.product = functools.partial(self._product, f"{name}.product", module.heads, module.product)
            yield module.register_forward_hook(functools.partial(self._after, name), with_kwargs=True)

    def _after(self, name: str, module: Any, args: tuple, kwargs: dict[str, Tensor], output: Tensor) -> None:
        """A module has run."""
        maker = next((maker for kind, maker in _MAKERS.items() if isinstance(module, kind)), None)
        if module is self.model.classifier:
            shape = tuple(output.shape[1:])
            self.nodes.append(Head(name, self._pooled, shape, _values(module.weight), _values(module.bias)))
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            self._pooled = self._inputs(name, *args)
        elif maker is not None:
            inputs = self._inputs(name, *args, *kwargs.values())
            self._add(maker(module, name=name, inputs=inputs, shape=tuple(output.shape[-3:])), output)
        elif isinstance(module, _BatchNorm | nn.Linear | nn.modules.pooling._AvgPoolNd):
            raise ValueError(f"{name} ({type(module).__name__}) is of a kind that cannot be described")

    def _product(self, name: str, heads: int, product: Callable[..., Tensor], *qkv: Tensor) -> Tensor:
        inputs, output = self._inputs(name, *qkv), product(*qkv)
        self._add(Attention(name, inputs, tuple(output.shape[-3:]), heads), output)
        return output

    def _inputs(self, name: str, *tensors: Tensor) -> tuple[str, ...]:
        try:
            return tuple(self._sources[x.untyped_storage().data_ptr()] for x in tensors)
        except KeyError:
            raise ValueError(
                f"{name} reads what no layer of a known kind gave: write what is between as a layer of models.layers"
            ) from None

    def _add(self, node: Any, output: Tensor) -> None:
        self.nodes.append(node)
        self._sources[output.untyped_storage().data_ptr()] = node.name
        self._alive.append(output)


@torch.no_grad()
def describe(model: Any, size: tuple[int, int], frames: bool | None = None) -> Graph:
    """The description of a network of this package, batch norms folded.

    Args:
        size: (height, width) of its images.
        frames: whether it reads sequences of frames, by default those networks do that are made for events.

    Raises:
        ValueError: its pathway is attached, a layer is of a kind that cannot be described, or the images are too small.
    """
    if getattr(model, "aap", None) is not None:
        raise ValueError(
            f"{model.config['model']} still has its pathway, which adds: take it off by detach_aap, or use --detach-aap"
        )
    if isinstance(size, int):
        raise ValueError(f"size={size} is one number: give (height, width)")
    plain: Any = copy.deepcopy(model).eval().cpu().float()
    plain.by_step = False
    if any(isinstance(module, _BatchNorm) for module in plain.modules()):
        plain = fold_batchnorm(plain)
    use_fused(plain, False)
    shape = (int(plain.in_channels), *size)
    example = torch.zeros(1, 1, *shape)
    trace = _Trace(plain, example)
    with hooked(trace.hooks()):
        try:
            plain(example)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"images of {size[0]}x{size[1]} do not fit this network: {reason}") from None
    config = dict(getattr(model, "config", {}))
    metadata = {name: getattr(model, name) for name in ("classes", "inputs") if getattr(model, name, None)}
    frames = bool(plain.event_frames) if frames is None else frames
    return Graph(tuple(trace.nodes), int(plain.T), frames, shape, config, metadata=metadata)

"""What a network is made of: its layers in the order in which they run, with shapes, parameters and operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from full_spike.utils.measure.counter import ExactCounter
from full_spike.utils.measure.hooks import hooked
from full_spike.utils.measure.layers import WEIGHTED, evaluating, is_join, layer_kind, layers
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

READS = {"stem": "input", "pathway": "sums", "head": "rates"}  # by part; layers of the body read spikes or values
OWN_LINE = ("conv", "linear", "max pool", "avg pool", "accumulate")


@dataclass(frozen=True)
class Line:
    """A convolution, linear layer or pooling, with what follows it: norm, neuron, join.

    name: of the module in the network.
    kind: e.g. "conv 3x3 / 2".
    shape: of what it gives, for one image: [T, C, H, W], or [C, H, W] of what is computed once, or [classes].
    parameters: its own and those of what follows.
    macs: multiplications with an addition, for one image and all time steps, if every input took part.
    reads: input, spikes, values, sums or rates; empty for what has no weights.
    then: what follows it.
    stream: trunk or pathway.
    block: the residual block that it is in, or "".
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int = 0
    macs: int = 0
    reads: str = ""
    then: tuple[str, ...] = ()
    stream: str = "trunk"
    block: str = ""


@dataclass(frozen=True)
class Summary:
    """All lines of a network, its parameters, and whether anything but spikes enters a layer of its body."""

    title: str
    lines: list[Line]
    parameters: int
    inputs: tuple[int, ...] = field(default=())

    def macs(self, stream: str | None = None) -> int:
        """Of one stream, or of all."""
        return sum(line.macs for line in self.lines if stream in (None, line.stream))

    @property
    def streams(self) -> list[str]:
        return list(dict.fromkeys(line.stream for line in self.lines))


@torch.no_grad()
def summarise(model: Any, inputs: Tensor) -> Summary:
    """Run a network once and list its layers.

    Args:
        model: on the device of the inputs; its norms should let random weights spike (`sample_data.set_norms`).
        inputs: images [N, C, H, W] or frames [T, N, C, H, W].

    Raises:
        UserError: it has a layer that cannot be recognised.
    """
    calls: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    images = inputs.shape[1] if inputs.ndim == 5 else inputs.shape[0]
    pathway = getattr(model, "aap", None)

    def keep(name: str) -> Any:
        return lambda module, _inputs, output: calls.append((name, module, tuple(output.shape)))

    def register() -> Iterator[RemovableHandle]:
        for name, module in layers(model):
            if layer_kind(name, module) or is_join(module) or module is pathway:
                yield module.register_forward_hook(keep(name))

    counter = ExactCounter(model)
    with evaluating(model), counter, hooked(register()):
        model(inputs)
    rows = {row.name: row for row in counter.rows()}
    config = getattr(model, "config", {})
    T = inputs.shape[0] if inputs.ndim == 5 else config.get("T", 1)
    lines: list[Line] = []
    seen: dict[str, int] = {}
    for name, module, shape in calls:
        kind = "accumulate" if module is pathway else layer_kind(name, module)
        if kind not in OWN_LINE:
            _append(lines, name, module, kind)
            continue
        seen[name] = seen.get(name, 0) + 1
        row = rows.get(name if seen[name] == 1 else f"{name} (call {seen[name]})")
        part = row.part if row else "body"
        reads = (
            "" if kind not in ("conv", "linear") else READS.get(part) or ("spikes" if row and row.spikes else "values")
        )
        trunk = part != "pathway" and module is not pathway and seen[name] == 1
        weights: Any = getattr(module, "weight", None)
        lines.append(
            Line(
                name,
                _in_words(kind, module),
                _shape(shape, images, T),
                sum(p.numel() for p in module.parameters()) if isinstance(module, WEIGHTED) and seen[name] == 1 else 0,
                0 if weights is None else _numel(shape) * weights[0].numel() // images,
                reads,
                stream="trunk" if trunk else "pathway",
            )
        )
    blocks = {name.rpartition(".")[0] for name, module in layers(model) if is_join(module)}
    lines = [replace(line, block=_block(line.name, blocks)) for line in lines]
    title = f"{config.get('model', type(model).__name__)}"
    title += f" {config['connect_f']}" if config.get("connect_f") else ""
    return Summary(title, lines, sum(p.numel() for p in model.parameters()), tuple(inputs.shape))


def _append(lines: list[Line], name: str, module: Any, kind: str | None) -> None:
    """Add a norm, a neuron or a join to the line that it follows."""
    if not lines:
        return
    if kind is None and module.acts_on == "none":
        return
    words = (
        f"join {module.name}"
        if kind is None
        else type(module).__name__.removesuffix("Node")
        if kind == "neuron"
        else kind
    )
    own = sum(p.numel() for p in module.parameters(recurse=False))
    lines[-1] = replace(lines[-1], then=(*lines[-1].then, words), parameters=lines[-1].parameters + own)


def _in_words(kind: str, module: Any) -> str:
    size = getattr(module, "kernel_size", None)
    if size is None:
        return kind
    sides = size if isinstance(size, tuple) else (size, size)
    stride = module.stride if isinstance(module.stride, tuple) else (module.stride,)
    deep = "depthwise " if kind == "conv" and module.groups == module.in_channels > 1 else ""
    return f"{deep}{kind} {'x'.join(map(str, sides))}" + (f" / {stride[0]}" if stride[0] != 1 else "")


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _shape(shape: tuple[int, ...], images: int, T: int) -> tuple[int, ...]:
    """For one image: layers see [T, N, ...], [T * N, ...] or [N, ...]."""
    if len(shape) == 5:
        return (shape[0], *shape[2:])
    if len(shape) == 4 and shape[0] == images * T and T > 1:
        return (T, *shape[1:])
    return shape[1:]


def _block(name: str, blocks: set[str]) -> str:
    inside = [block for block in blocks if name.startswith(f"{block}.")]
    return max(inside, key=len, default="")

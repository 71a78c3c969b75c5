"""An integer network as a file: `integer.pth` of tensors, numbers, names and lists alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from full_spike.utils import checkpoint
from full_spike.utils.errors import UserError
from full_spike.utils.export.fast import FastRunner
from full_spike.utils.export.graph import KINDS, Conv, Fire, Graph, Head
from full_spike.utils.export.run import Runner

FILE = "integer.pth"
VERSION = 2
_DTYPES = {"weight": torch.int8, "bias": torch.int32, "threshold": torch.int32}


def to_plain(graph: Graph) -> dict[str, Any]:
    """A graph as a dictionary for `from_plain`; weights of 4 bits are two in a byte."""
    nodes = [{"kind": node.kind, **vars(node)} for node in graph.nodes]
    for node in nodes if graph.bits == 4 else ():
        if node["kind"] == Conv.kind:
            node["packed"], node["weight"] = tuple(node["weight"].shape), pack(node["weight"])
    return {"version": VERSION, **vars(graph), "nodes": nodes}


def pack(weight: Tensor) -> Tensor:
    """Whole numbers of -8..7, of any shape -> two of them in each byte, the first in its lower half."""
    flat = weight.flatten()
    flat = torch.cat([flat, flat.new_zeros(len(flat) % 2)]).view(torch.uint8) & 15
    return flat[0::2] | flat[1::2] << 4


def unpack(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    size = torch.Size(shape).numel()
    flat = torch.stack([packed & 15, packed >> 4], 1).view(torch.int8).flatten()[:size]
    return ((flat ^ 8) - 8).view(shape)


def from_plain(plain: Any) -> Graph:
    """The integer network that `to_plain` wrote.

    Raises:
        ValueError: it is something else, or damaged.
    """
    if not isinstance(plain, dict) or plain.get("version") != VERSION:
        raise ValueError("it holds no integer network of this version")
    try:
        graph = _graph(**{name: value for name, value in plain.items() if name != "version"})
        _check_shapes(graph)
    except Exception as error:  # whatever fields of other types and sizes lead to
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from None
    return graph


def _graph(nodes: Any, **fields: Any) -> Graph:
    kinds = {kind.kind: kind for kind in KINDS}
    made = []
    for node in nodes:
        values = {name: value for name, value in node.items() if name not in ("kind", "packed")}
        if "packed" in node:
            values["weight"] = unpack(node["weight"], node["packed"])
        made.append(kinds[node["kind"]](**values))
    return Graph(tuple(made), **fields)


def _check_shapes(graph: Graph) -> None:
    """Run the network without numbers, and compare the shapes that come out with those that are described."""
    if not (graph.bits in (4, 8) and graph.zero in (0, 128) and graph.scale > 0 < graph.logit_scale):
        raise ValueError("bits or scales out of range")
    if not (isinstance(graph.head, Head) and graph.T >= 1):
        raise ValueError("no classifier, or time steps out of range")
    for node in graph.nodes:
        for name, dtype in _DTYPES.items():
            value = getattr(node, name, None)
            if isinstance(value, Tensor) and value.dtype != dtype:
                raise ValueError(f"{node.name} has a {name} of {value.dtype}")
        shapes = [
            getattr(getattr(node, name), "shape", None) for name in ("threshold", "bias") if isinstance(node, Fire)
        ]
        if any(shape != node.shape[:1] for shape in shapes):
            raise ValueError(f"{node.name} has thresholds of another shape")

    def check(name: str, output: Tensor) -> None:
        if tuple(output.shape[2:]) != tuple(graph.shape_of(name)):
            raise ValueError(f"{name} has another shape")

    steps = (graph.T,) if graph.frames else ()
    runner = Runner(graph)
    x = torch.empty(*steps, 1, *graph.input_shape, dtype=torch.uint8, device="meta")
    logits = runner.logits(*runner.run(x, see=check))
    if tuple(logits.shape[1:]) != tuple(graph.head.shape):
        raise ValueError(f"{graph.head.name} has another shape")


def write_integer(graph: Graph, folder: Path) -> None:
    """Write integer.pth."""
    checkpoint.write(folder / FILE, {"graph": to_plain(graph)})


def read_integer(path: Path) -> FastRunner:
    """The integer network of an integer.pth.

    Raises:
        UserError: the file is missing or damaged, or holds no integer network.
    """
    content = checkpoint.load(path)
    try:
        return FastRunner(from_plain(content.get("graph") if isinstance(content, dict) else None))
    except ValueError as error:
        raise UserError(f"{path} is damaged or no integer network ({error}): export it again") from None


class IntegerRuntime:
    """torch, over the file."""

    name = "torch, in integers"

    def __init__(self, folder: Path, _graph: Graph) -> None:
        self.runner = read_integer(folder / FILE)
        self.spikes, self.logits = self.runner.spikes, self.runner

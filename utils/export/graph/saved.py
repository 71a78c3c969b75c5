"""An integer network as plain data, for a file: tensors, numbers, texts and lists alone."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .nodes import Conv, Fire, Gate, Graph, Head, Pool
from .run import max_steps

VERSION = 2  # 1 had a byte for each weight of 4 bits
_KINDS: dict[str, Any] = {kind.kind: kind for kind in (Conv, Fire, Gate, Pool, Head)}
_DTYPES = {"weight": torch.int8, "bias": torch.int32, "threshold": torch.int32}
_MOST = 1 << 16  # of a size, and of a graph's nodes


def to_plain(graph: Graph) -> dict[str, Any]:
    """A graph as a dictionary, of which `from_plain` makes the same graph; weights of 4 bits are two in a byte."""
    fields = {f.name: getattr(graph, f.name) for f in dataclasses.fields(graph) if f.name != "nodes"}
    nodes = [
        {"kind": node.kind, **{f.name: getattr(node, f.name) for f in dataclasses.fields(node)}} for node in graph.nodes
    ]
    for node in nodes if graph.bits == 4 else ():
        if node["kind"] == "conv":
            node["packed"], node["weight"] = tuple(node["weight"].shape), _packed(node["weight"])
    return {"version": VERSION, **fields, "nodes": nodes}


def _packed(weight: Tensor) -> Tensor:
    """Whole numbers of -8..7, of any shape -> two of them in each byte, the first in its lower half."""
    flat = weight.flatten()
    flat = torch.cat([flat, flat.new_zeros(len(flat) % 2)]).view(torch.uint8) & 15
    return flat[0::2] | flat[1::2] << 4


def _unpacked(packed: Any, shape: Any) -> Tensor:
    if not (
        isinstance(shape, tuple) and len(shape) == 4 and _small(shape, 1)
        and isinstance(packed, Tensor) and packed.dtype == torch.uint8 and _is_whole(packed)
        and packed.shape == ((math.prod(shape) + 1) // 2,)
    ):  # fmt: skip
        raise ValueError("a convolution has packed weights that are no two in a byte")
    flat = torch.stack([packed & 15, packed >> 4], 1).view(torch.int8).flatten()[: math.prod(shape)]
    return ((flat ^ 8) - 8).view(shape)


def _tuples(value: Any, depth: int = 0) -> Any:
    """Lists as tuples, a few inside each other."""
    if depth > 8:
        raise ValueError("its lists are too deep")
    return tuple(_tuples(item, depth + 1) for item in value) if isinstance(value, list | tuple) else value


def _is_word(text: Any) -> bool:
    """Whether it may stand in code as a name, or in a comment."""
    return isinstance(text, str) and re.fullmatch(r"[\w.]{1,200}", text) is not None


def _is_whole(tensor: Tensor) -> bool:
    """Whether each of its numbers has a place of its own, so that it is no larger than the file made it."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _small(values: tuple[Any, ...], lowest: int) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) and lowest <= v < _MOST for v in values)


def _node(plain: Any, shapes: dict[str, tuple[int, ...]]) -> Any:
    """A node, checked; ValueError says what is wrong."""
    kind = _KINDS.get(str(plain.get("kind"))) if isinstance(plain, Mapping) else None
    if kind is None:
        raise ValueError("a layer is of no kind that is known")
    given = {k: v if isinstance(v, Tensor) else _tuples(v) for k, v in plain.items() if k != "kind"}
    if "packed" in given:
        given["weight"] = _unpacked(given.get("weight"), given.pop("packed"))
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if given.keys() - fields.keys() or any(
        n not in given for n, f in fields.items() if f.default is dataclasses.MISSING
    ):
        raise ValueError(f"a {kind.kind} has other fields")
    node = kind(**given)
    sizes_ok = isinstance(node.shape, tuple) and len(node.shape) in (1, 3) and _small(node.shape, 1)
    if not (_is_word(node.name) and isinstance(node.inputs, tuple) and sizes_ok):
        raise ValueError(f"a {kind.kind} has no name, inputs or shape")
    wanted = 2 if kind is Gate else 1
    known = all(isinstance(name, str) and name in shapes for name in node.inputs)
    if len(node.inputs) != wanted or not known or node.name in shapes:
        raise ValueError(f"{node.name} does not read layers before it")
    if len({shapes[name] for name in node.inputs}) != 1:
        raise ValueError(f"{node.name} reads layers of different shapes")
    _check_numbers(node, shapes[node.inputs[0]])
    return node


def _check_numbers(node: Any, read: tuple[int, ...]) -> None:
    def fail(what: str) -> typing.NoReturn:
        raise ValueError(f"{node.name} has {what}")

    for name, dtype in _DTYPES.items():
        value = getattr(node, name, None)
        if value is not None and not (isinstance(value, Tensor) and value.dtype == dtype and _is_whole(value)):
            fail(f"a {name} that is no tensor of {str(dtype).removeprefix('torch.')}")
    if node.kind in ("conv", "pool"):
        kernel = node.weight.shape[2:] if node.kind == "conv" and node.weight.ndim == 4 else getattr(node, "kernel", ())
        pairs = (tuple(kernel), node.stride, node.padding)
        if not all(
            isinstance(p, tuple) and len(p) == 2 and _small(p, low) for p, low in zip(pairs, (1, 1, 0), strict=True)
        ):
            fail("a kernel, stride or padding out of range")
    if node.kind == "conv":
        o, i, kh, kw = node.weight.shape
        if not (_small((node.groups,), 1) and i * node.groups == read[0] and o == node.shape[0] and node.bias is None):
            fail("weights of another shape")
        for size, k, s, p, out in zip(read[1:], (kh, kw), node.stride, node.padding, node.shape[1:], strict=True):
            if (size + 2 * p - k) // s + 1 != out:
                fail("another size of its output")
    elif node.kind == "pool":
        windows = zip(read[1:], node.kernel, node.stride, node.padding, strict=True)
        if node.shape != (read[0], *((size + 2 * p - k) // s + 1 for size, k, s, p in windows)):
            fail("another size of its output")
    elif node.kind == "fire":
        sizes = [t.shape for t in (node.threshold, node.bias) if isinstance(t, Tensor)]
        leak_ok = isinstance(node.leak, tuple) and all(
            isinstance(term, tuple)
            and len(term) == 2
            and type(term[0]) is int
            and term[0] in (1, -1)
            and _small(term[1:], 0)
            and term[1] < 31
            for term in node.leak
        )
        if (
            sizes != [(read[0],)] * 2
            or node.shape != read
            or not leak_ok
            or node.neuron not in ("IF", "LIF", "PLIF")
            or (node.neuron == "IF") == bool(node.leak)
            or not (isinstance(node.gain, float) and node.gain == 1.0)
            or not (_small((node.fraction,), 0) and node.fraction < 24)
        ):
            fail("thresholds, biases or a leak that do not fit")
    elif node.kind == "gate":
        if node.shape != read or not (
            _is_word(node.join)
            and isinstance(node.table, tuple)
            and len(node.table) == 4
            and _small(node.table, 0)
            and max(node.table) <= 1
        ):
            fail("no table of a gate")
    elif node.kind == "head" and (
        tuple(node.weight.shape) != (*node.shape, read[0]) or tuple(node.bias.shape) != node.shape
    ):
        fail("weights of another shape")


def from_plain(plain: Any) -> Graph:
    """The integer network that `to_plain` wrote.

    Raises:
        ValueError: it is something else, or damaged; in words.
    """
    version = plain.get("version") if isinstance(plain, Mapping) else None
    if type(version) is not int or version not in (1, VERSION) or not isinstance(plain.get("nodes"), list):
        raise ValueError("it holds no integer network of this version")
    fields: dict[str, Any] = {f.name: plain.get(f.name) for f in dataclasses.fields(Graph) if f.name != "nodes"}
    shape: Any = _tuples(fields["input_shape"])
    fields["input_shape"] = shape
    numbers = [fields[name] for name in ("scale", "logit_scale")]
    if type(fields["bits"]) is not int or type(fields["zero"]) is not int:
        raise ValueError("its bits are no numbers")
    if not (
        isinstance(shape, tuple) and len(shape) == 3 and _small(shape, 1) and _small((fields["T"],), 1)
        and isinstance(fields["frames"], bool) and fields["bits"] in (4, 8) and fields["zero"] in (0, 128)
        and all(isinstance(n, float) and 0.0 < n < 1e30 for n in numbers) and isinstance(fields["config"], Mapping)
        and 3 <= len(plain["nodes"]) < _MOST
    ):  # fmt: skip
        raise ValueError("its sizes or scales are out of range")
    if not all(_is_word(fields["config"][name]) for name in ("model", "connect_f") if name in fields["config"]):
        raise ValueError("its network has no name")
    shapes: dict[str, tuple[int, ...]] = {"input": shape}
    nodes = []
    for item in plain["nodes"]:
        node = _node(item, shapes)
        shapes[node.name] = node.shape
        nodes.append(node)
    if nodes[-1].kind != "head" or any(node.kind == "head" for node in nodes[:-1]):
        raise ValueError("its last layer is no classifier")
    graph = Graph(tuple(nodes), **fields)
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        source = by_name.get(node.inputs[0])
        if (node.kind == "fire") != (source is not None and source.kind == "conv"):
            raise ValueError(f"{node.name} does not follow a layer that it can follow")
    max_steps(graph)
    return graph

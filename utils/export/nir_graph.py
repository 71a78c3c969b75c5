"""A network of floats as NIR, the neuromorphic intermediate representation (doi.org/10.1038/s41467-024-52259-9).

NIR's edges into a node are summed, and its neurons fire at v > threshold. With float32 membranes v >= threshold is
v > the float32 below it, so each threshold is one step lower. One time step is dt = 1.

    OR      IF(0.5) of s + o: whatever fires starts again at 0, so it remembers nothing
    NOT     IF(0.5) of 1 - s, which a Conv2d with weights -1 and bias 1 gives
    AND     NOT NAND;  NAND = IF(0.5) of 2 - s - o
    IAND    NOT (s OR NOT o)
    XOR     IF(0.5) of s + o - 2 + 2 NAND, where nothing is ever negative
    pooling SumPool2d, then IF(0.5); a Conv2d of ones in place of the sum where there is padding

No node but Conv2d, IF, LIF, SumPool2d, Flatten and Affine: simulators know these, but not Threshold and Scale, and some
ignore the padding of a SumPool2d.

LIF's tau is in time steps. A node "head" gives the logits of each time step; the network's are their mean over time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from full_spike.utils.errors import UserError


def import_nir() -> Any:
    try:
        import nir
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'full-spike-aap[nir]'") from None
    return nir


def below(threshold: float) -> np.float32:
    """The next smaller float32: v > below(theta) is v >= theta."""
    return np.nextafter(np.float32(threshold), np.float32(-np.inf))


def _symbol(name: str) -> str:
    return name.replace(".", "_")


class _Writer:
    def __init__(self, graph: Any) -> None:
        self.graph, self.nir = graph, import_nir()
        self.nodes: dict[str, Any] = {"input": self.nir.Input(input_type={"input": np.array(graph.input_shape)})}
        self.edges: list[tuple[str, str]] = []

    def add(self, name: str, node: Any, *sources: str) -> str:
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def full(self, shape: tuple[int, ...], value: Any) -> np.ndarray:
        return np.full(shape, value, dtype=np.float32)

    def neuron(self, shape: tuple[int, ...], threshold: float, tau: float | None = None, gain: float = 1.0) -> Any:
        given = {
            "r": self.full(shape, gain),
            "v_threshold": self.full(shape, below(threshold)),
            "v_reset": self.full(shape, 0),
        }
        if tau is None:
            return self.nir.IF(**given)
        return self.nir.LIF(tau=self.full(shape, tau), v_leak=self.full(shape, 0), **given)

    def any_of(self, name: str, shape: tuple[int, ...], *sources: str) -> str:
        """Whether the sum of what is never negative is more than 0."""
        return self.add(name, self.neuron(shape, 0.5), *sources)

    def window(
        self, shape: tuple[int, ...], weight: np.ndarray, bias: np.ndarray, stride: Any, padding: Any, groups: int = 1
    ) -> Any:
        return self.nir.Conv2d(
            input_shape=tuple(shape[1:]), weight=weight, stride=stride, padding=padding, dilation=(1, 1),
            groups=groups, bias=bias,
        )  # fmt: skip

    def dense(self, channels: int, kernel: np.ndarray) -> np.ndarray:
        """Weights [C, C, kh, kw] with nothing between channels: few readers of NIR take groups."""
        weight = np.zeros((channels, channels, *kernel.shape), dtype=np.float32)
        weight[range(channels), range(channels)] = kernel
        return weight

    def affine(self, name: str, shape: tuple[int, ...], weight: float, bias: float, *sources: str) -> str:
        """weight * (sum of the sources) + bias, for each neuron."""
        each = self.dense(shape[0], np.full((1, 1), weight, dtype=np.float32))
        return self.add(name, self.window(shape, each, self.full(shape[:1], bias), (1, 1), (0, 0)), *sources)

    def conv(self, node: Any, *sources: str) -> None:
        shape, weight, bias = self.graph.shape_of(node.inputs[0]), node.weight.numpy(), node.bias.numpy()
        conv = self.window(shape, weight, bias, node.stride, node.padding, node.groups)
        self.add(_symbol(node.name), conv, *sources)

    def fire(self, node: Any, *sources: str) -> None:
        self.add(_symbol(node.name), self.neuron(node.shape, node.threshold, node.time, node.gain), *sources)

    def gate(self, node: Any, identity: str, residual: str) -> None:
        name, shape = _symbol(node.name), node.shape
        both = (identity, residual)
        if node.join == "OR":
            self.any_of(name, shape, *both)
        elif node.join == "IAND":
            without = self.affine(f"{name}_without", shape, -1.0, 1.0, identity)
            unless = self.any_of(f"{name}_unless", shape, without, residual)
            self.any_of(name, shape, self.affine(f"{name}_not", shape, -1.0, 1.0, unless))
        elif node.join in ("AND", "XOR"):
            missing = self.affine(f"{name}_missing", shape, -1.0, 2.0, *both)
            nand = self.any_of(f"{name}_nand", shape, missing)
            if node.join == "AND":
                self.any_of(name, shape, self.affine(f"{name}_not", shape, -1.0, 1.0, nand))
            else:
                self.any_of(name, shape, *both, self.affine(f"{name}_less", shape, 2.0, -2.0, nand))
        else:
            raise ValueError(f"{node.name} joins by {node.join}, which is not in NIR here: use AND, IAND, OR or XOR")

    def pool(self, node: Any, source: str) -> None:
        shape = self.graph.shape_of(node.inputs[0])
        name = _symbol(node.name)
        past = [
            (out - 1) * s + k - (n + 2 * p)
            for out, s, k, n, p in zip(node.shape[1:], node.stride, node.kernel, shape[1:], node.padding, strict=True)
        ]
        if shape[1:] == (1, 1):  # all windows see the one position
            self.any_of(name, node.shape, source)
            return
        if max(past) <= 0 and not any(node.padding):
            summed = self.sum_pool(node.kernel, node.stride)
        else:
            summed = self.ones(node, shape, past)
        self.any_of(name, node.shape, self.add(f"{name}_sum", summed, source))

    def sum_pool(self, kernel: Any, stride: Any) -> Any:
        return self.nir.SumPool2d(kernel_size=np.array(kernel), stride=np.array(stride), padding=np.array([0, 0]))

    def ones(self, node: Any, shape: tuple[int, ...], past: list[int]) -> Any:
        """A pooling with padding; where its windows reach past the end, with zeros before the kernel, too: both sides
        are padded alike."""
        padding = [p + max(0, more) for p, more in zip(node.padding, past, strict=True)]
        kernel = np.ones(node.kernel, dtype=np.float32)
        kernel = np.pad(kernel, [(new - p, 0) for new, p in zip(padding, node.padding, strict=True)])
        nothing = np.zeros(shape[0], dtype=np.float32)
        return self.window(shape, self.dense(shape[0], kernel), nothing, node.stride, tuple(padding))

    def head(self, node: Any, source: str) -> None:
        shape = self.graph.shape_of(node.inputs[0])
        nir = self.nir
        self.add("sum", self.sum_pool(shape[1:], shape[1:]), source)
        flat = nir.Flatten(input_type={"input": np.array([shape[0], 1, 1])}, start_dim=0, end_dim=-1)
        self.add("flat", flat, "sum")
        weight = node.weight.numpy() / np.float32(shape[1] * shape[2])  # of the mean over the map
        self.add("head", nir.Affine(weight=weight, bias=node.bias.numpy()), "flat")
        self.add("output", nir.Output(output_type={"output": np.array(node.shape)}), "head")

    def write(self) -> Any:
        for node in self.graph.nodes:
            sources = [name if name == "input" else _symbol(name) for name in node.inputs]
            if not hasattr(self, node.kind):
                raise ValueError(f"{node.name} is {node.kind}, which NIR has no nodes for: use --to onnx")
            getattr(self, node.kind)(node, *sources)
        return self.nir.NIRGraph(nodes=self.nodes, edges=self.edges)


def write_nir(graph: Any) -> Any:
    """A nir.NIRGraph of a network of floats; its nodes are named as the layers are, with _ in place of dots.

    Raises:
        UserError: nir is not installed.
        ValueError: the network is not binary between its layers, or a layer is of a kind that NIR has not.
    """
    if graph.integer:
        raise ValueError("NIR holds floats: export the float network")
    graph.require_binary("NIR")
    return _Writer(graph).write()

"""A network of floats as NIR, the neuromorphic intermediate representation (doi.org/10.1038/s41467-024-52259-9).

NIR's edges into a node are summed, and its neurons fire at v > threshold. With float32 membranes v >= threshold is
v > the float32 below it, so each threshold is one step lower. One time step is dt = 1.

    OR      IF(0.5) of s + o: whatever fires starts again at 0, so it remembers nothing
    AND     Threshold(1.5) of s + o        IAND    Threshold(0.5) of o - s
    XOR     Threshold(0.5) of s + o - 2 AND(s, o)
    pooling SumPool2d, then IF(0.5); where its windows reach past the last row, a Conv2d of ones in place of the sum

LIF's tau is in time steps. A node "head" gives the logits of each time step; the network's are their mean over time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.runtime.errors import UserError


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

    def threshold(self, shape: tuple[int, ...], value: float) -> Any:
        return self.nir.Threshold(threshold=self.full(shape, value))

    def scale(self, shape: tuple[int, ...], value: float) -> Any:
        return self.nir.Scale(scale=self.full(shape, value))

    def conv(self, node: Any, *sources: str) -> None:
        conv = self.nir.Conv2d(
            input_shape=tuple(self.graph.shape_of(node.inputs[0])[1:]), weight=node.weight.numpy(), stride=node.stride,
            padding=node.padding, dilation=(1, 1), groups=node.groups, bias=node.bias.numpy(),
        )  # fmt: skip
        self.add(_symbol(node.name), conv, *sources)

    def fire(self, node: Any, *sources: str) -> None:
        self.add(_symbol(node.name), self.neuron(node.shape, node.threshold, node.time, node.gain), *sources)

    def gate(self, node: Any, identity: str, residual: str) -> None:
        name, shape = _symbol(node.name), node.shape
        both = (identity, residual)
        if node.join == "OR":
            self.add(name, self.neuron(shape, 0.5), *both)
        elif node.join == "AND":
            self.add(name, self.threshold(shape, 1.5), *both)
        elif node.join == "IAND":
            minus = self.add(f"{name}_minus", self.scale(shape, -1.0), residual)
            self.add(name, self.threshold(shape, 0.5), identity, minus)
        elif node.join == "XOR":
            both_fired = self.add(f"{name}_and", self.threshold(shape, 1.5), *both)
            minus = self.add(f"{name}_minus", self.scale(shape, -2.0), both_fired)
            self.add(name, self.threshold(shape, 0.5), *both, minus)
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
            self.add(name, self.neuron(node.shape, 0.5), source)
            return
        if max(past) <= 0:
            summed = self.nir.SumPool2d(
                kernel_size=np.array(node.kernel), stride=np.array(node.stride), padding=np.array(node.padding)
            )
        else:
            summed = self.window(node, shape, past)
        self.add(f"{name}_sum", summed, source)
        self.add(name, self.neuron(node.shape, 0.5), f"{name}_sum")

    def window(self, node: Any, shape: tuple[int, ...], past: list[int]) -> Any:
        """A pooling whose windows reach past the end: with zeros before the kernel, both sides are padded alike."""
        padding = [p + max(0, more) for p, more in zip(node.padding, past, strict=True)]
        front = [new - p for new, p in zip(padding, node.padding, strict=True)]
        # dense, with nothing between channels: nir takes a convolution of groups for one of fewer channels
        sizes = (k + f for k, f in zip(node.kernel, front, strict=True))
        kernel = np.zeros((shape[0], shape[0], *sizes), dtype=np.float32)
        kernel[range(shape[0]), range(shape[0]), front[0] :, front[1] :] = 1.0
        return self.nir.Conv2d(
            input_shape=tuple(shape[1:]), weight=kernel, stride=node.stride, padding=tuple(padding), dilation=(1, 1),
            groups=1, bias=np.zeros(shape[0], dtype=np.float32),
        )  # fmt: skip

    def head(self, node: Any, source: str) -> None:
        shape = self.graph.shape_of(node.inputs[0])
        size = np.array(shape[1:])
        nir = self.nir
        self.add("mean", nir.AvgPool2d(kernel_size=size, stride=size, padding=np.array([0, 0])), source)
        flat = nir.Flatten(input_type={"input": np.array([shape[0], 1, 1])}, start_dim=0, end_dim=-1)
        self.add("flat", flat, "mean")
        self.add("head", nir.Affine(weight=node.weight.numpy(), bias=node.bias.numpy()), "flat")
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

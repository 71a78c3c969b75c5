"""A network of floats as NIR, the neuromorphic intermediate representation (doi.org/10.1038/s41467-024-52259-9).

NIR's edges into a node are summed, and its neurons fire at v > threshold. With float32 membranes v >= threshold is
v > the float32 below it, so each threshold is one step lower. One time step is dt = 1.

    OR      IF(0.5) of s + o: whatever fires starts again at 0, so it remembers nothing
    NOT     IF(0.5) of 1 - s, which a Conv2d with weights -1 and bias 1 gives
    AND     NOT NAND;  NAND = IF(0.5) of 2 - s - o
    IAND    NOT (s OR NOT o)
    XOR     IF(0.5) of s + o - 2 + 2 NAND, where nothing is ever negative
    pooling SumPool2d, then IF(0.5); a Conv2d of ones in place of the sum where there is padding

Only Conv2d, IF, LIF, SumPool2d, Flatten and Affine are written: simulators know these, but not Threshold and Scale, and
some ignore the padding of a SumPool2d.

LIF's tau is in time steps. The node "head" gives the logits of each time step; the network's are their mean over time.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from full_spike.utils.errors import UserError
from full_spike.utils.export.graph import SPIKING, Conv, Fire, Gate, Graph, Head, Pool
from full_spike.utils.export.run import round_input
from full_spike.utils.measure.hooks import hooked

FILE = "model.nir"


def import_nir() -> Any:
    """nir, if it and nirtorch are installed; else UserError."""
    try:
        import nir
        import nirtorch  # noqa: F401  (what is written is run)
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install nir nirtorch") from None
    return nir


def symbol(name: str) -> str:
    """A layer's name as that of a node."""
    return name.replace(".", "_")


def _full(shape: tuple[int, ...], value: Any) -> np.ndarray:
    return np.full(shape, value, dtype=np.float32)


def _below(threshold: Any) -> np.float32:
    """The next smaller float32: v > below(theta) is v >= theta."""
    return np.nextafter(np.float32(threshold), np.float32(-np.inf))


def _dense(channels: int, kernel: np.ndarray) -> np.ndarray:
    """Weights [C, C, kh, kw] with nothing between channels: few readers of NIR take groups."""
    weight = np.zeros((channels, channels, *kernel.shape), dtype=np.float32)
    weight[range(channels), range(channels)] = kernel
    return weight


class _Layers:
    """The layers of a graph as nodes of NIR, for `Graph.walk`; what a layer gives is the name of a node."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.nir = graph, import_nir()
        self.nodes: dict[str, Any] = {"input": self.nir.Input(input_type={"input": np.array(graph.input_shape)})}
        self.edges: list[tuple[str, str]] = []

    def put(self, name: str, node: Any, *sources: str) -> str:
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def window(self, shape: tuple[int, ...], weight: Any, bias: Any, stride: Any, padding: Any, groups: int = 1) -> Any:
        return self.nir.Conv2d(
            input_shape=tuple(shape[1:]), weight=weight, stride=stride, padding=padding, dilation=(1, 1),
            groups=groups, bias=bias,
        )  # fmt: skip

    def neuron(self, shape: tuple[int, ...], threshold: Any, tau: float | None = None, gain: float = 1.0) -> Any:
        values = {"r": gain, "v_threshold": _below(threshold), "v_reset": 0.0}
        if tau is not None:
            values |= {"tau": tau, "v_leak": 0.0}
        kind = self.nir.IF if tau is None else self.nir.LIF
        return kind(**{name: _full(shape, value) for name, value in values.items()})

    def any_of(self, name: str, shape: tuple[int, ...], *sources: str) -> str:
        """Whether the sum of what is never negative is more than 0."""
        return self.put(name, self.neuron(shape, 0.5), *sources)

    def affine(self, name: str, shape: tuple[int, ...], weight: float, bias: float, *sources: str) -> str:
        """weight * (sum of the sources) + bias, for each neuron."""
        each = _dense(shape[0], _full((1, 1), weight))
        return self.put(name, self.window(shape, each, _full(shape[:1], bias), (1, 1), (0, 0)), *sources)

    def sum_pool(self, kernel: Any, stride: Any) -> Any:
        return self.nir.SumPool2d(kernel_size=np.array(kernel), stride=np.array(stride), padding=np.array([0, 0]))

    def conv(self, node: Conv, source: str) -> str:
        shape, bias = self.graph.shape_of(node.inputs[0]), node.bias.numpy()  # type: ignore[union-attr]
        window = self.window(shape, node.weight.numpy(), bias, node.stride, node.padding, node.groups)
        return self.put(symbol(node.name), window, source)

    def fire(self, node: Fire, source: str) -> str:
        return self.put(symbol(node.name), self.neuron(node.shape, node.threshold, node.time, node.gain), source)

    def gate(self, node: Gate, *both: str) -> str:
        name, shape, (identity, residual) = symbol(node.name), node.shape, both
        if node.join == "OR":
            return self.any_of(name, shape, *both)
        if node.join == "IAND":
            without = self.affine(f"{name}_without", shape, -1.0, 1.0, identity)
            unless = self.any_of(f"{name}_unless", shape, without, residual)
            return self.any_of(name, shape, self.affine(f"{name}_not", shape, -1.0, 1.0, unless))
        if node.join not in ("AND", "XOR"):
            raise ValueError(f"{node.name} joins by {node.join}, which is not in NIR here: use AND, IAND, OR or XOR")
        missing = self.affine(f"{name}_missing", shape, -1.0, 2.0, *both)
        nand = self.any_of(f"{name}_nand", shape, missing)
        if node.join == "AND":
            return self.any_of(name, shape, self.affine(f"{name}_not", shape, -1.0, 1.0, nand))
        return self.any_of(name, shape, *both, self.affine(f"{name}_less", shape, 2.0, -2.0, nand))

    def pool(self, node: Pool, source: str) -> str:
        shape, name = self.graph.shape_of(node.inputs[0]), symbol(node.name)
        if shape[1:] == (1, 1):  # all windows see the one position
            return self.any_of(name, node.shape, source)
        # NIR pads both sides alike: where the last window reaches past the end, the kernel begins with zeros as well
        past = [max(0, end - p) for end, p in zip(node.end_padding(shape[1:]), node.padding, strict=True)]
        padding = [p + more for p, more in zip(node.padding, past, strict=True)]
        summed = self.sum_pool(node.kernel, node.stride)
        if any(padding):
            kernel = np.pad(_full(node.kernel, 1.0), [(more, 0) for more in past])
            bias = _full(shape[:1], 0.0)
            summed = self.window(shape, _dense(shape[0], kernel), bias, node.stride, tuple(padding))
        return self.any_of(name, node.shape, self.put(f"{name}_sum", summed, source))

    def head(self, node: Head, source: str) -> None:
        channels, height, width = self.graph.shape_of(node.inputs[0])
        self.put("sum", self.sum_pool((height, width), (height, width)), source)
        flat = self.nir.Flatten(input_type={"input": np.array([channels, 1, 1])}, start_dim=0, end_dim=-1)
        self.put("flat", flat, "sum")
        weight = node.weight.numpy() / np.float32(height * width)  # of the mean over the map
        self.put("head", self.nir.Affine(weight=weight, bias=node.bias.numpy()), "flat")
        self.put("output", self.nir.Output(output_type={"output": np.array(node.shape)}), "head")


def to_nir(graph: Graph) -> Any:
    """A nir.NIRGraph of a network of floats; its nodes are named as the layers are, with _ in place of dots.

    Raises:
        UserError: nir or nirtorch is not installed.
        ValueError: the network is not binary between its layers, or a layer is of a kind that NIR does not have.
    """
    if graph.integer:
        raise ValueError("NIR holds floats: export the float network")
    graph.require_binary("NIR")
    layers = _Layers(graph)
    graph.walk(layers, "input")
    return layers.nir.NIRGraph(nodes=layers.nodes, edges=layers.edges, metadata=graph.facts)


def write_nir(graph: Graph, folder: Path) -> None:
    """Write model.nir; errors of `to_nir`."""
    content = io.BytesIO()  # HDF5 crashes where a disk is full
    import_nir().write(content, to_nir(graph))
    (folder / FILE).write_bytes(content.getvalue())


class _InFloat64(nn.Module):
    """A convolution summed in float64: the stem's sums are exact there alone, see floats.py."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.double()).float()


class NirRuntime:
    """spikingjelly, over the network that its own importer makes of the file.

    Raises:
        UserError: the file is damaged or no NIR.
    """

    name = "spikingjelly, from NIR"

    def __init__(self, folder: Path, graph: Graph) -> None:
        self.graph, path, nir = graph, folder / FILE, import_nir()
        from spikingjelly.activation_based.nir_exchange import import_from_nir  # which needs nirtorch

        try:
            network = nir.read(path)
        except Exception as error:  # whatever h5py and nir make of a damaged file
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise UserError(f"{path} is damaged or no NIR file ({reason}): export it again") from None
        self.network: Any = import_from_nir(network, dt=1.0)
        stem = symbol(graph.stem.name)
        self.network.set_submodule(stem, _InFloat64(self.network.get_submodule(stem)))

    def logits(self, x: Tensor) -> Tensor:
        return self.spikes(x)[1]

    @torch.no_grad()
    def spikes(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        spikes: dict[str, list[Tensor]] = {node.name: [] for node in self.graph.of(*SPIKING)}
        state, logits = None, []
        x = round_input(x)
        with hooked(
            self.network.get_submodule(symbol(name)).register_forward_hook(
                lambda _module, _args, output, seen=seen: seen.append(output[0])
            )
            for name, seen in spikes.items()
        ):
            for frame in x if x.ndim == 5 else [x] * self.graph.T:
                output, state = self.network(frame, state)
                logits.append(output)
        return {name: torch.stack(seen) for name, seen in spikes.items()}, torch.stack(logits).mean(0)

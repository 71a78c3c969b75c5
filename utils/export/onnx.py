"""A network as an ONNX model, of floats or of integers, and onnxruntime, which runs it.

Time steps are more batch for every layer but the neurons: a layer's spikes are [T * N, C, H, W], T first; a neuron
splits them into its T steps and is written out. The batch size N is free. An input is "images" [N, C, H, W], or
"frames" [T, N, C, H, W], float32; the output is "logits" [N, classes].

Floats: spikes are 0.0 and 1.0. Sums are exact in any order (see floats.py); the stem's are of float64, which runtimes
multiply but do not convolve: a convolution with ones picks each window's values, a product sums them.

Integers: spikes are uint8, convolutions ConvInteger, membranes and the classifier's sums int32, like the logits.
No runtime has anything left to round.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from full_spike.utils.errors import UserError
from full_spike.utils.export.graph import SPIKING, Add, Attention, Conv, Fire, Gate, Graph, Head, Pool
from full_spike.utils.export.run import INPUT_BITS

FILE = "model.onnx"
OPSET = 18  # the oldest whose Split takes a number of outputs


def import_onnx() -> Any:
    """onnx, if it and onnxruntime are installed; else UserError."""
    try:
        import onnx
        import onnxruntime  # noqa: F401  (what is written is run)
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install onnx onnxruntime") from None
    return onnx


class _Layers:
    """The layers of a graph as ONNX nodes, for `Graph.walk`. A tensor has the name of the layer that gives it."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.onnx = graph, import_onnx()
        self.T = graph.T
        self.spike = "UINT8" if graph.integer else "FLOAT"
        self.still = None if graph.frames else graph.stem.name  # whose current is the same at every time step
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, value: Any, dtype: Any, name: str | None = None) -> str:
        """The name of a constant; equal ones without a name are one."""
        array = np.asarray(value, dtype=dtype)
        key = name or f"{array.dtype}_{'x'.join(map(str, array.shape))}_{'_'.join(map(str, array.ravel().tolist()))}"
        if key not in self.constants:
            self.constants[key] = self.onnx.numpy_helper.from_array(array, key)
        return key

    def of(self, node: Any, name: str, dtype: Any = np.float32) -> str:
        """A layer's weight, bias or threshold; for each channel of a map [C, 1, 1]."""
        value = getattr(node, name)
        shape = (-1, 1, 1) if isinstance(node, Fire) else value.shape
        return self.constant(value.reshape(shape).numpy(), dtype, f"{node.name}.{name}")

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node with one output; its name."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name

    def cast(self, x: str, to: str, output: str | None = None) -> str:
        return self.op("Cast", x, output=output, to=getattr(self.onnx.TensorProto, to))

    def reshape(self, x: str, shape: Sequence[int], output: str | None = None) -> str:
        return self.op("Reshape", x, self.constant(shape, np.int64), output=output)

    def scaled(self, x: str, factor: Any, dtype: Any) -> str:
        return x if factor == 1 else self.op("Mul", x, self.constant(factor, dtype))

    def input(self) -> str:
        """The images, or all frames as one batch; of an integer network as bytes."""
        graph, x = self.graph, "images"
        if graph.frames:
            x = self.reshape("frames", [-1, *graph.input_shape])
        if not graph.integer:
            rounded = self.op("Round", self.scaled(x, 2.0**INPUT_BITS, np.float32))
            return self.scaled(rounded, 2.0**-INPUT_BITS, np.float32)
        scale, zero, least, most = (self.constant(value, np.float32) for value in (graph.scale, graph.zero, 0, 255))
        x = self.op("Add", self.op("Round", self.op("Div", x, scale)), zero)
        return self.cast(self.op("Clip", x, least, most), "UINT8")

    def conv(self, node: Conv, x: str) -> str:
        window: dict[str, Any] = {"kernel_shape": node.weight.shape[2:], "strides": node.stride, "group": node.groups}
        window["pads"] = node.padding * 2
        if not self.graph.integer:
            if node is self.graph.stem:
                return self.float_stem(node, x, window)
            return self.op("Conv", x, self.of(node, "weight"), self.of(node, "bias"), output=node.name, **window)
        inputs = [x, self.of(node, "weight", np.int8)]
        if node is self.graph.stem and self.graph.zero:
            # padded here, by the byte that is zero: runtimes differ in whether ConvInteger pads by it
            zero, pads = self.constant(self.graph.zero, np.uint8), self.constant([0, 0, *node.padding] * 2, np.int64)
            inputs = [self.op("Pad", x, pads, zero), inputs[1], zero]
            window["pads"] = [0, 0, 0, 0]
        return self.op("ConvInteger", *inputs, output=node.name, **window)

    def float_stem(self, node: Conv, x: str, window: dict[str, Any]) -> str:
        inputs, kh, kw = node.weight.shape[1:]
        taps = inputs * kh * kw
        ones = self.constant(np.eye(taps).reshape(taps, inputs, kh, kw), np.float32, f"{node.name}.windows")
        flat = self.cast(self.reshape(self.op("Conv", x, ones, **window), [0, taps, -1]), "DOUBLE")
        weight = self.constant(node.weight.flatten(1).numpy(), np.float64, f"{node.name}.weight")
        bias = self.constant(node.bias.view(-1, 1).numpy(), np.float64, f"{node.name}.bias")  # type: ignore[union-attr]
        current = self.cast(self.op("Add", self.op("MatMul", weight, flat), bias), "FLOAT")
        return self.reshape(current, [0, *node.shape], node.name)

    def fire(self, node: Fire, current: str) -> str:
        if self.graph.integer:
            dtype: Any = np.int32
            threshold = self.of(node, "threshold", dtype)
            current = self.op("Add", self.scaled(current, 1 << node.fraction, dtype), self.of(node, "bias", dtype))
        else:
            dtype, threshold = np.float32, self.constant(node.threshold, np.float32)
            current = self.scaled(current, node.gain, dtype)
        steps = [current] * self.T
        if node.inputs[0] != self.still and self.T > 1:
            steps = [f"{node.name}:{t}" for t in range(self.T)]
            self.nodes.append(self.onnx.helper.make_node("Split", [current], steps, axis=0, num_outputs=self.T))
        spikes, v, zero = [], None, self.constant(0, dtype)
        for x in steps:
            h = self.charge(node, v, x)
            fired = self.op("GreaterOrEqual", h, threshold)
            v = self.op("Where", fired, zero, h)
            spikes.append(self.cast(fired, self.spike))
        return self.op("Concat", *spikes, output=node.name, axis=0)

    def charge(self, node: Fire, v: str | None, x: str) -> str:
        """h; v is None at the first step, where it is 0."""
        if node.time is None:
            return x if v is None else self.op("Add", v, x)
        d = x if v is None else self.op("Sub", x, v)
        if not self.graph.integer:
            part = self.op("Div" if node.neuron == "LIF" else "Mul", d, self.constant(node.time, np.float32))
            return part if v is None else self.op("Add", v, part)
        h = v or self.constant(0, np.int32)
        for sign, shift in node.leak:
            # d >> shift as a division of a number that is not negative: ONNX shifts no signed numbers
            up, per, down = (self.constant(value, np.int32) for value in (1 << 30, 1 << shift, 1 << (30 - shift)))
            part = self.op("Sub", self.op("Div", self.op("Add", d, up), per), down)
            h = self.op("Add" if sign > 0 else "Sub", h, part)
        return h

    def gate(self, node: Gate, *both: str) -> str:
        i, r = (self.cast(name, "BOOL") for name in both)
        known = {(0, 0, 0, 1): "And", (0, 1, 1, 1): "Or", (0, 1, 1, 0): "Xor"}
        if node.table in known:
            result = self.op(known[node.table], i, r)
        else:
            not_i, not_r = self.op("Not", i), self.op("Not", r)
            cases = zip(node.table, [(not_i, not_r), (not_i, r), (i, not_r), (i, r)], strict=True)
            result = functools.reduce(lambda a, b: self.op("Or", a, b), [self.op("And", *x) for bit, x in cases if bit])
        return self.cast(result, self.spike, node.name)

    def add(self, node: Add, *both: str) -> str:
        # a current that every step sees, and one of each step
        each = [self.op("Concat", *[name] * self.T, axis=0) if name == self.still else name for name in both]
        return self.op("Add", *each, output=node.name)

    def pool(self, node: Pool, x: str) -> str:
        pads = [*node.padding, *node.end_padding(self.graph.shape_of(node.inputs[0])[1:])]
        return self.op("MaxPool", x, output=node.name, kernel_shape=node.kernel, strides=node.stride, pads=pads)

    def attention(self, node: Attention, *qkv: str) -> str:
        channels, height, width = node.shape
        sizes = [-1, node.heads, channels // node.heads, height * width]
        q, k, v = (self.reshape(name, sizes) for name in qkv)  # [T * N, heads, d, L]
        k = self.op("Transpose", k, perm=[0, 1, 3, 2])
        if node.channels_first:
            product = self.op("MatMul", self.op("MatMul", v, k), q)
        else:
            product = self.op("MatMul", v, self.op("MatMul", k, q))
        return self.reshape(product, [-1, *node.shape], node.name)

    def head(self, node: Head, x: str) -> str:
        integer, (channels, height, width) = self.graph.integer, self.graph.shape_of(node.inputs[0])
        planes = self.op(
            "ReduceSum", self.cast(x, "INT32") if integer else x, self.constant([2, 3], np.int64), keepdims=0
        )  # [T * N, C]
        counts = self.reshape(planes, [self.T, -1, channels])
        counts = self.op("ReduceSum", counts, self.constant([0], np.int64), keepdims=0)
        if integer:
            weight = self.cast(self.constant(node.weight.T.numpy(), np.int8, f"{node.name}.weight"), "INT32")
            bias = self.constant(node.bias.numpy() * self.T, np.int32, f"{node.name}.bias")
            return self.op("Add", self.op("MatMul", counts, weight), bias, output="logits")
        mean = self.op("Div", counts, self.constant(float(height * width * self.T), np.float32))
        return self.op("Gemm", mean, self.of(node, "weight"), self.of(node, "bias"), output="logits", transB=1)


def to_onnx(graph: Graph, opset: int = OPSET) -> Any:
    """An onnx.ModelProto, checked by onnx.

    Raises:
        UserError: onnx or onnxruntime is not installed.
        ValueError: onnx has no such opset, or it does not suffice.
    """
    most = import_onnx().defs.onnx_opset_version()
    if not OPSET <= opset <= most:
        raise ValueError(f"opset {opset} is out of range: this needs {OPSET} at least, and onnx knows {most} at most")
    layers = _Layers(graph)
    graph.walk(layers, layers.input())
    onnx = layers.onnx
    make, kinds = onnx.helper, onnx.TensorProto
    shape: list[Any] = [*([graph.T] if graph.frames else []), "N", *graph.input_shape]
    inputs = make.make_tensor_value_info("frames" if graph.frames else "images", kinds.FLOAT, shape)
    kind = kinds.INT32 if graph.integer else kinds.FLOAT
    logits = make.make_tensor_value_info("logits", kind, ["N", graph.head.shape[0]])
    made = make.make_graph(layers.nodes, "full-spike", [inputs], [logits], list(layers.constants.values()))
    opsets = [make.make_opsetid("", opset)]
    version = make.find_min_ir_version_for(opsets)
    model = make.make_model(made, opset_imports=opsets, ir_version=version, producer_name="full-spike-aap")
    make.set_model_props(model, graph.facts)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(graph: Graph, folder: Path, opset: int = OPSET) -> None:
    """Write model.onnx; errors of `to_onnx`."""
    (folder / FILE).write_bytes(to_onnx(graph, opset).SerializeToString())


class OnnxRuntime:
    """onnxruntime on the CPU.

    Raises:
        UserError: the file is no ONNX model that it can run.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, graph: Graph, threads: int | None = None) -> None:
        self.graph, self.path = graph, folder / FILE
        self.onnx = import_onnx()
        self.threads = threads
        self.session = self._session(self.path.read_bytes())
        self._watched: Any = None

    def _session(self, content: bytes) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads or 0
        try:
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes of errors are many, and differ between versions
            reason = str(error).splitlines()[0][:120]
            raise UserError(f"{self.path} is damaged or no ONNX model ({reason}): export it again") from None

    def _run(self, session: Any, outputs: list[str], x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(y) for y in session.run(outputs, {session.get_inputs()[0].name: x.numpy()})]

    def logits(self, x: Tensor) -> Tensor:
        return self._run(self.session, ["logits"], x)[0]

    def spikes(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        names = [node.name for node in self.graph.of(*SPIKING)]
        if self._watched is None:  # the same model, with every layer's spikes as outputs
            model = self.onnx.load(self.path)
            kind = self.onnx.TensorProto.UINT8 if self.graph.integer else self.onnx.TensorProto.FLOAT
            model.graph.output.extend(self.onnx.helper.make_tensor_value_info(name, kind, None) for name in names)
            self._watched = self._session(model.SerializeToString())
        *outputs, logits = self._run(self._watched, [*names, "logits"], x)
        steps = x.shape[0] if x.ndim == 5 else self.graph.T
        return {name: y.unflatten(0, (steps, -1)) for name, y in zip(names, outputs, strict=True)}, logits

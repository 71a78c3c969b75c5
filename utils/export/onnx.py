"""A network as an ONNX model, of floats or of integers, and onnxruntime, which runs it.

Time steps are more batch for every layer but the neurons: a layer's spikes are [T * N, C, H, W], T first; a neuron
splits them into its T steps and is written out. The batch size N is free. An input is "images" [N, C, H, W], or
"frames" [T, N, C, H, W], float32; the output is "logits" [N, classes].

Floats: spikes are 0.0 and 1.0. Sums are exact in any order (see floats.py); the stem's are of float64, which runtimes
multiply but do not convolve: a convolution with ones picks each window's values, a product sums them.

Integers: spikes are uint8, convolutions ConvInteger, membranes int32, the classifier MatMulInteger; logits are int32.
No runtime has anything left to round.
"""

from __future__ import annotations

import math
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


class _Writer:
    """Collects nodes and constants. A tensor has the name of the layer that gives it."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.onnx = graph, import_onnx()
        self.T = graph.T
        self.spike = "UINT8" if graph.integer else "FLOAT"
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, value: Any, dtype: Any, name: str | None = None) -> str:
        """The name of a constant; equal ones without a name are one."""
        array = np.asarray(value, dtype=dtype)
        key = name or f"{array.dtype}_{'x'.join(map(str, array.shape))}_{'_'.join(map(str, array.ravel().tolist()))}"
        if key not in self.constants:
            self.constants[key] = self.onnx.numpy_helper.from_array(array, key)
        return key

    def op(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """A node with one output; its name."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name

    def cast(self, x: str, to: str, output: str | None = None) -> str:
        return self.op("Cast", [x], output, to=getattr(self.onnx.TensorProto, to))

    def reshape(self, x: str, shape: list[int], output: str | None = None) -> str:
        return self.op("Reshape", [x, self.constant(shape, np.int64)], output)

    def scaled(self, x: str, factor: Any, dtype: Any) -> str:
        return x if factor == 1 else self.op("Mul", [x, self.constant(factor, dtype)])

    # The input and the layers

    def input(self) -> str:
        """The images, or all frames as one batch; of an integer network as bytes."""
        graph, x = self.graph, "images"
        if graph.frames:
            x = self.reshape("frames", [-1, *graph.input_shape])
        if not graph.integer:
            x = self.op("Mul", [x, self.constant(2.0**INPUT_BITS, np.float32)])
            return self.op("Mul", [self.op("Round", [x]), self.constant(2.0**-INPUT_BITS, np.float32)])
        x = self.op("Round", [self.op("Div", [x, self.constant(graph.scale, np.float32)])])
        x = self.op("Add", [x, self.constant(float(graph.zero), np.float32)])
        x = self.op("Clip", [x, self.constant(0.0, np.float32), self.constant(255.0, np.float32)])
        return self.cast(x, "UINT8")

    def conv(self, node: Conv) -> None:
        window: dict[str, Any] = {
            "kernel_shape": list(node.weight.shape[2:]), "strides": list(node.stride), "pads": list(node.padding) * 2
        }  # fmt: skip
        if self.graph.integer:
            self.integer_conv(node, window)
        elif node is self.graph.stem:
            self.float_stem(node, window)
        else:
            weight = self.constant(node.weight.numpy(), np.float32, f"{node.name}.weight")
            bias = self.constant(node.bias.numpy(), np.float32, f"{node.name}.bias")  # type: ignore[union-attr]
            self.op("Conv", [node.inputs[0], weight, bias], node.name, **window, group=node.groups)

    def float_stem(self, node: Conv, window: dict[str, Any]) -> None:
        inputs, kh, kw = node.weight.shape[1:]
        if node.groups != 1:
            raise ValueError(f"{node.name} has {node.groups} groups, which a stem in ONNX cannot have")
        taps = inputs * kh * kw
        ones = self.constant(np.eye(taps).reshape(taps, inputs, kh, kw), np.float32, f"{node.name}.windows")
        windows = self.op("Conv", [self.input(), ones], **window)
        flat = self.cast(self.reshape(windows, [0, taps, -1]), "DOUBLE")
        weight = self.constant(node.weight.flatten(1).numpy(), np.float64, f"{node.name}.weight")
        bias = self.constant(node.bias.view(-1, 1).numpy(), np.float64, f"{node.name}.bias")  # type: ignore[union-attr]
        current = self.cast(self.op("Add", [self.op("MatMul", [weight, flat]), bias]), "FLOAT")
        self.reshape(current, [0, *node.shape], node.name)

    def integer_conv(self, node: Conv, window: dict[str, Any]) -> None:
        weight = self.constant(node.weight.numpy(), np.int8, f"{node.name}.weight")
        inputs = [node.inputs[0], weight]
        if node is self.graph.stem:
            inputs[0] = self.input()
            if self.graph.zero:
                # padded here, by the byte that is zero: runtimes differ in whether ConvInteger pads by it
                zero = self.constant(self.graph.zero, np.uint8)
                pads = self.constant([0, 0, *node.padding] * 2, np.int64)
                inputs = [self.op("Pad", [inputs[0], pads, zero]), weight, zero]
                window["pads"] = [0, 0, 0, 0]
        self.op("ConvInteger", inputs, node.name, **window, group=node.groups)

    def is_static(self, name: str) -> bool:
        """Whether every time step sees the same current."""
        return not self.graph.frames and name == self.graph.stem.name

    def fire(self, node: Fire) -> None:
        static, (current,) = self.is_static(node.inputs[0]), node.inputs
        if self.graph.integer:
            dtype: Any = np.int32
            threshold, bias = (
                self.constant(getattr(node, name).view(-1, 1, 1).numpy(), dtype, f"{node.name}.{name}")
                for name in ("threshold", "bias")
            )
            current = self.op("Add", [self.scaled(current, 1 << node.fraction, dtype), bias])
        else:
            dtype, threshold = np.float32, self.constant(node.threshold, np.float32)
            current = self.scaled(current, node.gain, dtype)
        steps = [current] * self.T
        if not static and self.T > 1:
            steps = [f"{node.name}:{t}" for t in range(self.T)]
            self.nodes.append(self.onnx.helper.make_node("Split", [current], steps, axis=0, num_outputs=self.T))
        spikes, v, zero = [], None, self.constant(0, dtype)
        for x in steps:
            h = self.charge(node, v, x)
            fired = self.op("GreaterOrEqual", [h, threshold])
            v = self.op("Where", [fired, zero, h])
            spikes.append(self.cast(fired, self.spike))
        self.op("Concat", spikes, node.name, axis=0)

    def charge(self, node: Fire, v: str | None, x: str) -> str:
        """h; v is None at the first step, where it is 0."""
        if node.time is None:
            return x if v is None else self.op("Add", [v, x])
        d = x if v is None else self.op("Sub", [x, v])
        if not self.graph.integer:
            part = self.op("Div" if node.neuron == "LIF" else "Mul", [d, self.constant(node.time, np.float32)])
            return part if v is None else self.op("Add", [v, part])
        h = v or self.constant(0, np.int32)
        for sign, shift in node.leak:
            # d >> shift as a division of a number that is not negative: ONNX shifts no signed numbers
            up = self.op("Add", [d, self.constant(1 << 30, np.int32)])
            part = self.op("Div", [up, self.constant(1 << shift, np.int32)])
            part = self.op("Sub", [part, self.constant(1 << (30 - shift), np.int32)])
            h = self.op("Add" if sign > 0 else "Sub", [h, part])
        return h

    def gate(self, node: Gate) -> None:
        identity, residual = (self.cast(name, "BOOL") for name in node.inputs)
        known = {(0, 0, 0, 1): "And", (0, 1, 1, 1): "Or", (0, 1, 1, 0): "Xor"}
        if node.table in known:
            self.cast(self.op(known[node.table], [identity, residual]), self.spike, node.name)
            return
        terms = []  # one And for each 1 of the table
        for bit, i, r in zip(node.table, (0, 0, 1, 1), (0, 1, 0, 1), strict=True):
            if bit:
                a = identity if i else self.op("Not", [identity])
                b = residual if r else self.op("Not", [residual])
                terms.append(self.op("And", [a, b]))
        if not terms:
            raise ValueError(f"{node.name} is a gate that is always 0, which has no use")
        result = terms[0]
        for term in terms[1:]:
            result = self.op("Or", [result, term])
        self.cast(result, self.spike, node.name)

    def add(self, node: Add) -> None:
        names = []
        for name in node.inputs:  # a current that every step sees, and one of each step
            names.append(self.op("Concat", [name] * self.T, axis=0) if self.is_static(name) else name)
        self.op("Add", names, node.name)

    def pool(self, node: Pool) -> None:
        past = node.end_padding(self.graph.shape_of(node.inputs[0])[1:])
        window = {"kernel_shape": list(node.kernel), "strides": list(node.stride), "pads": [*node.padding, *past]}
        self.op("MaxPool", [node.inputs[0]], node.name, **window)

    def attention(self, node: Attention) -> None:
        channels, height, width = node.shape
        sizes = [-1, node.heads, channels // node.heads, height * width]
        q, k, v = (self.reshape(name, sizes) for name in node.inputs)  # [T * N, heads, d, L]
        k = self.op("Transpose", [k], perm=[0, 1, 3, 2])
        if node.channels_first:
            product = self.op("MatMul", [self.op("MatMul", [v, k]), q])
        else:
            product = self.op("MatMul", [v, self.op("MatMul", [k, q])])
        self.reshape(product, [-1, channels, height, width], node.name)

    def head(self, node: Head) -> None:
        height, width = self.graph.shape_of(node.inputs[0])[-2:]
        spikes = self.cast(node.inputs[0], "INT32") if self.graph.integer else node.inputs[0]
        planes = self.op("ReduceSum", [spikes, self.constant([2, 3], np.int64)], keepdims=0)  # [T * N, C]
        counts = self.reshape(planes, [self.T, -1, node.weight.shape[1]])
        counts = self.op("ReduceSum", [counts, self.constant([0], np.int64)], keepdims=0)
        if self.graph.integer:
            self.integer_head(node, counts, height * width * self.T)
            return
        mean = self.op("Div", [counts, self.constant(float(height * width * self.T), np.float32)])
        weight = self.constant(node.weight.numpy(), np.float32, f"{node.name}.weight")
        bias = self.constant(node.bias.numpy(), np.float32, f"{node.name}.bias")
        self.op("Gemm", [mean, weight, bias], "logits", transB=1)

    def integer_head(self, node: Head, counts: str, largest: int) -> None:
        weight = self.constant(node.weight.T.numpy(), np.int8, f"{node.name}.weight")
        total = self.constant(node.bias.numpy() * self.T, np.int32, f"{node.name}.bias")
        # MatMulInteger reads bytes: the counts' digits to the base 256
        base, digits = self.constant(256, np.int32), max(1, math.ceil(math.log(largest + 1, 256)))
        for digit in range(digits):
            if digit:
                counts = self.op("Div", [counts, base])
            product = self.op("MatMulInteger", [self.cast(self.op("Mod", [counts, base]), "UINT8"), weight])
            total = self.op(
                "Add", [total, self.scaled(product, 256**digit, np.int32)], "logits" if digit == digits - 1 else None
            )

    def model(self) -> Any:
        make, kinds, graph = self.onnx.helper, self.onnx.TensorProto, self.graph
        for node in graph.nodes:
            getattr(self, node.kind)(node)
        shape: list[Any] = [*([self.T] if graph.frames else []), "N", *graph.input_shape]
        inputs = make.make_tensor_value_info("frames" if graph.frames else "images", kinds.FLOAT, shape)
        kind = kinds.INT32 if graph.integer else kinds.FLOAT
        logits = make.make_tensor_value_info("logits", kind, ["N", graph.head.shape[0]])
        made = make.make_graph(self.nodes, "full-spike", [inputs], [logits], list(self.constants.values()))
        opset = make.make_opsetid("", OPSET)
        model = make.make_model(made, opset_imports=[opset], ir_version=8, producer_name="full-spike-aap")
        make.set_model_props(model, {"network": graph.name, "T": str(self.T), "bits": str(graph.bits or "float32")})
        self.onnx.checker.check_model(model, full_check=True)
        return model


def write_onnx(graph: Graph, folder: Path) -> None:
    """Write model.onnx, checked by onnx.

    Raises:
        UserError: onnx or onnxruntime is not installed.
        ValueError: a layer is of a kind that this writer does not have.
    """
    (folder / FILE).write_bytes(_Writer(graph).model().SerializeToString())


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

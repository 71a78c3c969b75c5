"""A network as an ONNX model, of floats or of integers.

Time steps are more batch for every layer but the neurons: a layer's spikes are [T * N, C, H, W], T first, and a neuron
splits them into its T steps and is written out. The batch size N is free. An input is "images" [N, C, H, W], or
"frames" [T, N, C, H, W], float32; the output is "logits" [N, classes].

Spikes are 0.0 and 1.0. The sums are exact in any order (see `utils.export.graph.exact_sums`); the stem's are of float64,
which runtimes multiply but do not convolve: a convolution with ones picks each window's values, a product sums them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from full_spike.utils.errors import UserError

OPSET = 23
INPUT_BITS = 20  # inputs of float networks are rounded to multiples of 2^-20


def import_onnx() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401  (what is written is run)
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'full-spike-aap[export]'") from None
    return onnx


class FloatWriter:
    """Collects nodes and constants. Names of tensors are those of the layers that give them."""

    def __init__(self, graph: Any) -> None:
        self.graph, self.onnx = graph, import_onnx()
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.T = graph.T
        self.count = 0

    def constant(self, value: Any, dtype: Any, name: str | None = None) -> str:
        """The name of a constant; equal small ones are one."""
        array = np.asarray(value, dtype=dtype)
        key = name or f"{array.dtype}_{'x'.join(map(str, array.shape))}_{'_'.join(map(str, array.ravel().tolist()))}"
        if key not in self.constants:
            self.constants[key] = self.onnx.numpy_helper.from_array(array, key)
        return key

    def add(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """A node with one output; its name."""
        self.count += 1
        output = output or f"{op}_{self.count}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [output], name=f"{op}_{self.count}", **attributes))
        return output

    def cast(self, x: str, to: str, output: str | None = None) -> str:
        return self.add("Cast", [x], output, to=getattr(self.onnx.TensorProto, to))

    def reshape(self, x: str, shape: list[int], output: str | None = None) -> str:
        return self.add("Reshape", [x, self.constant(shape, np.int64)], output)

    # Layers

    def source(self, name: str) -> str:
        if name != "input":
            return name
        return "input_flat" if self.graph.frames else "images"

    def input(self) -> None:
        if self.graph.frames:
            self.reshape("frames", [-1, *self.graph.input_shape], "input_flat")

    def conv(self, node: Any) -> None:
        x = self.source(node.inputs[0])
        if node is self.graph.stem:
            self.stem(node, x)
            return
        bias = self.constant(node.bias.numpy(), np.float32, f"{node.name}.bias")
        weight = self.constant(node.weight.numpy(), np.float32, f"{node.name}.weight")
        self.add("Conv", [x, weight, bias], node.name, **self._window(node, node.weight.shape[2:]), group=node.groups)

    def _window(self, node: Any, kernel: Any) -> dict[str, Any]:
        return {"kernel_shape": list(kernel), "strides": list(node.stride), "pads": list(node.padding) * 2}

    def stem(self, node: Any, x: str) -> None:
        inputs, kh, kw = node.weight.shape[1:]
        if node.groups != 1:
            raise ValueError(f"{node.name} has {node.groups} groups, which a stem in ONNX has not")
        taps = inputs * kh * kw
        x = self.add("Mul", [x, self.constant(2.0**INPUT_BITS, np.float32)])
        x = self.add("Mul", [self.add("Round", [x]), self.constant(2.0**-INPUT_BITS, np.float32)])
        ones = np.eye(taps, dtype=np.float32).reshape(taps, inputs, kh, kw)
        windows = self.add("Conv", [x, self.constant(ones, np.float32, f"{node.name}.windows")],
                           **self._window(node, (kh, kw)))  # fmt: skip
        flat = self.cast(self.reshape(windows, [0, taps, -1]), "DOUBLE")
        weight = self.constant(node.weight.flatten(1).numpy(), np.float64, f"{node.name}.weight")
        bias = self.constant(node.bias.numpy().reshape(-1, 1), np.float64, f"{node.name}.bias")
        current = self.cast(self.add("Add", [self.add("MatMul", [weight, flat]), bias]), "FLOAT")
        self.reshape(current, [0, *node.shape], node.name)

    def steps(self, x: str, alone: bool) -> list[str]:
        """[T * N, ...] as T tensors [N, ...]; `alone`: the same one, which every step sees."""
        if alone or self.T == 1:
            return [x] * self.T
        parts = [f"{x}:{t}" for t in range(self.T)]
        self.nodes.append(self.onnx.helper.make_node("Split", [x], parts, axis=0, num_outputs=self.T))
        return parts

    def together(self, parts: list[str], output: str) -> None:
        self.add("Concat", parts, output, axis=0) if len(parts) > 1 else self.add("Identity", parts, output)

    def charge(self, node: Any, v: str | None, x: str) -> str:
        if node.neuron == "IF":
            return x if v is None else self.add("Add", [v, x])
        d = x if v is None else self.add("Sub", [x, v])
        op = "Div" if node.neuron == "LIF" else "Mul"
        part = self.add(op, [d, self.constant(node.time, np.float32)])
        return part if v is None else self.add("Add", [v, part])

    def is_static(self, name: str) -> bool:
        return not self.graph.frames and name == self.graph.stem.name

    def fire(self, node: Any) -> None:
        spikes, v, current = [], None, node.inputs[0]
        threshold, zero = self.constant(node.threshold, np.float32), self.constant(0.0, np.float32)
        if node.gain != 1.0:
            current = self.add("Mul", [current, self.constant(node.gain, np.float32)])
        for x in self.steps(current, self.is_static(node.inputs[0])):
            h = self.charge(node, v, x)
            fired = self.add("GreaterOrEqual", [h, threshold])
            v = self.add("Where", [fired, zero, h])
            spikes.append(self.cast(fired, "FLOAT"))
        self.together(spikes, node.name)

    def gate(self, node: Any) -> None:
        names = [self.cast(name, "BOOL") for name in node.inputs]
        self.cast(self.minterms(node.table, *names), "FLOAT", node.name)

    def minterms(self, table: tuple[int, ...], identity: str, residual: str) -> str:
        known = {(0, 0, 0, 1): "And", (0, 1, 1, 1): "Or", (0, 1, 1, 0): "Xor"}
        if table in known:
            return self.add(known[table], [identity, residual])
        terms = []
        for bit, i, r in zip(table, (0, 0, 1, 1), (0, 1, 0, 1), strict=True):
            if bit:
                a = identity if i else self.add("Not", [identity])
                b = residual if r else self.add("Not", [residual])
                terms.append(self.add("And", [a, b]))
        if not terms:
            raise ValueError("a gate that is always 0 has no use")
        result = terms[0]
        for term in terms[1:]:
            result = self.add("Or", [result, term])
        return result

    def add_(self, node: Any) -> None:
        names = []
        for name in node.inputs:  # a current that every step sees, and one of each step
            names.append(self.add("Concat", [name] * self.T, axis=0) if self.is_static(name) else name)
        self.add("Add", names, node.name)

    def pool(self, node: Any) -> None:
        height, width = self.graph.shape_of(node.inputs[0])[-2:]
        # what a window that reaches past the last row needs besides
        more = [
            max(0, (out - 1) * s + k - (n + 2 * p))
            for out, s, k, n, p in zip(
                node.shape[-2:], node.stride, node.kernel, (height, width), node.padding, strict=True
            )
        ]
        pads = [*node.padding, *(p + m for p, m in zip(node.padding, more, strict=True))]
        self.add(
            "MaxPool", [node.inputs[0]], node.name, kernel_shape=list(node.kernel), strides=list(node.stride), pads=pads
        )

    def attention(self, node: Any) -> None:
        channels, height, width = node.shape
        sizes = [-1, node.heads, channels // node.heads, height * width]
        q, k, v = (self.reshape(name, sizes) for name in node.inputs)  # [T * N, heads, d, L]
        k = self.add("Transpose", [k], perm=[0, 1, 3, 2])
        if node.channels_first:
            product = self.add("MatMul", [self.add("MatMul", [v, k]), q])
        else:
            product = self.add("MatMul", [v, self.add("MatMul", [k, q])])
        self.reshape(product, [-1, channels, height, width], node.name)

    def head(self, node: Any) -> None:
        counts = self.counts(node, "FLOAT")
        height, width = self.graph.shape_of(node.inputs[0])[-2:]
        mean = self.add("Div", [counts, self.constant(float(height * width * self.T), np.float32)])
        weight = self.constant(node.weight.numpy(), np.float32, f"{node.name}.weight")
        bias = self.constant(node.bias.numpy(), np.float32, f"{node.name}.bias")
        self.add("Gemm", [mean, weight, bias], "logits", transB=1)

    def counts(self, node: Any, kind: str) -> str:
        """Sums over time, height and width [N, C]."""
        spikes = node.inputs[0]
        if kind != "FLOAT":
            spikes = self.cast(spikes, kind)
        planes = self.add("ReduceSum", [spikes, self.constant([2, 3], np.int64)], keepdims=0)  # [T * N, C]
        total = self.reshape(planes, [self.T, -1, node.weight.shape[1]])
        return self.add("ReduceSum", [total, self.constant([0], np.int64)], keepdims=0)

    def model(self) -> Any:
        make, kinds, graph = self.onnx.helper, self.onnx.TensorProto, self.graph
        self.input()
        for node in graph.nodes:
            getattr(self, "add_" if node.kind == "add" else node.kind)(node)
        shape: list[Any] = [*([self.T] if graph.frames else []), "N", *graph.input_shape]
        given = make.make_tensor_value_info("frames" if graph.frames else "images", kinds.FLOAT, shape)
        kind = kinds.INT32 if graph.integer else kinds.FLOAT
        result = make.make_tensor_value_info("logits", kind, ["N", graph.head.shape[0]])
        made = make.make_graph(self.nodes, "full-spike", [given], [result], list(self.constants.values()))
        opset = make.make_opsetid("", OPSET)
        model = make.make_model(made, opset_imports=[opset], ir_version=10, producer_name="full-spike-aap")
        make.set_model_props(model, {"network": graph.name, "T": str(self.T), "bits": str(graph.bits or "float32")})
        return model

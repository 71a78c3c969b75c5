"""An integer network as an ONNX model that leaves no runtime anything to round.

Spikes are uint8, convolutions ConvInteger, membranes int32, the classifier MatMulInteger; logits are int32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from full_spike.utils.export.onnx_graph import FloatWriter, import_onnx


class IntegerWriter(FloatWriter):
    """The same of an integer network: uint8 spikes, int32 sums and membranes."""

    def input(self) -> None:
        super().input()
        x = self.source("input")
        scaled = self.add("Round", [self.add("Div", [x, self.constant(self.graph.scale, np.float32)])])
        moved = self.add("Add", [scaled, self.constant(float(self.graph.zero), np.float32)])
        clipped = self.add("Clip", [moved, self.constant(0.0, np.float32), self.constant(255.0, np.float32)])
        self.cast(clipped, "UINT8", "bytes")

    def conv(self, node: Any) -> None:
        stem = node is self.graph.stem
        weight = self.constant(node.weight.numpy(), np.int8, f"{node.name}.weight")
        inputs = ["bytes" if stem else node.inputs[0], weight]
        if stem and self.graph.zero:
            inputs.append(self.constant(self.graph.zero, np.uint8))
        window = self._window(node, node.weight.shape[2:])
        if stem and self.graph.zero and any(node.padding):
            # padded here, by the byte that is zero: runtimes differ in whether ConvInteger pads by it
            pads = [0, 0, *node.padding] * 2
            inputs[0] = self.add(
                "Pad", [inputs[0], self.constant(pads, np.int64), self.constant(self.graph.zero, np.uint8)]
            )
            window["pads"] = [0, 0, 0, 0]
        self.add("ConvInteger", inputs, node.name, **window, group=node.groups)

    def fire(self, node: Any) -> None:
        threshold = self.constant(node.threshold.numpy().reshape(-1, 1, 1), np.int32, f"{node.name}.threshold")
        bias = self.constant(node.bias.numpy().reshape(-1, 1, 1), np.int32, f"{node.name}.bias")
        zero = self.constant(0, np.int32)
        x = node.inputs[0]
        if node.fraction:
            x = self.add("Mul", [x, self.constant(1 << node.fraction, np.int32)])
        current = self.add("Add", [x, bias])
        spikes, v = [], None
        for x in self.steps(current, self.is_static(node.inputs[0])):
            h = self.charge_whole(node, v, x)
            fired = self.add("GreaterOrEqual", [h, threshold])
            v = self.add("Where", [fired, zero, h])
            spikes.append(self.cast(fired, "UINT8"))
        self.together(spikes, node.name)

    def charge_whole(self, node: Any, v: str | None, x: str) -> str:
        if not node.leak:
            return x if v is None else self.add("Add", [v, x])
        d = x if v is None else self.add("Sub", [x, v])
        h = v
        for sign, shift in node.leak:
            # d >> shift as a division of a number that is not negative: ONNX shifts no signed numbers
            up = self.add("Add", [d, self.constant(1 << 30, np.int32)])
            part = self.add("Div", [up, self.constant(1 << shift, np.int32)])
            part = self.add("Sub", [part, self.constant(1 << (30 - shift), np.int32)])
            if h is None:
                h = part if sign > 0 else self.add("Neg", [part])
            else:
                h = self.add("Add" if sign > 0 else "Sub", [h, part])
        return h or x

    def gate(self, node: Any) -> None:
        names = [self.cast(name, "BOOL") for name in node.inputs]
        self.cast(self.minterms(node.table, *names), "UINT8", node.name)

    def head(self, node: Any) -> None:
        counts = self.counts(node, "INT32")
        height, width = self.graph.shape_of(node.inputs[0])[-2:]
        weight = self.constant(node.weight.T.numpy(), np.int8, f"{node.name}.weight")
        total = self.constant(node.bias.numpy() * self.T, np.int32, f"{node.name}.bias")
        # MatMulInteger reads bytes: of a count its digits to the base 256, the highest first
        digits = max(1, math.ceil(math.log(height * width * self.T + 1, 256)))
        for digit in reversed(range(digits)):
            part = counts if digits == 1 else self._digit(counts, digit)
            product = self.add("MatMulInteger", [self.cast(part, "UINT8"), weight])
            if digit:
                product = self.add("Mul", [product, self.constant(256**digit, np.int32)])
            total = self.add("Add", [total, product], None if digit else "logits")

    def _digit(self, counts: str, digit: int) -> str:
        if digit:
            counts = self.add("Div", [counts, self.constant(256**digit, np.int32)])
        return self.add("Mod", [counts, self.constant(256, np.int32)])


def write_onnx(graph: Any) -> Any:
    """An onnx.ModelProto, checked by onnx.

    Raises:
        UserError: onnx or onnxruntime is not installed.
        ValueError: a layer is of a kind that this writer has not.
    """
    model = (IntegerWriter if graph.integer else FloatWriter)(graph).model()
    import_onnx().checker.check_model(model, full_check=True)
    return model

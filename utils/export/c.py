"""An integer network as C without dependencies: one .c, one .h, weights as constants, static buffers.

Time steps run one after the other, each through all layers, so that a sensor's frames can be fed as they come. Spikes
lie in memory as bytes [H][W][C]. The code itself is `body.c` beside this file; what is written here is its tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

BODY = Path(__file__).with_name("body.c")
HEADER = """/* {name}: an integer spiking network, written by full-spike-aap.
 *
 * Input: bytes, clamp(round(x / {scale!r}) + CLASSIFY_ZERO, 0, 255) of each value x that the network was trained on.
 * Logits: integers; times {logit_scale!r} they are the trained network's.
 * Needs arithmetic right shifts of negative numbers, as every C compiler of note has them.
 * One network and one set of buffers: not for several threads at once.
 */
#ifndef CLASSIFY_H
#define CLASSIFY_H

#include <stdint.h>

#define CLASSIFY_ZERO {zero}
#define CLASSIFY_STEPS {T}
#define CLASSIFY_MOST_STEPS {most}
#define CLASSIFY_CHANNELS {channels}
#define CLASSIFY_HEIGHT {height}
#define CLASSIFY_WIDTH {width}
#define CLASSIFY_CLASSES {classes}

/* The class of an input, and its logits [CLASSIFY_CLASSES].
 * image: {image}. */
int classify(const uint8_t *image, int32_t *logits);

/* The same one time step at a time. Start with classify_reset, then at most CLASSIFY_MOST_STEPS steps, each of a frame
 * [CLASSIFY_CHANNELS][CLASSIFY_HEIGHT][CLASSIFY_WIDTH]; the class up to here is what classify_logits returns. */
void classify_reset(void);
void classify_step(const uint8_t *frame);
int classify_logits(int32_t *logits);

#endif
"""


def _symbol(name: str) -> str:
    return "_" + "".join(letter if letter.isalnum() else "_" for letter in name)


def _bytes(weights: torch.Tensor) -> str:
    """int8 numbers as string literals, which compilers read faster than lists."""
    raw = weights.contiguous().numpy().tobytes()
    rows = ["".join(f"\\{b:03o}" for b in raw[i : i + 28]) for i in range(0, len(raw), 28)]
    return "\n".join(f'    "{row}"' for row in rows)


def _list(values: Iterable[Any], a_row: int = 12) -> str:
    items = [str(value) for value in values]
    return "\n".join("    " + ", ".join(items[i : i + a_row]) + "," for i in range(0, len(items), a_row))


def axis(size: int, outputs: int, kernel: int, stride: int, padding: int) -> list[tuple[int, int, int]]:
    """Of each position: (how many windows cover it, the first one's place in the kernel, and its output)."""
    found = []
    for position in range(size):
        taps = [k for k in range(kernel) if (position + padding - k) % stride == 0
                and 0 <= (position + padding - k) // stride < outputs]  # fmt: skip
        first = taps[0] if taps else 0
        found.append((len(taps), first, (position + padding - first) // stride if taps else 0))
    return found


class _Writer:
    """Collects the tables and the calls of one network."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.index = {node.name: i for i, node in enumerate(graph.nodes)}
        self.shapes = {"input": graph.input_shape, **{node.name: node.shape for node in graph.nodes}}
        self.tables: list[str] = []
        self.calls: list[str] = []
        self.gates: dict[tuple[int, ...], str] = {}
        self.membranes: list[tuple[str, int]] = []
        self.largest_sums = 0
        self.buffers, self.slots = _share_buffers(graph)

    def write(self) -> str:
        for node in self.graph.nodes:
            getattr(self, f"_{node.kind}")(node)
        declared = [f"static int32_t v{name}[{size}];" for name, size in self.membranes]
        declared += [f"static uint8_t slot{i}[{size}];" for i, size in enumerate(self.slots)]
        clears = [f"    memset(v{name}, 0, sizeof v{name});" for name, _ in self.membranes]
        body = BODY.read_text(encoding="utf-8")
        return "\n".join(
            [
                '#include "classify.h"', "#include <string.h>", "", f"#define LAYERS {len(self.graph.nodes)}", "", body,
                *self._gate_functions(), *self.tables, "", *declared,
                f"static int32_t sums[{self.largest_sums}];", f"static int32_t scores[{self.graph.head.shape[0]}];", "",
                "void classify_reset(void)", "{", *clears, "    memset(scores, 0, sizeof scores);", "}", "",
                "/* One time step of everything behind the first layer's sums. */",
                "static APART void body(const int32_t *stem)", "{", *self.calls, "}", "", self._entry_points(),
            ]
        )  # fmt: skip

    def _array(self, kind: str, symbol: str, count: int, content: str) -> None:
        self.tables.append(f"static const {kind} {symbol}[{count}] = {{\n{content}\n}};")

    def _weights(self, symbol: str, weights: torch.Tensor) -> None:
        self.tables.append(f"static const int8_t w{symbol}[{weights.numel()}] =\n{_bytes(weights)};")

    def _sums(self, node: Any, kernel: Sequence[int], weights: str) -> None:
        """A `struct sums`, of a convolution or a pooling, with its axes."""
        symbol, (inputs, *size) = _symbol(node.name), self.shapes[node.inputs[0]]
        outputs, height, width = node.shape
        steps = {
            "rows": (kernel[1] * outputs, width * outputs, size[1] * inputs),
            "columns": (outputs, outputs, inputs),
        }
        for i, (axis_name, (weight, output, value)) in enumerate(steps.items()):
            places = enumerate(axis(size[i], (height, width)[i], kernel[i], node.stride[i], node.padding[i]))
            cells = [
                f"{{{out * output}, {(out - windows) * output}, {first * weight}, {at * value}}}"
                for at, (windows, first, out) in places
            ]
            self._array("struct axis", f"{axis_name}{symbol}", len(cells), _list(cells, 6))
        numbers = [
            *size, inputs, outputs, kernel[0] * kernel[1] * outputs,
            *(s * step[0] for s, step in zip(node.stride, steps.values(), strict=True)), width * outputs, outputs,
            outputs * height * width, self.index[node.name],
        ]  # fmt: skip
        self.tables.append(
            f"static const struct sums l{symbol} = {{{weights}, rows{symbol}, columns{symbol}, "
            f"{', '.join(map(str, numbers))}}};"
        )

    def _conv(self, node: Any) -> None:
        if node.groups != 1:
            raise ValueError(f"{node.name} is a convolution of {node.groups} groups, which the C code has not")
        symbol, weights = _symbol(node.name), node.weight.permute(1, 2, 3, 0)
        self._weights(symbol, weights)
        self._sums(node, node.weight.shape[2:], f"w{symbol}")
        size = int(np.prod(node.shape))
        if node is self.graph.stem:
            self.tables.append(f"static int32_t stem_sums[{size}];")
        else:
            self.largest_sums = max(self.largest_sums, size)
            self.calls.append(f"    add_spikes(&l{symbol}, {self.buffers[node.inputs[0]]}, sums);")

    def _fire(self, node: Any) -> None:
        symbol, (channels, height, width) = _symbol(node.name), node.shape
        self._array("int32_t", f"threshold{symbol}", channels, _list(node.threshold.tolist()))
        self._array("int32_t", f"bias{symbol}", channels, _list(node.bias.tolist()))
        terms = "0"
        if node.leak:
            terms = f"term{symbol}"
            self._array("struct term", terms, len(node.leak), _list(f"{{{int(s < 0)}, {k}}}" for s, k in node.leak))
        self.tables.append(
            f"static const struct neurons n{symbol} = {{threshold{symbol}, bias{symbol}, {height * width}, {channels}, "
            f"{node.fraction}, {len(node.leak)}, {terms}}};"
        )
        self.membranes.append((symbol, channels * height * width))
        read = "stem" if self.graph.node(node.inputs[0]) is self.graph.stem else "sums"
        self.calls.append(f"    fire(&n{symbol}, {read}, v{symbol}, {self.buffers[node.name]});")
        self._watch(node)

    def _gate(self, node: Any) -> None:
        name = self.gates.setdefault(node.table, f"gate_{''.join(map(str, node.table))}")
        identity, residual = (self.buffers[source] for source in node.inputs)
        size = int(np.prod(node.shape))
        self.calls.append(f"    {name}({identity}, {residual}, {self.buffers[node.name]}, {size}); /* {node.join} */")
        self._watch(node)

    def _pool(self, node: Any) -> None:
        symbol = _symbol(node.name)
        self._sums(node, node.kernel, "0")
        self.calls.append(f"    pool(&l{symbol}, {self.buffers[node.inputs[0]]}, {self.buffers[node.name]});")
        self._watch(node)

    def _watch(self, node: Any) -> None:
        size = int(np.prod(node.shape))
        self.calls.append(f"    WATCH({self.index[node.name]}, {self.buffers[node.name]}, {size});")

    def _head(self, node: Any) -> None:
        channels, height, width = self.shapes[node.inputs[0]]
        symbol, classes = _symbol(node.name), node.shape[0]
        self._weights(symbol, node.weight.T)
        self._array("int32_t", f"bias{symbol}", classes, _list(node.bias.tolist()))
        numbers = [height * width, 1, channels, classes, 0, 0, 0, 0, 0, classes, self.index[node.name]]
        self.tables.append(f"static const struct sums l{symbol} = {{w{symbol}, 0, 0, {', '.join(map(str, numbers))}}};")
        self.calls.append(f"    add_to_logits(&l{symbol}, bias{symbol}, {self.buffers[node.inputs[0]]}, scores);")

    def _gate_functions(self) -> list[str]:
        terms = ("((i ^ 1) & (r ^ 1))", "((i ^ 1) & r)", "(i & (r ^ 1))", "(i & r)")
        functions = []
        for table, name in self.gates.items():
            value = " | ".join(term for term, bit in zip(terms, table, strict=True) if bit) or "0"
            functions.append(
                f"static void {name}(const uint8_t *identity, const uint8_t *residual, uint8_t *joined, int32_t size)\n"
                "{\n    for (int32_t k = 0; k < size; k++) {\n"
                "        const unsigned i = identity[k], r = residual[k];\n"
                f"        joined[k] = (uint8_t)({value});\n    }}\n}}\n"
            )
        return functions

    def _entry_points(self) -> str:
        stem, graph = _symbol(self.graph.stem.name), self.graph
        channels, height, width = graph.input_shape
        if graph.frames:
            loop = f"        classify_step(image);\n        image += {channels * height * width};"
        else:
            loop = "        body(stem_sums);"
        once = "" if graph.frames else f"    multiply_bytes(&l{stem}, image, stem_sums);\n"
        return f"""void classify_step(const uint8_t *frame)
{{
    multiply_bytes(&l{stem}, frame, stem_sums);
    body(stem_sums);
}}

int classify_logits(int32_t *logits)
{{
    int best = 0;
    for (int k = 0; k < CLASSIFY_CLASSES; k++) {{
        logits[k] = scores[k];
        if (scores[k] > scores[best])
            best = k;
    }}
    return best;
}}

int classify(const uint8_t *image, int32_t *logits)
{{
    classify_reset();
{once}    for (int t = 0; t < CLASSIFY_STEPS; t++) {{
{loop}
    }}
    return classify_logits(logits);
}}
"""


def _share_buffers(graph: Any) -> tuple[dict[str, str], list[int]]:
    """(a buffer for the spikes of each layer, the sizes of the buffers): a layer's is free once all have read it."""
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    slots: list[int] = []
    free: list[int] = []
    taken: dict[str, int] = {}
    for i, node in enumerate(graph.nodes[:-1]):
        if node.kind == "conv":
            # what it reads may be overwritten by its neuron, which no longer needs it
            free += [taken[name] for name in node.inputs if last[name] == i and name in taken]
            continue
        size = int(np.prod(node.shape))
        if free:
            slot = min(free, key=lambda s: (slots[s] < size, abs(slots[s] - size)))
            free.remove(slot)
            slots[slot] = max(slots[slot], size)
        else:
            slot = len(slots)
            slots.append(size)
        taken[node.name] = slot
        free += [taken[name] for name in node.inputs if last[name] == i and name in taken]
    return {name: f"slot{slot}" for name, slot in taken.items()}, slots


def write_c(graph: Any, most_steps: int) -> tuple[str, str]:
    """(the text of classify.h, that of classify.c) of an integer network.

    Args:
        most_steps: after which a membrane or logit could overflow.

    Raises:
        ValueError: a layer is of a kind that the C code has not.
    """
    channels, height, width = graph.input_shape
    image = "[CLASSIFY_CHANNELS][CLASSIFY_HEIGHT][CLASSIFY_WIDTH]"
    header = HEADER.format(
        name=graph.name, scale=graph.scale, logit_scale=graph.logit_scale, zero=graph.zero, T=graph.T, most=most_steps,
        channels=channels, height=height, width=width, classes=graph.head.shape[0],
        image=f"[CLASSIFY_STEPS]{image}, frame after frame" if graph.frames else f"{image}, shown CLASSIFY_STEPS times",
    )  # fmt: skip
    return header, _Writer(graph).write()

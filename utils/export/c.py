"""An integer network as C without dependencies, and that code compiled: one .c, one .h, constants, static buffers.

Time steps run one after the other, each through all layers, so that a sensor's frames can be fed as they come. Spikes
lie in memory as bytes [H][W][C]. The code itself is `body.c` beside this file; what is written here is its tables.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from full_spike.utils.errors import UserError
from full_spike.utils.export.graph import Conv, Gate, Graph, Head, Pool
from full_spike.utils.export.run import max_steps, to_bytes

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
ENTRY_POINTS = """void classify_step(const uint8_t *frame)
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
{step}
    }}
    return classify_logits(logits);
}}
"""


def _symbol(name: str) -> str:
    return "_" + "".join(letter if letter.isalnum() else "_" for letter in name)


def _bytes(weights: Tensor) -> str:
    """int8 numbers as string literals, which compilers read faster than lists."""
    raw = weights.contiguous().numpy().tobytes()
    rows = ["".join(f"\\{b:03o}" for b in raw[i : i + 28]) for i in range(0, len(raw), 28)]
    return "\n".join(f'    "{row}"' for row in rows)


def _list(values: Iterable[Any], per_row: int = 12) -> str:
    items = [str(value) for value in values]
    return "\n".join("    " + ", ".join(items[i : i + per_row]) + "," for i in range(0, len(items), per_row))


def _axis(size: int, outputs: int, kernel: int, stride: int, padding: int) -> list[tuple[int, int, int]]:
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

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.index = {node.name: i for i, node in enumerate(graph.nodes)}
        self.tables: list[str] = []
        self.calls: list[str] = []
        self.gates: dict[tuple[int, ...], str] = {}
        self.membranes: list[tuple[str, int]] = []
        self.largest_sums = 0
        self.buffers, self.sizes = _share_buffers(graph)

    def write(self) -> str:
        for node in self.graph.nodes:
            getattr(self, node.kind)(node)
        declared = [f"static int32_t v{name}[{size}];" for name, size in self.membranes]
        declared += [f"static uint8_t slot{i}[{size}];" for i, size in enumerate(self.sizes)]
        clears = [f"    memset(v{name}, 0, sizeof v{name});" for name, _ in self.membranes]
        body = BODY.read_text(encoding="utf-8")
        return "\n".join(
            [
                '#include "classify.h"', "#include <string.h>", "", f"#define LAYERS {len(self.graph.nodes)}", "", body,
                *self.gate_functions(), *self.tables, "", *declared,
                f"static int32_t sums[{self.largest_sums}];", f"static int32_t scores[{self.graph.head.shape[0]}];", "",
                "void classify_reset(void)", "{", *clears, "    memset(scores, 0, sizeof scores);", "}", "",
                "/* One time step of everything behind the first layer's sums. */",
                "static APART void body(const int32_t *stem)", "{", *self.calls, "}", "", self.entry_points(),
            ]
        )  # fmt: skip

    def array(self, kind: str, name: str, count: int, content: str) -> None:
        self.tables.append(f"static const {kind} {name}[{count}] = {{\n{content}\n}};")

    def weights(self, name: str, weights: Tensor) -> None:
        self.tables.append(f"static const int8_t {name}[{weights.numel()}] =\n{_bytes(weights)};")

    def sums(self, node: Any, kernel: Sequence[int], weights: str) -> None:
        """A `struct sums`, of a convolution or a pooling, with its axes."""
        symbol, (inputs, *size) = _symbol(node.name), self.graph.shape_of(node.inputs[0])
        outputs, height, width = node.shape
        steps = {
            "rows": (kernel[1] * outputs, width * outputs, size[1] * inputs),
            "columns": (outputs, outputs, inputs),
        }
        for i, (axis, (weight, output, value)) in enumerate(steps.items()):
            places = enumerate(_axis(size[i], (height, width)[i], kernel[i], node.stride[i], node.padding[i]))
            cells = [
                f"{{{out * output}, {(out - windows) * output}, {first * weight}, {at * value}}}"
                for at, (windows, first, out) in places
            ]
            self.array("struct axis", f"{axis}{symbol}", len(cells), _list(cells, 6))
        numbers = [
            *size, inputs, outputs, kernel[0] * kernel[1] * outputs,
            *(s * step[0] for s, step in zip(node.stride, steps.values(), strict=True)), width * outputs, outputs,
            outputs * height * width, self.index[node.name],
        ]  # fmt: skip
        self.tables.append(
            f"static const struct sums l{symbol} = {{{weights}, rows{symbol}, columns{symbol}, "
            f"{', '.join(map(str, numbers))}}};"
        )

    def watched(self, node: Any, call: str) -> None:
        self.calls += [f"    {call}", f"    WATCH({self.index[node.name]}, {self.buffers[node.name]}, {_size(node)});"]

    # The layers

    def conv(self, node: Conv) -> None:
        if node.groups != 1:
            raise ValueError(f"{node.name} is a convolution of {node.groups} groups, which the C code does not have")
        symbol = _symbol(node.name)
        self.weights(f"w{symbol}", node.weight.permute(1, 2, 3, 0))
        self.sums(node, node.weight.shape[2:], f"w{symbol}")
        if node is self.graph.stem:
            self.tables.append(f"static int32_t stem_sums[{_size(node)}];")
        else:
            self.largest_sums = max(self.largest_sums, _size(node))
            self.calls.append(f"    add_spikes(&l{symbol}, {self.buffers[node.inputs[0]]}, sums);")

    def fire(self, node: Any) -> None:
        symbol, (channels, height, width) = _symbol(node.name), node.shape
        for name in ("threshold", "bias"):
            self.array("int32_t", f"{name}{symbol}", channels, _list(getattr(node, name).tolist()))
        terms = "0"
        if node.leak:
            terms = f"term{symbol}"
            self.array("struct term", terms, len(node.leak), _list(f"{{{int(s < 0)}, {k}}}" for s, k in node.leak))
        self.tables.append(
            f"static const struct neurons n{symbol} = {{threshold{symbol}, bias{symbol}, {height * width}, {channels}, "
            f"{node.fraction}, {len(node.leak)}, {terms}}};"
        )
        self.membranes.append((symbol, _size(node)))
        read = "stem" if node.inputs[0] == self.graph.stem.name else "sums"
        self.watched(node, f"fire(&n{symbol}, {read}, v{symbol}, {self.buffers[node.name]});")

    def gate(self, node: Gate) -> None:
        name = self.gates.setdefault(node.table, f"gate_{''.join(map(str, node.table))}")
        identity, residual, joined = (self.buffers[name] for name in (*node.inputs, node.name))
        self.watched(node, f"{name}({identity}, {residual}, {joined}, {_size(node)}); /* {node.join} */")

    def pool(self, node: Pool) -> None:
        self.sums(node, node.kernel, "0")
        read, pooled = self.buffers[node.inputs[0]], self.buffers[node.name]
        self.watched(node, f"pool(&l{_symbol(node.name)}, {read}, {pooled});")

    def head(self, node: Head) -> None:
        channels, height, width = self.graph.shape_of(node.inputs[0])
        symbol, classes = _symbol(node.name), node.shape[0]
        self.weights(f"w{symbol}", node.weight.T)
        self.array("int32_t", f"bias{symbol}", classes, _list(node.bias.tolist()))
        numbers = [height * width, 1, channels, classes, 0, 0, 0, 0, 0, classes, self.index[node.name]]
        self.tables.append(f"static const struct sums l{symbol} = {{w{symbol}, 0, 0, {', '.join(map(str, numbers))}}};")
        self.calls.append(f"    add_to_logits(&l{symbol}, bias{symbol}, {self.buffers[node.inputs[0]]}, scores);")

    def gate_functions(self) -> list[str]:
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

    def entry_points(self) -> str:
        stem, frame = _symbol(self.graph.stem.name), math.prod(self.graph.input_shape)
        once, step = f"    multiply_bytes(&l{stem}, image, stem_sums);\n", "        body(stem_sums);"
        if self.graph.frames:
            once, step = "", f"        classify_step(image);\n        image += {frame};"
        return ENTRY_POINTS.format(stem=stem, once=once, step=step)


def _size(node: Any) -> int:
    return math.prod(node.shape)


def _share_buffers(graph: Graph) -> tuple[dict[str, str], list[int]]:
    """(a buffer for the spikes of each layer, the sizes of the buffers): a layer's is free once all have read it."""
    sizes: list[int] = []
    free: list[int] = []
    taken: dict[str, int] = {}
    for i, node in enumerate(graph.nodes[:-1]):
        if not isinstance(node, Conv):
            if free:
                slot = min(free, key=lambda s: (sizes[s] < _size(node), abs(sizes[s] - _size(node))))
                free.remove(slot)
                sizes[slot] = max(sizes[slot], _size(node))
            else:
                slot = len(sizes)
                sizes.append(_size(node))
            taken[node.name] = slot
        # what a convolution reads may be overwritten by its neuron, which reads the sums
        free += [taken[name] for name in node.inputs if graph.last_use[name] == i and name in taken]
    return {name: f"slot{slot}" for name, slot in taken.items()}, sizes


def write_c(graph: Graph, folder: Path) -> None:
    """Write classify.h and classify.c of an integer network.

    Raises:
        ValueError: a layer is of a kind that the C code does not have.
    """
    channels, height, width = graph.input_shape
    image = "[CLASSIFY_CHANNELS][CLASSIFY_HEIGHT][CLASSIFY_WIDTH]"
    header = HEADER.format(
        name=graph.name, scale=graph.scale, logit_scale=graph.logit_scale, zero=graph.zero, T=graph.T,
        most=max_steps(graph), channels=channels, height=height, width=width, classes=graph.head.shape[0],
        image=f"[CLASSIFY_STEPS]{image}, frame after frame" if graph.frames else f"{image}, shown CLASSIFY_STEPS times",
    )  # fmt: skip
    (folder / "classify.h").write_text(header, encoding="utf-8")
    (folder / "classify.c").write_text(_Writer(graph).write(), encoding="utf-8")


def compiler() -> str:
    """A C compiler: $CC, cc or gcc. UserError if there is none."""
    for name in (os.environ.get("CC"), "cc", "gcc"):
        if name and shutil.which(name):
            return name
    raise UserError("there is no C compiler, with which what was written is checked: install gcc, or name one by CC")


class CRuntime:
    """The C code as a library, compiled once as it stands and once to be watched.

    Raises:
        UserError: it does not compile.
    """

    name = "the C code"
    FLAGS = ("-O2", "-Wall", "-Werror", "-std=c99")

    def __init__(self, folder: Path, graph: Graph) -> None:
        self.graph, self.source = graph, folder / "classify.c"
        self._temporary = tempfile.TemporaryDirectory()
        self.build = Path(self._temporary.name)
        self.plain = self._library("plain")
        self.watched = self._library("watched", "-DCLASSIFY_WATCH", "-DCLASSIFY_COUNT")

    def _library(self, name: str, *defines: str) -> ctypes.CDLL:
        return ctypes.CDLL(str(self.compile(f"{name}.so", "-shared", "-fPIC", *defines)))

    def compile(self, output: str, *flags: str) -> Path:
        path = self.build / output
        command = [compiler(), *self.FLAGS, *flags, str(self.source), "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
            raise UserError(f"{command[0]} does not compile {self.source}: {reason}")
        return path

    def _classify(self, library: ctypes.CDLL, x: Tensor) -> Tensor:
        """Logits [N, classes] of inputs, one after the other."""
        inputs = to_bytes(self.graph, x)
        if x.ndim == 5:
            inputs = inputs.transpose(0, 1)
        items = np.ascontiguousarray(inputs.numpy())
        logits = np.zeros((len(items), self.graph.head.shape[0]), dtype=np.int32)
        for item, row in zip(items, logits, strict=True):
            library.classify(item.ctypes.data_as(ctypes.c_void_p), row.ctypes.data_as(ctypes.c_void_p))
        return torch.from_numpy(logits)

    def logits(self, x: Tensor) -> Tensor:
        return self._classify(self.plain, x)

    @contextlib.contextmanager
    def watching(self) -> Iterator[dict[int, list[np.ndarray]]]:
        """Layer -> its spikes [H * W * C] of each time step that `watched` runs within the block."""
        seen: dict[int, list[np.ndarray]] = {}

        def watch(layer: int, spikes: Any, size: int) -> None:
            seen.setdefault(layer, []).append(np.ctypeslib.as_array(spikes, (size,)).copy())

        kind = ctypes.CFUNCTYPE(None, ctypes.c_int32, ctypes.POINTER(ctypes.c_uint8), ctypes.c_int32)
        callback = kind(watch)
        pointer = ctypes.c_void_p.in_dll(self.watched, "classify_watch")
        pointer.value = ctypes.cast(callback, ctypes.c_void_p).value
        try:
            yield seen
        finally:
            pointer.value = None

    def maps(self, seen: dict[int, list[np.ndarray]], count: int) -> dict[str, Tensor]:
        """What was seen of so many inputs, one after the other, as spikes [T, N, C, H, W] by layer."""
        spikes = {}
        for layer, values in seen.items():
            node = self.graph.nodes[layer]
            channels, height, width = node.shape
            maps = torch.from_numpy(np.stack(values)).view(count, -1, height, width, channels)  # [N, T, H, W, C]
            spikes[node.name] = maps.permute(1, 0, 4, 2, 3)
        return spikes

    def spikes(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        with self.watching() as seen:
            logits = self._classify(self.watched, x)
        return self.maps(seen, len(logits)), logits

    def memory(self) -> tuple[int, int]:
        """(bytes of code and constants, bytes of buffers), as binutils' `size` has them; (0, 0) without it."""
        target = self.compile("classify.o", "-c")
        if shutil.which("size") is None:
            return 0, 0
        sizes = subprocess.run(["size", str(target)], capture_output=True, text=True, check=True).stdout.splitlines()[1]
        text, data, bss = (int(number) for number in sizes.split()[:3])
        return text + data, data + bss

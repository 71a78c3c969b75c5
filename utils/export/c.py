"""An integer network as C without dependencies, and that code compiled: one .c, one .h, constants, static buffers.

The code itself is `body.c` beside this file; what is written here is its tables, and the order of its calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from full_spike.utils.errors import UserError
from full_spike.utils.export.graph import INPUT, Conv, Fire, Gate, Graph, Head, Pool
from full_spike.utils.export.run import max_steps, to_bytes
from full_spike.utils.export.saved import pack

BODY = Path(__file__).with_name("body.c")
HEADER = """/* {name}: an integer spiking network, written by full-spike-aap.
 *
 *     cc -std=c99 -O2 -c classify.c
 *
 * Input: bytes, clamp(round(x / CLASSIFY_SCALE) + CLASSIFY_ZERO, 0, 255) of each value x that the network was trained
 * on. Where CLASSIFY_MEAN is given, an image is resized to a shorter side of CLASSIFY_RESIZE, its centre taken, and x
 * is (pixel / 255 - CLASSIFY_MEAN) / CLASSIFY_STD in each channel; of events, x is their count.
 * Logits: integers; times CLASSIFY_LOGIT_SCALE they are the trained network's, whose softmax are probabilities.
 * Needs arithmetic right shifts of negative numbers, as every C compiler of note has them.
 * One network and one set of buffers: not for several threads at once.
 */
#ifndef CLASSIFY_H
#define CLASSIFY_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define CLASSIFY_SCALE {scale!r}
#define CLASSIFY_ZERO {zero}
#define CLASSIFY_LOGIT_SCALE {logit_scale!r}
#define CLASSIFY_STEPS {T}
#define CLASSIFY_MOST_STEPS {most}
#define CLASSIFY_CHANNELS {channels}
#define CLASSIFY_HEIGHT {height}
#define CLASSIFY_WIDTH {width}
#define CLASSIFY_CLASSES {classes}
{metadata}
/* The class of an input, and its logits [CLASSIFY_CLASSES].
 * image: {image}. */
int classify(const uint8_t *image, int32_t *logits);

/* The same one time step at a time, where classify.c is compiled with -DCLASSIFY_STREAM, which takes more memory. Start
 * with classify_reset, then at most CLASSIFY_MOST_STEPS steps, each of a frame
 * [CLASSIFY_CHANNELS][CLASSIFY_HEIGHT][CLASSIFY_WIDTH]; the class up to here is what classify_logits returns. */
void classify_reset(void);
void classify_step(const uint8_t *frame);
int classify_logits(int32_t *logits);

#ifdef __cplusplus
}}
#endif

#endif
"""
ENTRY_POINTS = """
void classify_reset(void)
{{
    memset(membranes, 0, sizeof membranes);
    memset(scores, 0, sizeof scores);
}}

static APART void run(const uint8_t *frame)
{{
{calls}
}}

#ifdef CLASSIFY_STREAM
void classify_step(const uint8_t *frame)
{{
    run(frame);
}}
#endif

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
    for (int t = 0; t < CLASSIFY_STEPS; t += AT_ONCE, image += {frame})
        run(image);
    return classify_logits(logits);
}}
"""


def bytes_of(channels: int) -> int:
    """Of a position's spikes, one a bit."""
    return (channels + 7) // 8


def bytes_in(node: Any) -> int:
    """Of a map's spikes."""
    channels, height, width = node.shape
    return bytes_of(channels) * height * width


def comment(text: str) -> str:
    """What of a text may stand in a comment: what a file names may not end it."""
    return re.sub(r"[^\w. ]", "_", text)


def _list(values: Iterable[Any], per_row: int) -> str:
    items = [str(value) for value in values]
    return ",\n".join("    " + ", ".join(items[i : i + per_row]) for i in range(0, len(items), per_row))


class _Layers:
    """The layers of a graph as tables and calls, for `Graph.walk`; what a layer gives is the name of its spikes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.index = {node.name: i for i, node in enumerate(graph.nodes)}
        self.slots, self.sizes = share_slots(graph)
        self.tables: list[str] = []
        self.calls: list[str] = []
        self.neurons, self.largest_row = 0, 0

    def table(self, name: str, kind: str, values: Iterable[Any], per_row: int = 12) -> str:
        self.tables.append(f"static const {kind} {name}[] = {{\n{_list(values, per_row)}\n}};")
        return name

    def weights(self, name: str, kind: str, values: Tensor) -> str:
        """As a string, which compilers read faster than a list; the array has room for its end."""
        raw = values.contiguous().numpy().tobytes()
        rows = ("".join(f"\\{b:03o}" for b in raw[i : i + 28]) for i in range(0, len(raw), 28))
        content = "\n".join(f'    "{row}"' for row in rows)
        self.tables.append(f"static const {kind} {name}[{len(raw) + 1}] =\n{content};")
        return name

    def layer(self, node: Any, reads: Any, kernel: Sequence[int], unit: int, tap: int, **fields: Any) -> str:
        """A `struct layer`, of a convolution with its neurons or a pooling, with its axes.

        Args:
            reads: the node with the windows.
            kernel: their size.
            unit: distance between the outputs of two columns.
            tap: weights of a position in the kernel.
        """
        i, image = self.index[node.name], reads.inputs == (INPUT,)
        planes, in_height, in_width = self.graph.shape_of(reads.inputs[0])
        _, height, width = node.shape
        (kh, kw), (sh, sw), (ph, pw) = kernel, reads.stride, reads.padding
        inputs = planes if image else bytes_of(planes)
        row = in_width * (1 if image else inputs)
        rows, columns = [], []
        for y in range(height):
            first = max(0, ph - y * sh)
            start = y * sh - ph + first
            count = max(0, min(kh - first, in_height - start))
            rows.append(f"{{{start * row}, {(start + count) * row}, {first * kw * tap}}}")
        for x in range(in_width):
            taps = [k for k in range(kw) if (x + pw - k) % sw == 0 and 0 <= x + pw - k < width * sw]
            first = taps[0] if taps else 0
            last = (x + pw - first) // sw
            columns.append(f"{{{last * unit}, {(last - len(taps)) * unit}, {first * tap}}}")
        fields |= {
            "number": self.index[reads.name], "height": height, "width": in_width, "inputs": inputs, "row": row,
            "rows": self.table(f"rows{i}", "struct axis", rows, 6),
            "columns": self.table(f"columns{i}", "struct axis", columns, 6),
            "step": math.prod(self.graph.input_shape) * self.graph.frames if image else row * in_height,
            "out_row": width * bytes_of(node.shape[0]), "out_step": bytes_in(node),
        }  # fmt: skip
        written = ", ".join(f".{name} = {value}" for name, value in fields.items())
        self.tables.append(f"static const struct layer l{i} = {{{written}}}; /* {comment(node.name)} */\n")
        return f"&l{i}"

    def call(self, node: Any, function: str, *arguments: Any) -> str:
        slot = self.slots[node.name]
        self.calls += [f"    {function}({', '.join(map(str, arguments))});"]
        self.calls += [f"    watch({self.index[node.name]}, {slot}, {bytes_in(node)});"]
        return slot

    def conv(self, node: Conv, spikes: str) -> tuple[Conv, str]:
        if node.groups != 1:
            raise ValueError(f"{node.name} is a convolution of {node.groups} groups, which the C code does not have")
        return node, spikes

    def fire(self, node: Fire, current: tuple[Conv, str]) -> str:
        conv, spikes = current
        i, (outputs, _, width) = self.index[conv.name], node.shape
        kernel, weight = conv.weight.shape[2:], conv.weight.permute(1, 2, 3, 0)
        tap = outputs
        if self.graph.bits == 4:
            tap = (outputs + 1) // 2
            weight = pack(torch.nn.functional.pad(weight, (0, outputs % 2)))
        fields: dict[str, Any] = {"threshold": node.threshold, "bias": node.bias}
        fields = {name: self.table(f"{name}{i}", "int32_t", values.tolist()) for name, values in fields.items()}
        if node.leak:
            fields["term"] = self.table(f"term{i}", "struct term", (f"{{{int(s < 0)}, {k}}}" for s, k in node.leak))
        layer = self.layer(
            node, conv, kernel, outputs, tap, weights=self.weights(f"w{i}", "weight", weight),
            outputs=outputs, of_input=math.prod(kernel) * tap, of_row=kernel[1] * tap, of_column=conv.stride[1] * tap,
            positions=width, sums=outputs * width, neurons=self.neurons, fraction=node.fraction, terms=len(node.leak),
            **fields,
        )  # fmt: skip
        self.neurons += math.prod(node.shape)
        self.largest_row = max(self.largest_row, outputs * width)
        plane = math.prod(self.graph.input_shape[1:]) if conv is self.graph.stem else 0
        return self.call(node, "spike", layer, spikes, self.slots[node.name], plane)

    def gate(self, node: Gate, identity: str, residual: str) -> str:
        channels, height, width = node.shape
        last = (1 << (channels - 1) % 8 + 1) - 1
        masks = [255 * bool(bit) for bit in node.table]
        size = height * width, bytes_of(channels), last
        return self.call(node, "gate", identity, residual, self.slots[node.name], *size, *masks)

    def pool(self, node: Pool, spikes: str) -> str:
        layer = self.layer(node, node, node.kernel, bytes_of(node.shape[0]), 0)
        return self.call(node, "pool", layer, spikes, self.slots[node.name])

    def head(self, node: Head, spikes: str) -> None:
        channels, height, width = self.graph.shape_of(node.inputs[0])
        weights = self.weights("of_classes", "int8_t", node.weight.T)
        bias = self.table("bias_of_classes", "int32_t", node.bias.tolist())
        self.calls.append(f"    add_to_logits({weights}, {bias}, {spikes}, {height * width}, {channels});")

    def write(self) -> str:
        graph = self.graph
        graph.walk(self, "frame")
        kept, row = 4 * self.neurons + sum(self.sizes), 4 * self.largest_row + graph.T * sum(self.sizes)
        stream = ["#ifndef CLASSIFY_STREAM /* takes less memory here */", "#define CLASSIFY_STREAM", "#endif"]
        frame = math.prod(graph.input_shape) if graph.frames else 0
        return "\n".join(
            [
                '#include "classify.h"', "#include <string.h>", "",
                '#ifdef __GNUC__', '#pragma GCC diagnostic ignored "-Woverlength-strings"', "#endif",
                *(stream if kept < row else []), f"#define LAYERS {len(graph.nodes)}",
                f"#define NEURONS {self.neurons}", f"#define LARGEST_ROW {self.largest_row}",
                f"#define CLASSIFY_BITS {graph.bits}", "", BODY.read_text(encoding="utf-8"), *self.tables,
                *(f"static uint8_t slot{i}[AT_ONCE * {size}];" for i, size in enumerate(self.sizes)),
                ENTRY_POINTS.format(calls="\n".join(self.calls), frame=frame),
            ]
        )  # fmt: skip


def share_slots(graph: Graph) -> tuple[dict[str, str], list[int]]:
    """(where the spikes of each layer lie, bytes of each slot in a time step): it is free once all have read it."""
    last_use: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):  # a convolution runs with its neurons
        last_use |= dict.fromkeys(graph.node(node.inputs[0]).inputs if isinstance(node, Fire) else node.inputs, i)
    sizes: list[int] = []
    free: list[int] = []
    taken: dict[str, int] = {}
    for i, node in enumerate(graph.nodes[:-1]):
        if isinstance(node, Conv):
            continue
        done = [slot for name, slot in taken.items() if last_use[name] == i]
        if isinstance(node, Gate):  # which may write where it reads
            free, done = free + done, []
        if not free:
            free.append(len(sizes))
            sizes.append(0)
        size = bytes_in(node)
        slot = min(free, key=lambda s: (sizes[s] < size, abs(sizes[s] - size)))
        free.remove(slot)
        free += done
        sizes[slot] = max(sizes[slot], size)
        taken[node.name] = slot
    return {name: f"slot{slot}" for name, slot in taken.items()}, sizes


def _metadata(classes: Sequence[str] = (), inputs: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Lines of the header."""
    inputs = inputs or {}
    if "resize" in inputs:
        yield f"#define CLASSIFY_RESIZE {int(inputs['resize'])}\n"
    for name in {"mean", "std"} & inputs.keys():
        yield f"#define CLASSIFY_{name.upper()} {{{', '.join(repr(float(value)) for value in inputs[name])}}}\n"
    if classes:
        # three octal digits for whatever could end the text, or mean more than itself
        names = (re.sub(rb"[^\w .,-]", lambda byte: b"\\%03o" % byte[0][0], name.encode()).decode() for name in classes)
        yield "#define CLASSIFY_NAMES {{{}}}\n".format(", ".join(f'"{name}"' for name in names))


def write_c(graph: Graph, folder: Path, prefix: str = "classify") -> None:
    """Write classify.h and classify.c of an integer network.

    Args:
        prefix: in place of "classify" in the names of files and functions, and in capitals of macros.

    Raises:
        ValueError: a layer is of a kind that the C code does not have.
    """
    channels, height, width = graph.input_shape
    image = "[CLASSIFY_CHANNELS][CLASSIFY_HEIGHT][CLASSIFY_WIDTH]"
    header = HEADER.format(
        name=comment(graph.name), scale=graph.scale, logit_scale=graph.logit_scale, zero=graph.zero, T=graph.T,
        most=max_steps(graph), channels=channels, height=height, width=width, classes=graph.head.shape[0],
        metadata="".join(sorted(_metadata(**graph.metadata))),
        image=f"[CLASSIFY_STEPS]{image}, frame after frame" if graph.frames else f"{image}, shown CLASSIFY_STEPS times",
    )  # fmt: skip
    for suffix, text in (("h", header), ("c", _Layers(graph).write())):
        text = text.replace("classify", prefix).replace("CLASSIFY", prefix.upper())
        (folder / f"{prefix}.{suffix}").write_text(text, encoding="utf-8")


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
    FLAGS = ("-O2", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror")

    def __init__(self, folder: Path, graph: Graph, prefix: str = "classify") -> None:
        self.graph, self.prefix, self.source = graph, prefix, folder / f"{prefix}.c"
        self._temporary = tempfile.TemporaryDirectory()
        self.build = Path(self._temporary.name)
        self.plain = self.library("plain")
        self.watched = self.library("watched", "WATCH", "COUNT")

    def library(self, name: str, *defines: str) -> ctypes.CDLL:
        flags = [f"-D{self.prefix.upper()}_{name}" for name in defines]
        return ctypes.CDLL(str(self.compile(f"{name}.so", "-shared", "-fPIC", *flags)))

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
            library[self.prefix](item.ctypes.data_as(ctypes.c_void_p), row.ctypes.data_as(ctypes.c_void_p))
        return torch.from_numpy(logits)

    def logits(self, x: Tensor) -> Tensor:
        return self._classify(self.plain, x)

    @contextlib.contextmanager
    def watching(self, library: ctypes.CDLL, count: int) -> Iterator[dict[str, Tensor]]:
        """Layer -> its spikes [T, N, C, H, W] of what a library, compiled to be watched, runs within the block: `count`
        inputs, one after the other. They are there when it ends."""
        seen: dict[int, list[np.ndarray]] = {}
        found: dict[str, Tensor] = {}

        def watch(layer: int, spikes: Any, size: int) -> None:
            seen.setdefault(layer, []).append(np.ctypeslib.as_array(spikes, (size,)).copy())

        kind = ctypes.CFUNCTYPE(None, ctypes.c_int32, ctypes.POINTER(ctypes.c_uint8), ctypes.c_int32)
        callback = kind(watch)
        pointer = ctypes.c_void_p.in_dll(library, f"{self.prefix}_watch")
        pointer.value = ctypes.cast(callback, ctypes.c_void_p).value
        yield found
        pointer.value = None
        for layer, values in seen.items():
            node = self.graph.nodes[layer]
            channels, height, width = node.shape
            bits = np.stack(values).reshape(count, -1, height, width, bytes_of(channels))
            maps = np.unpackbits(bits, axis=-1, count=channels, bitorder="little")  # [N, T, H, W, C]
            found[node.name] = torch.from_numpy(maps).permute(1, 0, 4, 2, 3)

    def spikes(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        with self.watching(self.watched, x.shape[x.ndim - 4]) as seen:
            logits = self._classify(self.watched, x)
        return seen, logits

    def memory(self, *flags: str) -> tuple[int, int]:
        """(bytes of code and constants, bytes of buffers), as binutils' `size` has them; (0, 0) without it."""
        target = self.compile("classify.o", "-c", "-fno-pie", *flags)
        if shutil.which("size") is None:
            return 0, 0
        sizes = subprocess.run(["size", str(target)], capture_output=True, text=True, check=True).stdout.splitlines()[1]
        text, data, bss = (int(number) for number in sizes.split()[:3])
        return text + data, data + bss

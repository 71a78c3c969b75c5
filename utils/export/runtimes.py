"""What was exported, run where it is meant to run: the spikes of every layer, and the logits.

Every runtime has `spikes(x)`: (spikes [T, N, C, H, W] by layer, logits [N, classes]) of inputs [N, C, H, W] or frames
[T, N, C, H, W], float32, and `logits(x)`, which is as fast as it can be.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from full_spike.utils.errors import UserError
from full_spike.utils.export.nir_graph import import_nir
from full_spike.utils.export.nir_run import Interpreter
from full_spike.utils.export.onnx_graph import INPUT_BITS, import_onnx

Spikes = dict[str, Tensor]


def spiking_nodes(graph: Any) -> list[Any]:
    """The nodes whose output is compared."""
    return [node for node in graph.nodes if node.kind in ("fire", "gate", "pool")]


class OnnxRuntime:
    """onnxruntime on the CPU.

    Raises:
        UserError: the file is no ONNX model that it can run.
    """

    def __init__(self, path: Path, graph: Any, threads: int | None = None) -> None:
        self.graph, self.onnx = graph, import_onnx()
        import onnxruntime

        self._ort = onnxruntime
        self._options = onnxruntime.SessionOptions()
        self._options.log_severity_level = 3
        if threads:
            self._options.intra_op_num_threads = threads
        content = path.read_bytes()
        self._fast = self._session(path, content)
        self._watching: Any = None
        self._content = content
        self._path = path

    def _session(self, path: Path, content: bytes) -> Any:
        try:
            return self._ort.InferenceSession(content, self._options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes of errors are many, and differ between versions
            reason = str(error).splitlines()[0][:120]
            raise UserError(f"{path} is damaged or no ONNX model ({reason}): export it again") from None

    def _feed(self, x: Tensor) -> dict[str, Any]:
        return {self._fast.get_inputs()[0].name: x.numpy()}

    def logits(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self._fast.run(["logits"], self._feed(x))[0])

    def spikes(self, x: Tensor) -> tuple[Spikes, Tensor]:
        names = [node.name for node in spiking_nodes(self.graph)]
        if self._watching is None:
            model = self.onnx.load_model_from_string(self._content)
            make = self.onnx.helper
            kind = self.onnx.TensorProto.UINT8 if self.graph.integer else self.onnx.TensorProto.FLOAT
            model.graph.output.extend(make.make_tensor_value_info(name, kind, None) for name in names)
            self._watching = self._session(self._path, model.SerializeToString())
        *values, logits = self._watching.run([*names, "logits"], self._feed(x))
        steps = x.shape[0] if x.ndim == 5 else self.graph.T
        spikes = {
            name: torch.from_numpy(value).unflatten(0, (steps, -1)) for name, value in zip(names, values, strict=True)
        }
        return spikes, torch.from_numpy(logits)


class NirRuntime:
    """The interpreter of this project, over a file that nir's own reader has read."""

    def __init__(self, path: Path, graph: Any) -> None:
        self.graph = graph
        self.network = read_nir(path)

    def logits(self, x: Tensor) -> Tensor:
        return self.spikes(x)[1]

    def spikes(self, x: Tensor) -> tuple[Spikes, Tensor]:
        interpreter = Interpreter(self.network)
        rounded = np.round(x.numpy() * np.float32(2.0**INPUT_BITS)) * np.float32(2.0**-INPUT_BITS)
        frames = rounded if x.ndim == 5 else [rounded] * self.graph.T
        steps = []
        for frame in frames:
            values = interpreter.step(frame)
            steps.append({node.name: values[node.name.replace(".", "_")] for node in spiking_nodes(self.graph)})
            steps[-1]["logits"] = values["output"]
        logits = np.mean([step.pop("logits") for step in steps], axis=0, dtype=np.float32)
        spikes = {name: torch.from_numpy(np.stack([step[name] for step in steps])) for name in steps[0]}
        return spikes, torch.from_numpy(logits)


def read_nir(path: Path) -> Any:
    """A NIR graph by nir's own reader; UserError if the file is damaged or none."""
    nir = import_nir()
    try:
        return nir.read(path)
    except Exception as error:  # whatever h5py and nir make of a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} is damaged or no NIR file ({reason}): export it again") from None


def compiler() -> str:
    """A C compiler: $CC, cc or gcc. UserError if there is none."""
    for name in (os.environ.get("CC"), "cc", "gcc"):
        if name and shutil.which(name):
            return name
    raise UserError("there is no C compiler, with which what was written is checked: install gcc, or name one by CC")


class CRuntime:
    """The C code as a library, compiled beside its source, once to be watched and once as it stands.

    Raises:
        UserError: it does not compile.
    """

    FLAGS = ("-O2", "-Wall", "-Werror", "-std=c99")

    def __init__(self, folder: Path, graph: Any, build: Path) -> None:
        self.graph, self.folder, self.build = graph, folder, build
        self.plain = self._library("plain")
        self.watched = self._library("watched", "-DCLASSIFY_WATCH", "-DCLASSIFY_COUNT")

    def _library(self, name: str, *defines: str) -> Any:
        path = self.build / f"{name}.so"
        self.compile(path, "-shared", "-fPIC", *defines)
        return ctypes.CDLL(str(path))

    def compile(self, output: Path, *flags: str) -> None:
        command = [compiler(), *self.FLAGS, *flags, str(self.folder / "classify.c"), "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
            raise UserError(f"{command[0]} does not compile {self.folder / 'classify.c'}: {reason}")

    def _inputs(self, x: Tensor) -> np.ndarray:
        """Bytes [N, ...] in the order that `classify` reads."""
        graph = self.graph
        whole = (x.float() / graph.scale).round().add(graph.zero).clamp(0, 255).to(torch.uint8)
        if x.ndim == 5:
            whole = whole.transpose(0, 1)
        return np.ascontiguousarray(whole.numpy())

    def _classify(self, library: Any, item: np.ndarray) -> np.ndarray:
        logits = np.zeros(self.graph.head.shape[0], dtype=np.int32)
        library.classify(item.ctypes.data_as(ctypes.c_void_p), logits.ctypes.data_as(ctypes.c_void_p))
        return logits

    def logits(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([self._classify(self.plain, item) for item in self._inputs(x)]))

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

    def maps(self, seen: dict[int, list[np.ndarray]], count: int) -> Spikes:
        """What was seen of so many inputs, one after the other, as spikes [T, N, C, H, W] by layer."""
        spikes = {}
        for layer, values in seen.items():
            node = self.graph.nodes[layer]
            c, h, w = node.shape
            maps = torch.from_numpy(np.stack(values)).view(count, -1, h, w, c)  # [N, T, H, W, C]
            spikes[node.name] = maps.permute(1, 0, 4, 2, 3)
        return spikes

    def spikes(self, x: Tensor) -> tuple[Spikes, Tensor]:
        with self.watching() as seen:
            logits = torch.from_numpy(np.stack([self._classify(self.watched, item) for item in self._inputs(x)]))
        return self.maps(seen, len(logits)), logits

    def additions(self, x: Tensor) -> dict[str, int]:
        """Additions of weights by layer, summed over the inputs, as counted while they ran."""
        counters = (ctypes.c_uint64 * len(self.graph.nodes)).in_dll(self.watched, "classify_additions")
        before = list(counters)
        for item in self._inputs(x):
            self._classify(self.watched, item)
        return {
            node.name: counters[i] - before[i]
            for i, node in enumerate(self.graph.nodes)
            if node.kind in ("conv", "head")
        }

    def memory(self) -> tuple[int, int]:
        """(bytes of code and constants, bytes of buffers), as binutils' `size` has them; (0, 0) without it."""
        target = self.build / "classify.o"
        self.compile(target, "-c")
        if shutil.which("size") is None:
            return 0, 0
        numbers = subprocess.run(["size", str(target)], capture_output=True, text=True, check=True).stdout.splitlines()[
            1
        ]
        text, data, bss = (int(number) for number in numbers.split()[:3])
        return text + data, data + bss

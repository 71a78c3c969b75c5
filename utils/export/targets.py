"""What a network can be exported to: how each is written into a folder, and what runs it from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from full_spike.utils.export.c import write_c
from full_spike.utils.export.nir_graph import import_nir, write_nir
from full_spike.utils.export.onnx_graph import import_onnx
from full_spike.utils.export.onnx_integers import write_onnx
from full_spike.utils.export.runtimes import CRuntime, NirRuntime, OnnxRuntime, compiler


class Target(NamedTuple):
    """One format.

    integer: True: of integer networks alone; False: of floats alone; None: of both.
    runtime: what runs it, in words.
    files: what is written.
    require: raises UserError if what it takes is not installed.
    write: (runner, folder) writes the files.
    open: (folder, graph, folder for what is built) is the runtime.
    """

    integer: bool | None
    runtime: str
    files: tuple[str, ...]
    require: Callable[[], Any]
    write: Callable[[Any, Path], None]
    open: Callable[[Path, Any, Path], Any]


def _c(runner: Any, folder: Path) -> None:
    header, code = write_c(runner.graph, runner.most_steps)
    (folder / "classify.h").write_text(header, encoding="utf-8")
    (folder / "classify.c").write_text(code, encoding="utf-8")


def _onnx(runner: Any, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(write_onnx(runner.graph).SerializeToString())


def _nir(runner: Any, folder: Path) -> None:
    import_nir().write(folder / "model.nir", write_nir(runner.graph))


TARGETS = {
    "onnx": Target(
        None, "onnxruntime", ("model.onnx",), import_onnx, _onnx,
        lambda folder, graph, _build: OnnxRuntime(folder / "model.onnx", graph),
    ),
    "nir": Target(
        False, "the interpreter of NIR", ("model.nir",), import_nir, _nir,
        lambda folder, graph, _build: NirRuntime(folder / "model.nir", graph),
    ),
    "c": Target(
        True, "the C code", ("classify.c", "classify.h"), compiler, _c,
        lambda folder, graph, build: CRuntime(folder, graph, build),
    ),
}  # fmt: skip

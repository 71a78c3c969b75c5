"""Trained networks for other runtimes: exact floats, integers, ONNX, NIR and C.

whole = quantize(detach_aap(model), [images])  # an integer network; whole(images) are its logits
write_c(whole.graph, Path("in_c"))             # classify.c and classify.h
"""

from importlib import import_module
from typing import Any

# imported when asked for: the command reads its options without waiting for torch
_HOMES = {
    "describe": "graph", "Graph": "graph", "Runner": "run", "Stream": "run", "exact": "floats",
    "quantize": "integers", "FastRunner": "fast", "read_integer": "saved", "write_integer": "saved",
    "write_onnx": "onnx", "write_nir": "nir", "write_c": "c",
    "main": "__main__",
}  # fmt: skip
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

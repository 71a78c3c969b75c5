"""Weights as `.safetensors`: a length, a JSON header, and the tensors' bytes (huggingface.co/docs/safetensors).

Read and written here so that models need nothing beyond torch. Nothing in such a file can run.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # bytes, as the format has it


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name; the file appears whole or not at all.

    Raises:
        ValueError: a tensor's type is none of the format's.
        OSError: the disk is full, or the folder not writable.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position, contents = 0, []
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise ValueError(f"{name} is of {tensor.dtype}, which .safetensors has not: convert it")
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        end = position + len(content)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        contents.append(content)
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.writelines(contents)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _problem(name: str, about: object, size: int) -> str | None:
    """What is wrong with a tensor's entry in the header; None if nothing is."""
    if not isinstance(about, Mapping) or about.keys() != {"dtype", "shape", "data_offsets"}:
        return f"{name} has no type, shape and place"
    shape, place = about["shape"], about["data_offsets"]
    for numbers in (shape, place):
        if not isinstance(numbers, list) or any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers):
            return f"{name} has a shape or place out of range"
    if about["dtype"] not in _DTYPES:
        return f"{name} is of type {about['dtype']!r}"
    if len(place) != 2 or not place[0] <= place[1] <= size:
        return f"{name} ends after the file"
    if math.prod(shape) * _DTYPES[about["dtype"]].itemsize != place[1] - place[0]:
        return f"{name} has another size than its shape"
    return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        ValueError: it is damaged, or no such file.
        OSError: it is missing, or may not be read.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file: name a .safetensors file")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    damaged = f"{path} is damaged or no .safetensors file"
    if len(content) < 8 or length > min(_LONGEST_HEADER, len(content) - 8):
        raise ValueError(f"{damaged} (its header is cut off): fetch it again")
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError):
        raise ValueError(f"{damaged} (its header is no JSON): fetch it again") from None
    if not isinstance(header, dict):
        raise ValueError(f"{damaged} (its header lists no tensors): fetch it again")
    header.pop("__metadata__", None)
    data = bytearray(content[8 + length :])
    places = []
    tensors = {}
    for name, about in header.items():
        wrong = _problem(name, about, len(data))
        if wrong:
            raise ValueError(f"{damaged} ({wrong}): fetch it again")
        begin, end = about["data_offsets"]
        places.append((begin, end))
        dtype = _DTYPES[about["dtype"]]
        flat = (
            torch.frombuffer(data, dtype=torch.uint8, offset=begin, count=end - begin)
            if end > begin
            else torch.empty(0)
        )
        tensors[name] = (flat.clone().view(dtype) if end > begin else torch.empty(0, dtype=dtype)).reshape(
            about["shape"]
        )
    places.sort()
    if places and ([0, *(end for _, end in places)] != [*(begin for begin, _ in places), len(data)]):
        raise ValueError(f"{damaged} (its tensors overlap or leave gaps): fetch it again")
    if sys.byteorder != "little":
        raise ValueError("this machine is big-endian, and .safetensors little-endian: convert it elsewhere")
    return tensors

"""Arrays in .npz files, which may come from anyone: what a file declares is checked before room is made for it.

An .npz file is a .zip archive of .npy files. A few hundred bytes of it can declare an array of any size, and a
megabyte that is compressed can hold a gigabyte of zeros; numpy's own reader allocates both.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from pathlib import Path
from typing import IO, Literal

import numpy as np
from full_spike.utils.data.zips import check_members, open_zip
from full_spike.utils.errors import UserError
from full_spike.utils.files import open_regular

ROOM = 128 << 20  # bytes that the arrays of any file may take, besides twice the file's own size
_CHUNK = 1 << 20  # bytes that are read at a time
_LENGTHS = {(1, 0): 2, (2, 0): 4}  # bytes of the number that says how long the header is, by version of the format
_LONGEST = 10_000  # bytes of a header, as in numpy's own reader
_ENTRY = re.compile(r"\s*'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|\([\d\s,]*\))\s*,?\s*")


def write_npz(target: Path | IO[bytes], *, compress: bool = True, **arrays: np.ndarray) -> None:
    """np.savez_compressed or np.savez, but the same arrays give the same bytes, whenever they are written."""
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", method, compresslevel=1) as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = method
            archive.writestr(entry, stream.getvalue())


def read_arrays(source: Path | IO[bytes], *names: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name, their checksums verified; all of them if no name is given.

    Args:
        source: a path, or an open file that can seek.

    Raises:
        ValueError: the file is missing or damaged, lacks an array, or holds more than `ROOM` and twice its own size, or
            something else than numbers and text. The message says what, in one line, without the file's name.
    """
    try:
        if isinstance(source, Path):
            with open_regular(source) as file:
                return _read(file, names)
        return _read(source, names)
    except (UserError, ValueError) as error:
        raise ValueError(_first_line(error)) from None
    except Exception as error:  # whatever a damaged file makes numpy's, zipfile's and zlib's readers raise
        raise ValueError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read(file: IO[bytes], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    size = file.seek(0, io.SEEK_END)
    with open_zip(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        missing = [name for name in names if name not in members]
        if missing:
            raise ValueError(f"it holds no {missing[0]}")
        chosen = {name: members[name] for name in names or members}
        check_members(chosen.values(), size, room=ROOM, times=2)
        return {name: _array(archive, member, name) for name, member in chosen.items()}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> np.ndarray:
    """One array. Its member is known not to be too large; the array is as large as the member."""
    with archive.open(member) as stream:
        shape, dtype, order = _header(stream, name)
        declared, content = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if declared != content:
            raise ValueError(f"{name} declares {declared} bytes, and has {content}")
        buffer = bytearray(content)
        at = 0
        while chunk := stream.read(_CHUNK):
            buffer[at : at + len(chunk)] = chunk
            at += len(chunk)
    if at < content:
        raise ValueError(f"{name} ends {content - at} bytes early")
    return np.ndarray(shape, dtype, buffer, order=order)


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype, Literal["C", "F"]]:
    """Shape, type and order that the header of a .npy file declares.

    numpy reads the header, a dict as Python writes it, with the parser of Python's own source. In Python 3.11 that
    parser fails now and then when several threads use it ("AST constructor recursion depth mismatch"), and samples are
    read by several threads.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _LENGTHS:
        raise ValueError(f"{name} is of version {version[0]}.{version[1]} of the .npy format: 1.0 and 2.0 are read")
    length = _LENGTHS[version]
    size = int.from_bytes(stream.read(length), "little")
    if size > _LONGEST:
        raise ValueError(f"{name} has a header of {size} bytes: {_LONGEST} at most are read")
    text = stream.read(size).decode("latin1").strip()
    entries = dict(_ENTRY.findall(text))
    if _ENTRY.sub("", text) != "{}" or set(entries) != {"descr", "fortran_order", "shape"}:
        raise ValueError(f"{name} declares no plain array: numbers or text are needed")
    descr, fortran, shape = (entries[key] for key in ("descr", "fortran_order", "shape"))
    if descr[0] != "'" or fortran not in ("True", "False") or shape[0] != "(":
        raise ValueError(f"{name} declares no plain array: numbers or text are needed")
    dtype = np.dtype(descr.strip("'"))
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects: Object arrays cannot be loaded, save numbers alone")
    if dtype.kind not in "biufU" or not dtype.itemsize:
        raise ValueError(f"{name} is of type {dtype}: numbers or text are needed")
    sizes = tuple(int(number) for number in re.findall(r"\d+", shape))
    return sizes, dtype, "F" if fortran == "True" else "C"

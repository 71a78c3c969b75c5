"""Arrays in .npz files, which may come from anyone: what a file declares is checked before room is made for it.

An .npz file is a .zip archive of .npy files. A few hundred bytes of it can declare an array of any size, and a
megabyte that is compressed can hold a gigabyte of zeros; numpy's own reader allocates both.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from utils.data.zips import check_members, open_zip
from utils.runtime.errors import UserError
from utils.runtime.files import open_regular

ROOM = 128 << 20  # bytes that the arrays of any file may take, besides twice the file's own size
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


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
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{name} is of version {version[0]}.{version[1]} of the .npy format: 1.0 and 2.0 are read")
        shape, _, dtype = _HEADERS[version](stream)
        content = member.file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects: Object arrays cannot be loaded, save numbers alone")
    if dtype.kind not in "biufU" or not dtype.itemsize:
        raise ValueError(f"{name} is of type {dtype}: numbers or text are needed")
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or declared != content:
        raise ValueError(f"{name} declares {declared} bytes, and has {content}")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)

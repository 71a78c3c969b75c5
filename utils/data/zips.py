"""The .zip format's own declarations, checked before anything is unpacked or allocated."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from typing import IO

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others may take gigabytes to decompress anything at all
_EXPANSION = 1032  # bytes at most that deflate makes of one

# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.14 to 4.3.16
_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_SIZE, _END64_SIZE, _LOCATOR_SIZE = 22, 56, 20
_LONGEST_COMMENT = (1 << 16) - 1
_LARGEST_DIRECTORY = 8 << 20  # bytes: a hundred thousand members. In memory they take fifteen times as much.


def _directory_size(file: IO[bytes]) -> int:
    """Bytes that the archive's list of members takes, as its end declares; 0 if it has no end.

    The end is looked for where zipfile looks for it.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_SIZE - _LONGEST_COMMENT - _LOCATOR_SIZE - _END64_SIZE))
    tail = file.read()
    end = len(tail) - _END_SIZE
    if end < 0 or not (tail.startswith(_END, end) and tail.endswith(b"\0\0")):  # there is a comment after it
        end = tail.rfind(_END)
        if end < 0 or len(tail) - end < _END_SIZE:
            return 0
    end64 = end - _LOCATOR_SIZE - _END64_SIZE
    if end64 >= 0 and tail.startswith(_LOCATOR, end - _LOCATOR_SIZE) and tail.startswith(_END64, end64):
        return struct.unpack_from("<Q", tail, end64 + 40)[0]
    return struct.unpack_from("<L", tail, end + 12)[0]


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """Open an archive whose list of members is not too long to be read.

    Raises:
        ValueError: it is.
        zipfile.BadZipFile: it is no such archive, or damaged.
    """
    declared = _directory_size(file)
    if declared > _LARGEST_DIRECTORY:
        raise ValueError(f"its list of members takes {declared} bytes, more than {_LARGEST_DIRECTORY}")
    return zipfile.ZipFile(file)


def check_members(members: Iterable[zipfile.ZipInfo], size: int, *, room: int, times: int) -> None:
    """Check that members of an archive of `size` bytes declare at most `room` bytes and `times` its size, unpacked.

    zipfile itself unpacks no more of a member than is declared, and compares the checksum at its end.

    Raises:
        ValueError: they declare more, more than their compressed data can hold, or another compression than deflate.
    """
    total = 0
    for member in members:
        if member.compress_type not in _METHODS:
            raise ValueError(f"{member.filename!r} is compressed by method {member.compress_type}, not by deflate")
        compressed = min(member.compress_size, size)
        if member.file_size > (compressed + 1) * _EXPANSION:
            raise ValueError(
                f"{member.filename!r} declares {member.file_size} bytes, more than {compressed} compressed can hold"
            )
        total += member.file_size
    if total > room + times * size:
        raise ValueError(
            f"it declares {total} bytes, more than the {room + times * size} that a file of {size} bytes may hold"
        )

"""What a checkpoint may hold: plain data, and no more of it than its file.

torch's reader with weights_only=True runs no code. It does call what makes gigabytes of a number, such as
bytearray(10**10); it gives tensors room that the file never fills; and a list of ten times a list of ten times a list
... is small until somebody prints it.
"""

from __future__ import annotations

import argparse
import io
import mmap
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOM = 16 << 20  # bytes that a file's content may take besides its size: texts that it repeats are stored once
_MOST_ITEMS = 1 << 22  # of dicts and lists: more are not counted, which would take seconds
_ARCHIVE = b"PK\x03\x04"  # by which torch tells its format
_PICKLES = 5  # of the format before zip archives: a number, a version, the system, the content, names of storages

# Types and rebuilding functions of numbers, texts, tensors and their containers. None makes much of little.
_PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter)|argparse\.Namespace|torch\.(Size|\w+Storage|[a-z]\w*)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state|sparse_tensor)"
    r"|torch\.serialization\._get_layout"
)


def stranger(path: Path) -> str | None:
    """The first thing that a file of torch.save names and that is no plain data, as module.name; None without any.

    Nothing is loaded: of its pickles the instructions are read, one by one.

    Raises:
        ValueError: it holds no pickles, or damaged ones.
    """
    with path.open("rb") as file:
        archive_to_torch = file.read(len(_ARCHIVE)) == _ARCHIVE
    if archive_to_torch != zipfile.is_zipfile(path):  # torch would load something else than what is looked at here
        raise ValueError("an archive within another file")
    if not archive_to_torch:
        # mapped: reading a file gives a text the room that its length says, 4 GiB in a damaged one, before it is read
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return next((name for _ in range(_PICKLES) if (name := _stranger(mapped))), None)
    with zipfile.ZipFile(path) as archive:
        pickles = [
            archive.read(member) for member in archive.infolist() if member.filename.lower().endswith("data.pkl")
        ]
    return next((name for content in pickles if (name := _stranger(io.BytesIO(content)))), None)


def _stranger(file: Any) -> str | None:
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            name = str(argument).replace(" ", ".")
            if not _PLAIN.fullmatch(name):
                return name
    return None


def fits(content: Any, size: int) -> bool:
    """Whether content, written out, takes no more than its file's size in bytes and `ROOM`.

    Each storage of tensors counts once; all else counts as often as it would be printed, and every item of a dict or
    list takes a byte of the file at least.
    """
    space, items = size + ROOM, min(size, _MOST_ITEMS) + (ROOM >> 8)
    storages = set()
    waiting = [content]
    while waiting and space >= 0:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if value.layout is torch.strided and value.device.type == "cpu":
                storage = value.untyped_storage()
                if storage.data_ptr() not in storages:
                    storages.add(storage.data_ptr())
                    space -= storage.nbytes()
            continue
        if isinstance(value, str | bytes):
            space -= len(value)
            continue
        parts: list[Any] = []
        if isinstance(value, argparse.Namespace):
            parts = [vars(value)]
        elif isinstance(value, Mapping):
            parts = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            parts = [*value]
        items -= len(parts)
        if items < 0:
            return False
        waiting += parts
    return space >= 0

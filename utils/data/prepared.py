"""Folders of files that are made once from others, and checked before they are used again.

A folder's record.json says what it was made of and lists its files. The folder itself is written by
`runtime.files.replacing`, so that one which is there is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from full_spike.utils.data.npz import read_arrays
from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError
from full_spike.utils.files import read_text, write_file

RECORD = "record.json"
VERSION = 1
THREADS = 32  # that ask for the sizes of files
PATIENCE = 5.0  # seconds after which processes that wait are told again that the main one is working


class KeepAlive:
    """Tells the processes that wait in `World.main_only` that the main one is working, no oftener than they need."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._told = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._told > PATIENCE:
            self.world.keep_alive()
            self._told = time.monotonic()


@contextlib.contextmanager
def locked(
    folder: Path, say: Callable[[str], None] = lambda _: None, keep_alive: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Let one process at a time make things in a folder; the system ends the lock with the process, however it ends.

    Args:
        say: is told when another process has the lock.
        keep_alive: called again and again while this one waits for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            # not blocking, or what is no file would have us wait for a reader
            flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
            file = stack.enter_context(open(folder / ".lock", "w", opener=lambda path, _: os.open(path, flags, 0o666)))
            if not _lock(file):
                say(f"waiting for another process that prepares {folder}")
                while not _lock(file):
                    time.sleep(0.1)
                    keep_alive()
        except PermissionError:
            pass  # a folder that is only read: what is complete can be used
        except OSError as error:  # some network file systems have no locks
            say(f"warning: {folder} cannot be locked ({error.strerror}): do not start two runs that prepare it at once")
        yield


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_npz(folder: Path, name: str, *arrays: str) -> list[np.ndarray]:
    """Arrays of an .npz file in a folder that was made, checksums verified.

    Raises:
        UserError: it is missing, damaged or lacks an array.
    """
    try:
        found = read_arrays(folder / name, *arrays)
    except ValueError as error:
        raise UserError(f"{folder / name} is damaged ({error}): delete {folder}; it is made again") from None
    return [found[array] for array in arrays]


def digest(content: Any) -> str:
    """A word for plain content: the same for the same content alone."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write content with its checksum, whole or not at all; the same content gives the same bytes."""
    whole = {**content, "checksum": digest(content)}
    write_file(path, (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path, made: Path | None = None) -> dict[str, Any]:
    """What `write_json` wrote; `made` is what to delete if it is damaged, by default the file itself.

    Raises:
        UserError: it is missing, or its checksum is wrong.
    """
    try:
        content = json.loads(read_text(path))
        checksum = content.pop("checksum")
    except (OSError, UserError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise UserError(f"{path} is missing or damaged: delete {made or path}; it is made again") from None
    if checksum != digest(content):
        raise UserError(f"{path} was changed (its checksum is wrong): delete {made or path}; it is made again")
    return content


def _sizes(paths: Iterable[Path]) -> list[int | None]:
    """The size of each file in bytes, None of one that is not there.

    Many at a time: a network file system takes a while for each answer, and answers many at the same time.
    """

    def size(path: Path) -> int | None:
        try:
            return path.stat().st_size
        except OSError:
            return None

    paths = list(paths)
    shares = [paths[i::THREADS] for i in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda share: [size(path) for path in share], shares))
    return [found[i % THREADS][i // THREADS] for i in range(len(paths))]


def listing_digest(folder: Path, files: Iterable[Path]) -> str:
    """One word for the names and sizes of some files below a folder."""
    files = list(files)
    names = [path.relative_to(folder).as_posix() for path in files]
    return digest(sorted([name, size] for name, size in zip(names, _sizes(files), strict=True)))


def write_record(folder: Path, made_of: dict[str, Any]) -> None:
    """Say what a folder was made of, and which files it holds, with their sizes."""
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    write_json(folder / RECORD, {"version": VERSION, "made_of": made_of, "files": files})


def read_record(folder: Path, made_of: dict[str, Any] | None = None) -> dict[str, Any]:
    """The record of a folder.

    Args:
        made_of: what it must have been made of; then the files are checked, too: each is there and of its size.

    Raises:
        UserError: something is wrong; the line says what.
    """
    record = read_json(folder / RECORD, folder)
    if record.get("version") != VERSION:
        raise UserError(
            f"{folder} has format version {record.get('version')}, this program uses {VERSION}: delete it; it is made "
            "again"
        )
    if not _is_record(record):
        raise UserError(f"{folder / RECORD} is damaged: delete {folder}; it is made again")
    if made_of is None:
        return record
    then = record["made_of"]
    different = [name for name in {**then, **made_of} if then.get(name) != made_of.get(name)]
    if different:
        words = "; ".join(
            "from other recordings"
            if name == "source"
            else f"with {name} {then.get(name)} instead of {made_of.get(name)}"
            for name in different
        )
        raise UserError(f"{folder} was made {words}: delete it; it is made again")
    files = record["files"]
    for (name, size), found in zip(files.items(), _sizes(folder / name for name in files), strict=True):
        if found is None:
            raise UserError(f"{folder / name} is missing: delete {folder}; it is made again")
        if found != size:
            raise UserError(f"{folder / name} has {found} bytes instead of {size}: delete {folder}; it is made again")
    return record


def _is_record(content: dict[str, Any]) -> bool:
    """Whether it has what `write_record` writes: what it was made of, and files below its folder with their sizes."""
    files = content.get("files")
    return (
        isinstance(content.get("made_of"), dict)
        and isinstance(files, dict)
        and all(type(size) is int for size in files.values())
        and not any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in files)
    )

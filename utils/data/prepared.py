"""Folders of files that are made once from others, and checked before they are used again.

A folder's record.json says what it was made of and lists its files. The folder itself is written by
`runtime.files.replacing`, so that one which is there is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from utils.runtime.errors import UserError
from utils.runtime.files import write_file

RECORD = "record.json"
VERSION = 1


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
            file = stack.enter_context(open(folder / ".lock", "w"))
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


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """np.savez_compressed, but the same arrays give the same bytes, whenever they are written."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, stream.getvalue())


def read_npz(folder: Path, name: str, *arrays: str) -> list[np.ndarray]:
    """Arrays of an .npz file in a folder that was made, checksums verified.

    Raises:
        UserError: it is missing, damaged or lacks an array.
    """
    try:
        with np.load(folder / name, allow_pickle=False) as stored:
            return [stored[array] for array in arrays]
    except Exception as error:  # whatever a damaged file makes numpy's, zipfile's and zlib's readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder / name} is damaged ({reason}): delete {folder}; it is made again") from None


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write content with its checksum, whole or not at all; the same content gives the same bytes."""
    whole = {**content, "checksum": _digest(content)}
    write_file(path, (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path, made: Path | None = None) -> dict[str, Any]:
    """What `write_json` wrote; `made` is what to delete if it is damaged, by default the file itself.

    Raises:
        UserError: it is missing, or its checksum is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise UserError(f"{path} is missing or damaged: delete {made or path}; it is made again") from None
    if checksum != _digest(content):
        raise UserError(f"{path} was changed (its checksum is wrong): delete {made or path}; it is made again")
    return content


def listing_digest(folder: Path, files: Iterable[Path]) -> str:
    """One word for the names and sizes of some files below a folder."""
    return _digest(sorted([path.relative_to(folder).as_posix(), path.stat().st_size] for path in files))


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
    if record["version"] != VERSION:
        raise UserError(
            f"{folder} has format version {record['version']}, this program uses {VERSION}: delete it; it is made again"
        )
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
    for name, size in record["files"].items():
        try:
            found = (folder / name).stat().st_size
        except OSError:
            raise UserError(f"{folder / name} is missing: delete {folder}; it is made again") from None
        if found != size:
            raise UserError(f"{folder / name} has {found} bytes instead of {size}: delete {folder}; it is made again")
    return record

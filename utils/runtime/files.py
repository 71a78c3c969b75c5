"""Files and folders that are whole or not there, whatever moment a process is killed at."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path


def cache_home() -> Path:
    """Where files go that can be made again: ~/.cache/full-spike, or below $XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "full-spike"


@contextlib.contextmanager
def replacing(target: Path, *, durable: bool = False, contended: bool = False) -> Iterator[Path]:
    """Write a file or a folder beside its place, and give it its name when the block ends.

    Until then whatever had the name stays as it was, and so it does if the block raises. What a killed process left is
    removed by the next one that writes the same target.

    Args:
        target: the file; or a folder, which must not exist yet.
        durable: wait until content and name are on the disk, so that they survive a power cut. For files.
        contended: other processes may write the same target at the same time. Each then has a partial file of its own,
            and the last one to finish counts.

    Yields:
        The path to write to: `target` with `.partial` added to its name. Nothing is there yet.

    Raises:
        OSError: the disk is full, the folder is not writable, or whatever the block raises.
    """
    own = f".{socket.gethostname()}.{os.getpid()}" if contended else ""
    partial = target.with_name(f"{target.name}{own}.partial")
    _remove(partial)
    try:
        yield partial
        if durable:
            _sync(partial)
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(partial)
        raise
    if durable:
        with contextlib.suppress(OSError):  # some network file systems cannot do it for a folder
            _sync(target.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

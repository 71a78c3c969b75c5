"""Files: written whole or not at all; which of them are images."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from full_spike.utils.errors import UsageError, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# folders that systems make beside people's files, but for those whose names begin with a dot
OF_SYSTEMS = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is hidden, or was made by a system: nobody's image, sample or class."""
    return name.startswith(".") or name in OF_SYSTEMS


def is_image(name: str) -> bool:
    """Whether a file of this name is an image."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)


def passed_over(folder: Path, names: Sequence[str]) -> str:
    """A line on what a folder holds besides images."""
    shown = ", ".join([*names[:3], *(["…"] if len(names) > 3 else [])])
    return f"passed over in {folder}, since no image: {len(names)} ({shown})"


def cache_home() -> Path:
    """Where files go that can be made again: ~/.cache/full-spike, or below $XDG_CACHE_HOME.

    Raises:
        UserError: it cannot be made, or not be written to.
    """
    try:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "full-spike"
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
        reason = f"{path} is read-only"
    except (OSError, RuntimeError) as error:  # the latter: nobody knows of a home directory
        reason = str(error).rstrip(".")
    raise UserError(f"there is no place to keep files in ({reason}): set XDG_CACHE_HOME to a folder for them")


@contextlib.contextmanager
def replacing(
    target: Path, *, durable: bool = False, contended: bool = False, keep: Path | None = None
) -> Iterator[Path]:
    """Write a file or a folder beside its place, and give it its name when the block ends.

    Until then whatever had the name stays as it was, and so it does if the block raises. What a killed process left is
    removed by the next one that writes the same target.

    Args:
        target: the file; or a folder, which must not exist yet.
        durable: wait until content and name are on the disk, so that they survive a power cut. For files.
        contended: other processes may write the same target at the same time. Each then has a partial file of its own,
            and the last one to finish counts.
        keep: the name that the file which is replaced gets, if there is one.

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
        if keep is not None and target.exists():
            with replacing(keep) as other:
                try:
                    os.link(target, other)  # costs nothing
                except OSError:
                    shutil.copyfile(target, other)
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


def write_picture(path: Path, figure: Figure) -> None:
    """Write a figure whole or not at all, as the kind of picture that the name says; a link is replaced."""
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=120)


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


def read_text(path: Path) -> str:
    """A text in UTF-8, without its byte order mark.

    Raises:
        UserError: it is in another encoding.
        OSError: it is missing, or may not be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 (byte {error.start}): save it as UTF-8") from None


def check_output_folder(folder: Path, option: str) -> None:
    """Make sure that a folder is there or can be made, before time is spent on what goes into it.

    Raises:
        UsageError: something else has its name or that of a folder above it, or it may not be written to.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise UsageError(f"{option} {folder}: {there} is no folder: name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {folder}: {there} may not be written to: name another folder")

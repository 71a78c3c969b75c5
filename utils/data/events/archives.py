"""Downloaded archives: unpacked whole or not at all, and nowhere but into their folder."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from utils.runtime.errors import UserError
from utils.runtime.files import replacing

CHUNK = 1 << 24  # bytes


def unpack(
    archives: Iterable[Path], target: Path, keep_alive: Callable[[], None], md5: Mapping[str, str] | None = None
) -> None:
    """Unpack .zip and .tar.gz files into a new folder.

    Args:
        archives: the files.
        target: the folder; until all of them are unpacked it is not there.
        keep_alive: called again and again while it works.
        md5: what a file's content must add up to, by its name.

    Raises:
        UserError: an archive is damaged or would write outside the folder.
    """
    archives = list(archives)
    for path in archives:
        if md5 is not None:
            _check_sum(path, md5[path.name], keep_alive)

    with replacing(target) as folder:
        folder.mkdir(parents=True)
        for path in archives:
            try:
                (_unzip if path.suffix == ".zip" else _untar)(path, folder, keep_alive)
            except tarfile.FilterError as error:
                raise UserError(f"{path} is not unpacked: {error}; fetch it from its official page") from None
            except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
                raise UserError(f"{path} is damaged or incomplete ({error}): fetch it again") from None


def _check_sum(path: Path, expected: str, keep_alive: Callable[[], None]) -> None:
    found = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
            keep_alive()
    if found.hexdigest() != expected:
        raise UserError(f"{path} has MD5 {found.hexdigest()} instead of {expected}: it is incomplete; fetch it again")


def _untar(path: Path, folder: Path, keep_alive: Callable[[], None]) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            archive.extract(member, folder, filter="data")
            keep_alive()


def _unzip(path: Path, folder: Path, keep_alive: Callable[[], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            inside = (folder / member.filename).resolve()
            if not inside.is_relative_to(folder.resolve()):
                raise UserError(f"{path} is not unpacked: {member.filename!r} would be outside {folder.name}")
            archive.extract(member, folder)
            keep_alive()

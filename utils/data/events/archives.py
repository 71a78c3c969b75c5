"""Downloaded archives: unpacked whole or not at all, and nowhere but into their folder."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from utils.data.prepared import make_folder
from utils.runtime.errors import UserError

CHUNK = 1 << 24  # bytes


def unpack(
    archives: Iterable[Path], target: Path, beat: Callable[[], None], md5: Mapping[str, str] | None = None
) -> None:
    """Unpack .zip and .tar.gz files into a new folder.

    Args:
        archives: the files.
        target: the folder; until all of them are unpacked it is not there.
        beat: called now and then.
        md5: what a file's content must add up to, by its name.

    Raises:
        UserError: an archive is damaged or would write outside the folder.
    """
    archives = list(archives)
    for path in archives:
        if md5 is not None:
            _check_sum(path, md5[path.name], beat)

    def fill(folder: Path) -> None:
        for path in archives:
            try:
                (_unzip if path.suffix == ".zip" else _untar)(path, folder, beat)
            except tarfile.FilterError as error:
                raise UserError(f"{path} is not unpacked: {error}; fetch it from its official page") from None
            except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
                raise UserError(f"{path} is damaged or incomplete ({error}): fetch it again") from None

    make_folder(target, fill)


def _check_sum(path: Path, expected: str, beat: Callable[[], None]) -> None:
    found = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
            beat()
    if found.hexdigest() != expected:
        raise UserError(f"{path} has MD5 {found.hexdigest()} instead of {expected}: it is incomplete; fetch it again")


def _untar(path: Path, folder: Path, beat: Callable[[], None]) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            archive.extract(member, folder, filter="data")
            beat()


def _unzip(path: Path, folder: Path, beat: Callable[[], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            inside = (folder / member.filename).resolve()
            if not inside.is_relative_to(folder.resolve()):
                raise UserError(f"{path} is not unpacked: {member.filename!r} would be outside {folder.name}")
            archive.extract(member, folder)
            beat()

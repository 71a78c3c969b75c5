"""Downloaded archives: unpacked whole or not at all, nowhere but into their folder, and no further than they may go."""

from __future__ import annotations

import errno
import gzip
import hashlib
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, cast

from full_spike.utils.data.zips import check_members, open_zip
from full_spike.utils.errors import UserError
from full_spike.utils.files import open_regular, replacing

CHUNK = 1 << 24  # bytes
# what an archive may hold unpacked: recordings compress by two to five
ROOM, TIMES = 64 << 20, 50  # bytes, and times its own size
LONGEST_READ = 1 << 20  # bytes at once: tarfile copies less, and reads a header of any declared length into memory

# errors of the system that say nothing against the archive
_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENOENT}


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
        UserError: an archive is damaged, would write outside the folder, or holds more than an archive of its size may.
        OSError: the disk is full, or the folder may not be written to.
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
            except UserError:
                raise
            except tarfile.FilterError as error:
                raise UserError(f"{path} is not unpacked: {error}; fetch it from its official page") from None
            except Exception as error:  # whatever damaged files make the readers of zipfile, tarfile and zlib raise
                if isinstance(error, OSError) and error.errno in _OURS:
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(f"{path} is damaged or incomplete ({reason}): fetch it again") from None


def _check_sum(path: Path, expected: str, keep_alive: Callable[[], None]) -> None:
    found = hashlib.md5(usedforsecurity=False)
    with open_regular(path) as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
            keep_alive()
    if found.hexdigest() != expected:
        raise UserError(f"{path} has MD5 {found.hexdigest()} instead of {expected}: it is incomplete; fetch it again")


def _check_disk(path: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{path} takes {needed / 1e9:.2f} GB unpacked, and {folder.parent} has {free / 1e9:.2f} GB free: make room"
        )


class _Limited:
    """What tarfile reads from a stream, none of it further than `end` bytes into it."""

    def __init__(self, stream: IO[bytes], end: int) -> None:
        self.stream = stream
        self.end = end
        self.last = b""  # that was read

    def check(self, size: int) -> None:
        """Raise ValueError if the next `size` bytes go too far."""
        if self.stream.tell() + size > self.end:
            raise ValueError(f"it holds more than the {self.end} bytes that an archive of its size may hold")

    def read(self, size: int) -> bytes:
        if size > LONGEST_READ:
            raise ValueError(f"it has a header of {size} bytes")
        self.check(size)
        self.last = self.stream.read(size)
        return self.last

    def tell(self) -> int:
        return self.stream.tell()

    def seek(self, position: int) -> int:
        self.check(position - self.stream.tell())
        return self.stream.seek(position)


def _untar(path: Path, folder: Path, keep_alive: Callable[[], None]) -> None:
    with open_regular(path) as file:
        packed = path.suffix in (".gz", ".tgz")
        stream = _Limited(
            cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file, ROOM + TIMES * path.stat().st_size
        )
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as archive:
            for member in archive:
                stream.check(member.size)
                archive.extract(member, folder, filter="data")
                archive.members = []  # type: ignore[attr-defined]  # or it would keep them all
                keep_alive()
        if not stream.last or stream.last.strip(b"\0"):  # tarfile takes a damaged header for the end, which is zeros
            raise ValueError("it ends before its end")
        while stream.read(LONGEST_READ):  # gzip compares its checksum at the end
            keep_alive()


def _unzip(path: Path, folder: Path, keep_alive: Callable[[], None]) -> None:
    with open_regular(path) as file, open_zip(file) as archive:
        members = archive.infolist()
        check_members(members, path.stat().st_size, room=ROOM, times=TIMES)
        _check_disk(path, folder, sum(member.file_size for member in members))
        for member in members:
            inside = (folder / member.filename).resolve()
            if not inside.is_relative_to(folder.resolve()):
                raise UserError(f"{path} is not unpacked: {member.filename!r} would be outside {folder.name}")
            archive.extract(member, folder)
            keep_alive()

"""Checkpoint files: written whole or not at all, read without running anything that they hold."""

from __future__ import annotations

import argparse
import io
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from full_spike.utils.checkpoints import plain, schema
from full_spike.utils.errors import UserError
from full_spike.utils.files import replacing

LATEST_VERSION = 1
FORMAT = {"name": "full-spike-aap", "version": LATEST_VERSION}

LATEST = "checkpoint_latest.pth"
PREVIOUS = "checkpoint_previous.pth"
BEST = "checkpoint_max_test_acc1.pth"


def write(path: Path, state: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint; until it is whole and on disk, whatever had this name stays.

    Args:
        keep: see `replacing`.

    Raises:
        OSError: the disk is full or the folder not writable; nothing has changed then.
    """
    try:
        with replacing(path, durable=True, keep=keep) as partial, _NotedErrors(io.FileIO(partial, "w")) as file:
            try:
                torch.save({"format": dict(FORMAT), **state}, file)
            except RuntimeError:  # what torch's zip writer makes of an error of the file below it
                raise file.error or OSError(0, "torch.save failed") from None
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror}): what was there before is untouched") from None


class _NotedErrors(io.BufferedWriter):
    """A file that remembers the system's error, which torch.save replaces by one of its own."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def copy(source: Path, target: Path) -> None:
    """A second checkpoint with a whole one's content: what damages one leaves the other as it is."""
    with replacing(target, durable=True) as partial:
        shutil.copyfile(source, partial)


def write_latest(folder: Path, state: dict[str, Any]) -> Path:
    """Write the newest checkpoint of a run; the one before it stays beside it as checkpoint_previous.pth."""
    latest = folder / LATEST
    write(latest, state, keep=folder / PREVIOUS)
    return latest


def _check_archive(path: Path) -> None:
    """Compare checksums, which torch's reader does not, and sizes: torch compresses nothing.

    Raises:
        UserError: the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise UserError(f"{path} is compressed, as no checkpoint of torch is: use another one")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise UserError(f"{path} is damaged: it claims to hold more than its size; use an older checkpoint")
        broken = archive.testzip()
    if broken is not None:
        raise UserError(f"{path} is damaged (checksum of {broken}): use an older checkpoint")


def load(path: Path) -> Any:
    """The content of a file that torch.save wrote, with every stored checksum verified.

    Raises:
        UserError: the file is missing or damaged, or holds what could run code.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a checkpoint file in it")
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}: check the path")
    if not path.is_file():  # a pipe or a device may never end
        raise UserError(f"{path} is no regular file: name a checkpoint file")
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        stranger = plain.stranger(path)
        if stranger is not None:
            raise UserError(
                f"{path} holds {stranger}, which is not plain data and could run code or take any amount of memory: it "
                "is not loaded; save tensors, numbers and strings alone"
            )
        # a Namespace is how published checkpoints carry their command line: plain attributes, nothing that runs
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on files that it takes for something else
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not plain.fits(content, path.stat().st_size):
            raise UserError(f"{path} claims to hold more than its size: use another one")
        return content
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes torch's, zipfile's and pickle's readers raise
        reason = (str(error).splitlines() or [""])[0]
        reason = f" ({reason})" if 0 < len(reason) <= 100 else ""  # torch's longer ones are essays
        raise UserError(f"{path} is damaged or no checkpoint of torch{reason}: use another one") from None


def resumable(path: Path, content: Any) -> dict[str, Any]:
    """A checkpoint's content, if a run wrote it with all that it takes to go on.

    Raises:
        UserError: it is of a newer format, or not a run's checkpoint.
    """
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path} is no checkpoint of a run of this project: it can only be evaluated, by --test-only")
    check_format(path, content["format"])
    if "optimizer" not in content:
        raise UserError(f"{path} holds weights alone, nothing to resume from: evaluate it with --test-only")
    check_content(path, content, schema.RUN)
    return content


def read(path: Path) -> dict[str, Any]:
    """`resumable` content of a file; UserError also if it is missing or damaged."""
    return resumable(path, load(path))


def check_format(path: Path, found: Any) -> None:
    if not isinstance(found, dict) or found.get("name") != FORMAT["name"]:
        raise UserError(f"{path} is a checkpoint of another program: use one of this project")
    version = found.get("version")
    if isinstance(version, bool) or not isinstance(version, int):
        raise UserError(f"{path} is damaged (its format version is {version!r}): use an older checkpoint")
    if version > LATEST_VERSION:
        raise UserError(f"{path} has format version {version}, this program reads up to {LATEST_VERSION}: update it")


def check_content(path: Path, content: dict[str, Any], wanted: Mapping[str, schema.Check]) -> None:
    wrong = schema.problem(content, wanted)
    if wrong:
        raise UserError(f"{path} is damaged ({wrong}): use an older checkpoint")


def candidates(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first: latest, previous, those kept by epoch, the best."""
    by_epoch = sorted(
        (p for p in folder.glob("checkpoint_*.pth") if p.stem.removeprefix("checkpoint_").isdigit()),
        key=lambda p: int(p.stem.removeprefix("checkpoint_")),
        reverse=True,
    )
    return [p for p in (folder / LATEST, folder / PREVIOUS, *by_epoch, folder / BEST) if p.exists()]


def newest_whole(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that can be read, and its content; `say` hears of each one passed over.

    Returns None where there is none at all.

    Raises:
        UserError: there are some and every one is damaged.
    """
    found = candidates(folder)
    for path in found:
        try:
            return path, read(path)
        except UserError as error:
            say(f"passed over: {error}")
    if found:
        raise UserError(f"every checkpoint in {folder} is damaged: start anew with --overwrite or another --output-dir")
    return None

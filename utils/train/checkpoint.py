"""Checkpoint files: written whole or not at all, read without running anything that they hold."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from utils.runtime.errors import UsageError, UserError
from utils.runtime.files import replacing
from utils.train import schema

LATEST_VERSION = 1
FORMAT = {"name": "full-spike-aap", "version": LATEST_VERSION}

LATEST = "checkpoint_latest.pth"
PREVIOUS = "checkpoint_previous.pth"
BEST = "checkpoint_max_test_acc1.pth"


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; until it is whole and on disk, whatever had this name stays.

    Raises:
        OSError: the disk is full or the folder not writable; nothing has changed then.
    """
    try:
        with replacing(path, durable=True) as partial, _NotedErrors(io.FileIO(partial, "w")) as file:
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
    if latest.exists():
        with replacing(folder / PREVIOUS) as partial:
            try:
                os.link(latest, partial)  # costs nothing, and ends when the new one takes the first name
            except OSError:
                shutil.copyfile(latest, partial)
    write(latest, state)
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
        # a Namespace is how published checkpoints carry their command line: plain attributes, nothing that runs
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on files that it takes for something else
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise UserError(
                f"{path} holds {refused[1]}, which is not plain data and could run code: it is not loaded; "
                "save tensors, numbers and strings alone"
            ) from None
        raise UserError(f"{path} is damaged or no checkpoint of torch: use another one") from None
    except Exception as error:  # whatever a damaged file makes torch's, zipfile's and pickle's readers raise
        reason = (str(error).splitlines() or [""])[0]
        reason = f" ({reason})" if 0 < len(reason) <= 100 else ""  # torch's longer ones are essays
        raise UserError(f"{path} is damaged or no checkpoint of torch{reason}: use another one") from None


def weights_of(path: Path, content: Any, *, averaged: bool = False) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """(the model's config, or None if the file is a published one; the state dict) of any checkpoint's content.

    Args:
        averaged: the state dict of the averaged weights.

    Raises:
        UserError: it is of a newer format, or holds no such weights; `path` is named.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint: use another file")
    if "format" in content:
        _check_format(path, content["format"])
        _check_content(path, content, schema.WEIGHTS)
        return content["config"], _averaged(path, content) if averaged else content["model"]
    if averaged:
        raise UserError(f"{path} is no checkpoint of this project, so it has no averaged weights: leave out --ema")
    state: Any = content.get("model", content.get("net", content))  # SEW-ResNet's CIFAR10-DVS code calls it net
    wrong = schema.weights(state)
    if wrong:
        raise UserError(
            f"{path} holds no weights (its state dict {wrong}): use a checkpoint of this project or a published one"
        )
    return None, state


def _averaged(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    found = content.get("ema")
    if found is None:
        raise UserError(f"{path} has no averaged weights: leave out --ema, or train with --ema-decay")
    wrong = schema.weights(found)
    if wrong:
        raise UserError(f"{path} is damaged ('ema' {wrong}): use another one")
    # torch's AveragedModel: the network below `module`, and a counter
    return {name.removeprefix("module."): value for name, value in found.items() if name.startswith("module.")}


def read_weights(path: Path, *, averaged: bool = False) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """`weights_of` a file; UserError also if it is missing or damaged."""
    return weights_of(path, load(path), averaged=averaged)


def read_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the model's config, options of the run that saved it) of any checkpoint; empty where it has none, as published.

    Raises:
        UserError: the file is missing, damaged or of a newer format.
    """
    content = load(path)
    if not isinstance(content, dict) or "format" not in content:
        return {}, {}
    _check_format(path, content["format"])
    _check_content(path, content, schema.WEIGHTS)
    recipe = content.get("recipe", {})
    return content["config"], recipe if isinstance(recipe, dict) else {}


def different_config(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """The options in which two models differ, in words; empty if they don't."""
    names = [k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
    return ", ".join(f"{k}={theirs.get(k)} instead of {ours.get(k)}" for k in names)


def check_config(path: Path, model: Any, config: dict[str, Any]) -> None:
    """Raises UsageError if a checkpoint with this config is of another network than the model."""
    different = different_config(model.config, config)
    if different:
        raise UsageError(f"{path} was saved from another network ({different}): give the same options as then")


def set_weights(
    path: Path,
    content: Any,
    model: Any,
    load_published: Callable[[Any, dict[str, Any]], None],
    *,
    averaged: bool = False,
) -> None:
    """Put the weights of any checkpoint's content into a model, all or nothing.

    Args:
        path: where the content is from: of a run, of weights alone, or published.
        load_published: of (model, state dict); ValueError, and no change, if it does not fit.
        averaged: take the averaged weights.

    Raises:
        UserError: it does not fit.
        UsageError: it was saved from another network; the options that differ are named.
    """
    config, state = weights_of(path, content, averaged=averaged)
    if config is not None:
        check_config(path, model, config)
    try:
        load_published(model, state)  # names of our own pass through it unchanged
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def resumable(path: Path, content: Any) -> dict[str, Any]:
    """A checkpoint's content, if a run wrote it with all that it takes to go on.

    Raises:
        UserError: it is of a newer format, or not a run's checkpoint.
    """
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path} is no checkpoint of a run of this project: it can only be evaluated, by --test-only")
    _check_format(path, content["format"])
    if "optimizer" not in content:
        raise UserError(f"{path} holds weights alone, nothing to resume from: evaluate it with --test-only")
    _check_content(path, content, schema.RUN)
    return content


def read(path: Path) -> dict[str, Any]:
    """`resumable` content of a file; UserError also if it is missing or damaged."""
    return resumable(path, load(path))


def _check_format(path: Path, found: Any) -> None:
    if not isinstance(found, dict) or found.get("name") != FORMAT["name"]:
        raise UserError(f"{path} is a checkpoint of another program: use one of this project")
    version = found.get("version")
    if isinstance(version, bool) or not isinstance(version, int):
        raise UserError(f"{path} is damaged (its format version is {version!r}): use an older checkpoint")
    if version > LATEST_VERSION:
        raise UserError(f"{path} has format version {version}, this program reads up to {LATEST_VERSION}: update it")


def _check_content(path: Path, content: dict[str, Any], wanted: Mapping[str, schema.Check]) -> None:
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


def find(wanted: str, folder: Path, say: Callable[[str], None]) -> tuple[Path, Any] | None:
    """The checkpoint that --resume names, with its content: a file, or "auto" for the newest whole one of the folder.

    Returns None if there is none at all in the folder.

    Raises:
        UserError: the file is missing or damaged, or all of the folder's are.
    """
    if wanted == "auto":
        return newest_whole(folder, say)
    return Path(wanted), load(Path(wanted))

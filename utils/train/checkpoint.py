"""Checkpoint files: written whole or not at all, read without running anything that they hold."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from utils.runtime.errors import UsageError, UserError
from utils.runtime.files import replacing

FORMAT = {"name": "full-spike-aap", "version": 1}

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
    """Give a whole checkpoint a second name, at no cost where the file system has hard links."""
    with replacing(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def write_latest(folder: Path, state: dict[str, Any]) -> Path:
    """Write the newest checkpoint of a run; the one before it stays beside it as checkpoint_previous.pth."""
    latest = folder / LATEST
    if latest.exists():
        copy(latest, folder / PREVIOUS)
    write(latest, state)
    return latest


def load(path: Path) -> Any:
    """The content of a file that torch.save wrote, with every stored checksum verified.

    Raises:
        UserError: the file is missing or damaged, or holds what could run code.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a checkpoint file in it")
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}: check the path")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()  # torch's own reader does not compare checksums
            if broken is not None:
                raise UserError(f"{path} is damaged (checksum of {broken}): use an older checkpoint")
        # a Namespace is how published checkpoints carry their command line: plain attributes, nothing that runs
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise UserError(
                f"{path} holds {refused[1]}, which is not plain data and could run code: it is not loaded; "
                "save tensors, numbers and strings alone"
            ) from None
        raise UserError(f"{path} is damaged or no checkpoint of torch: use another one") from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or no checkpoint of torch ({reason}): use another one") from None


def weights_of(path: Path, content: Any) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """(the model's config, or None if the file is a published one; the state dict) of any checkpoint's content.

    Raises:
        UserError: it is of a newer format, or holds no state dict; `path` is named.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint: use another file")
    if "format" in content:
        _check_format(path, content["format"])
        return content["config"], content["model"]
    state = content.get("model", content.get("net", content))  # SEW-ResNet's CIFAR10-DVS code calls it net
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path} holds no weights: use a checkpoint of this project or a published state dict")
    return None, state


def read_weights(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """`weights_of` a file; UserError also if it is missing or damaged."""
    return weights_of(path, load(path))


def read_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the model's config, options of the run that saved it) of any checkpoint; empty where it has none, as published.

    Raises:
        UserError: the file is missing, damaged or of a newer format.
    """
    content = load(path)
    if not isinstance(content, dict) or "format" not in content:
        return {}, {}
    _check_format(path, content["format"])
    return content["config"], content.get("recipe", {})


def different_config(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """The options in which two models differ, in words; empty if they don't."""
    names = [k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
    return ", ".join(f"{k}={theirs.get(k)} instead of {ours.get(k)}" for k in names)


def check_config(path: Path, model: Any, config: dict[str, Any]) -> None:
    """Raises UsageError if a checkpoint with this config is of another network than the model."""
    different = different_config(model.config, config)
    if different:
        raise UsageError(f"{path} was saved from another network ({different}): give the same options as then")


def set_weights(path: Path, content: Any, model: Any, load_published: Callable[[Any, dict[str, Any]], None]) -> None:
    """Put the weights of any checkpoint's content into a model, all or nothing.

    Args:
        path: where the content is from: of a run, of weights alone, or published.
        load_published: of (model, state dict); ValueError, and no change, if it does not fit.

    Raises:
        UserError: it does not fit.
        UsageError: it was saved from another network; the options that differ are named.
    """
    config, state = weights_of(path, content)
    if config is not None:
        check_config(path, model, config)
    try:
        load_published(model, state)  # names of our own pass through it unchanged
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def load_weights(path: Path, model: Any, load_published: Callable[[Any, dict[str, Any]], None]) -> None:
    """`set_weights` from a file; UserError also if it is missing or damaged."""
    set_weights(path, load(path), model, load_published)


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
    return content


def read(path: Path) -> dict[str, Any]:
    """`resumable` content of a file; UserError also if it is missing or damaged."""
    return resumable(path, load(path))


def _check_format(path: Path, found: Any) -> None:
    if not isinstance(found, dict) or found.get("name") != FORMAT["name"]:
        raise UserError(f"{path} is a checkpoint of another program: use one of this project")
    if found.get("version", 0) > FORMAT["version"]:  # type: ignore[operator]
        raise UserError(
            f"{path} has format version {found['version']}, this program reads up to {FORMAT['version']}: update it"
        )


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

"""Checkpoints of a run: written whole or not at all, read without running anything that they hold, found again.

Its keys: format; config (of the network), model, optimizer, lr_scheduler, scaler, ema; epoch, step, max_test_acc1,
test_acc5_at_max_test_acc1, meter; random_states (of each process), world_size; recipe (options that must stay as they
are); versions; data_set, classes, inputs (of the data, for those who use the network).
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from full_spike.models import Pretrained, read_pretrained
from full_spike.models.pretrained import LATEST, load_checkpoint
from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError
from full_spike.utils.files import replacing

FORMAT = {"name": "full-spike-aap", "version": 1}
PREVIOUS = "checkpoint_previous.pth"
BEST = "checkpoint_max_test_acc1.pth"
NEEDED = (
    "config", "model", "optimizer", "lr_scheduler", "scaler", "ema", "epoch", "step", "meter", "random_states",
    "world_size", "recipe", "max_test_acc1", "test_acc5_at_max_test_acc1",
)  # fmt: skip


class _File(io.BufferedWriter):
    """A file that remembers the system's error, which torch.save replaces by one of its own."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def write(path: Path, state: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint; until it is whole and on disk, whatever had this name stays.

    Args:
        keep: the name that the checkpoint which is replaced gets.

    Raises:
        OSError: the disk is full or the folder not writable; nothing has changed then.
    """
    try:
        with replacing(path, durable=True, keep=keep) as partial, _File(io.FileIO(partial, "w")) as file:
            try:
                torch.save({"format": dict(FORMAT), **state}, file)
            except RuntimeError:  # what torch's zip writer makes of an error of the file below it
                raise file.error or OSError(0, "torch.save failed") from None
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror}): what was there before is untouched") from None


def copy(source: Path, target: Path) -> None:
    """A second checkpoint with a whole one's content: what damages one leaves the other as it is."""
    with replacing(target, durable=True) as partial:
        shutil.copyfile(source, partial)


def write_latest(folder: Path, state: dict[str, Any]) -> Path:
    """Write the newest checkpoint of a run; the one before it stays beside it as checkpoint_previous.pth."""
    latest = folder / LATEST
    write(latest, state, keep=folder / PREVIOUS)
    return latest


def not_finite(value: Any, name: str = "") -> str | None:
    """The name of the first tensor in a state that holds numbers which are not finite; None without any."""
    if isinstance(value, Tensor) and value.is_floating_point():
        # a running variance may overflow while the loss stays finite
        wrong = value.isnan() if name.endswith(("running_mean", "running_var")) else ~value.isfinite()
        return name if bool(wrong.any()) else None
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return next((found for key, item in items if (found := not_finite(item, f"{name}.{key}".lstrip(".")))), None)


def load(path: Path) -> Any:
    """The content of a file that torch.save wrote.

    Raises:
        UserError: it is missing or damaged, or holds what could run code.
    """
    try:
        return load_checkpoint(path)
    except ValueError as error:
        raise UserError(str(error)) from None


def read(path: Path) -> dict[str, Any]:
    """The content of a run's checkpoint.

    Raises:
        UserError: it is missing or damaged, of a newer format, or not of a run.
    """
    content = load(path)
    if not isinstance(content, dict) or "format" not in content or "optimizer" not in content:
        raise UserError(f"{path} holds weights alone, nothing to go on from: use --test-only or --initial-checkpoint")
    check_format(path, content)
    missing = [name for name in NEEDED if name not in content]
    wrong = f"it has no {missing[0]!r}" if missing else None
    if wrong is None and (name := not_finite({key: content[key] for key in ("model", "ema", "optimizer")})):
        wrong = f"{name} holds numbers that are not finite"
    if wrong:
        raise UserError(f"{path} is damaged ({wrong}): use an older checkpoint")
    return content


def check_format(path: Path, content: Mapping[str, Any]) -> None:
    """Raises UserError if a checkpoint is of another program, or of a newer version of this one."""
    found = content["format"]
    if not isinstance(found, dict) or found.get("name") != FORMAT["name"]:
        raise UserError(f"{path} is a checkpoint of another program: use one of this project")
    if found.get("version") != FORMAT["version"]:
        raise UserError(
            f"{path} has format version {found.get('version')!r}, this program reads {FORMAT['version']}: update it"
        )


def read_trained(where: str | os.PathLike[str], model: str | None = None, *, averaged: bool = False) -> Pretrained:
    """Trained weights of any kind, see `models.read_pretrained`; UserError where they cannot be used."""
    try:
        found = read_pretrained(where, model, averaged=averaged)
    except ValueError as error:
        raise UserError(str(error)) from None
    if "format" in found.content:
        check_format(found.path, found.content)
    if name := not_finite(found.state):
        raise UserError(f"{found.path} is damaged: {name} holds numbers that are not finite; use another one")
    return found


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


def require_alike(facts: Mapping[str, Any], world: World) -> None:
    """Compare over all processes what must be alike in them: numbers, strings, tensors, and dicts and lists of these.

    Raises:
        UserError: some of it differs; the facts and the processes are named.
    """
    if world.size == 1:
        return
    digests = b"".join(_digest(value) for value in facts.values())
    everyones = world.gather(torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(len(facts), -1))
    differs = torch.stack([(other != everyones[0]).any(dim=1) for other in everyones])  # [processes, facts]
    with world.main_only("comparing the processes") as main:
        if main and differs.any():
            names = ", ".join(name for name, any_differs in zip(facts, differs.any(dim=0), strict=True) if any_differs)
            ranks = ", ".join(str(rank) for rank in differs.any(dim=1).nonzero().flatten().tolist())
            raise UserError(
                f"{names}: not the same in process {ranks} as in the main one: "
                "start all processes with the same command, code and data"
            )


def _digest(value: Any) -> bytes:
    """SHA-256 of a value's structure, types and content."""
    found = hashlib.sha256()
    if isinstance(value, Tensor):
        found.update(f"{value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            found.update(repr(key).encode() + _digest(value[key]))
    elif isinstance(value, list | tuple):
        for item in value:
            found.update(_digest(item))
    else:
        found.update(repr(value).encode())
    return found.digest()

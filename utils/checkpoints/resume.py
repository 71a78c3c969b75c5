"""One starting point for all processes of a run.

The machines of a run may see different folders, or the same one at different times (network file systems keep lists of
files for a while). Were each process to look for itself, they could go on from different checkpoints and average the
gradients of different weights from then on. So the main process alone reads, and what it read is sent to the others;
and before the first step all compare what that step depends on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from full_spike.utils.checkpoints import checkpoint
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError


def find(wanted: str, folder: Path, say: Callable[[str], None], world: World) -> tuple[Path, Any] | None:
    """The checkpoint that --resume names, with its content, as the main process reads it.

    Args:
        wanted: a file, or "auto" for the newest whole one of the folder.
        say: hears of each one passed over.

    Returns:
        None if there is none at all in the folder; the same in every process.

    Raises:
        UserError: the file is missing or damaged, or all of the folder's are; or it was damaged on its way.
    """

    def read() -> tuple[Path, Any] | None:
        path = Path(wanted)
        return checkpoint.newest_whole(folder, say) if wanted == "auto" else (path, checkpoint.load(path))

    return from_main(read, world)


def from_main(read: Callable[[], tuple[Path, Any] | None], world: World) -> tuple[Path, Any] | None:
    """What the main process reads, (where, the content of a checkpoint), or None, in every process.

    Raises:
        UserError: it cannot be read, or was damaged on its way.
    """
    found = None
    with world.main_only("reading the checkpoint") as main:
        if main:
            found = read()
    if world.size == 1:
        return found
    content = _to_bytes(found[1]) if found else b""
    letter = {"path": str(found[0]) if found else None, "sha256": hashlib.sha256(content).hexdigest()}
    letter = json.loads(world.share(json.dumps(letter).encode()))
    if letter["path"] is None:
        return None
    content = world.share(content)
    if world.is_main:
        return found
    if hashlib.sha256(content).hexdigest() != letter["sha256"]:
        raise UserError(f"{letter['path']} was damaged on its way to process {world.rank}: start the job again")
    return Path(letter["path"]), _from_bytes(content)


def _to_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _from_bytes(content: bytes) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):  # as for files: what the main process could read
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


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


def as_now(recipe: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's recipe in today's options: what was added since was not in use, and Adam was a switch."""
    began = {"initial_checkpoint": None}
    recipe = {"lr_scheduler": "cosine", "sched_on_updates": False, "decay_weights_only": False, **began, **recipe}
    if "adam" in recipe:
        recipe["optimizer"] = "adam" if recipe.pop("adam") else "sgd"
    return recipe


def require_same_course(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare what the saved state of a schedule and an optimizer is made for.

    Args:
        then, now: options by name, of the checkpoint and of this run.

    Raises:
        UsageError: an option differs; the checkpoint's is named.
    """
    for name in ("lr_scheduler", "sched_on_updates", "decay_weights_only"):
        if then[name] != now[name]:
            flag, value = f"--{name.replace('_', '-')}", then[name]
            what = f"{'with' if value else 'without'} {flag}" if isinstance(value, bool) else f"with {flag} {value}"
            raise UsageError(f"the checkpoint is of a run {what}: use the same")
    steps = "steps_per_epoch"  # known only where the schedule counts them
    if then.get(steps) != now.get(steps):
        raise UsageError(
            f"the checkpoint's schedule counts {then.get(steps)} steps an epoch and this run makes {now.get(steps)}: "
            "with --sched-on-updates keep processes x --batch-size x --accumulate"
        )


def _digest(value: Any) -> bytes:
    """SHA-256 of a value's structure, types and content."""
    found = hashlib.sha256()
    if isinstance(value, torch.Tensor):
        found.update(f"{value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            found.update(repr(key).encode() + _digest(value[key]))
    elif isinstance(value, (list, tuple)):
        for item in value:
            found.update(_digest(item))
    else:
        found.update(repr(value).encode())
    return found.digest()

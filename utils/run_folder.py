"""A run's folder: its name, the lock of the job that trains in it, its config.yaml, and what it may hold before."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from full_spike.models import model_options
from full_spike.utils import checkpoint
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import write_file
from full_spike.utils.log import METRICS
from full_spike.utils.options import Args, write_config
from full_spike.utils.versions import commit, machine, versions

CONFIG = "config.yaml"
LOCK = "lock.json"
OVERWRITTEN = "overwritten"

# options that the release's name has, or leaves out on purpose: a run may be made longer, and its command has --amp
_RELEASED = {
    "model", "batch_size", "T", "connect_f", "zero_init_residual", "epochs", "lr", "cos_lr_T", "lr_scheduler",
    "step_size", "gamma", "optimizer", "weight_decay", "amp", "amp_dtype",
}  # fmt: skip
# what the data's own name says, and how they are read
_DATA = {"dataset", "image_size", "frame_size", "T_train", "augment"}
_READING = {"data_path", "data_format", "check_data", "frames_path", "workers", "cache_dataset", "download"}
_LONGEST = 200  # bytes of a name, of the 255 that file systems take


def run_name(args: Args, network: Mapping[str, Any], prefix: str = "") -> str:
    """The folder's name: --name, or else the release's, and every other option that is not the script's default.

    Args:
        network: the network's options, as it was built.
        prefix: which data.
    """
    if args.name is not None:
        return args.name
    name = f"{args.model}_b{args.batch_size}_lr{args.lr}_T{network.get('T', args.T)}"
    if network.get("zero_init_residual"):
        name += "_zi"
    if args.weight_decay:
        name += f"_wd{args.weight_decay}"
    cosine = args.lr_scheduler.startswith("cosine")
    name += f"_coslr{args.cos_lr_T}" if cosine else f"_{args.lr_scheduler}lr{args.step_size}_{args.gamma}"
    name += f"_{args.optimizer}"
    if network.get("connect_f"):
        name += f"_cnf_{network['connect_f']}"
    if args.lr_scheduler == "cosine-timm":
        name += "_cosine-timm"
    usual = model_options(args.model)  # of a network's option that the script leaves to it
    for option, value in args.of("data", "network", "recipe").items():
        default = usual.get(option) if args.default(option) is None else args.default(option)
        if option not in _RELEASED | _DATA | _READING and value is not None and value != default:
            text = "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
            text = "" if isinstance(value, bool) else re.sub(r"[^\w.+=-]", "-", text)
            name += f"_{'no' if value is False else ''}{option.replace('_', '')}{text}"
    name = prefix + name
    if len(name.encode()) > _LONGEST:
        name = f"{name[: _LONGEST - 13]}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return name


def folder_of(args: Args, network: Mapping[str, Any], prefix: str = "") -> Path:
    """The run's folder: the one that --resume names, or else `run_name` in --output-dir."""
    if args.resume and args.resume != "auto" and (Path(args.resume) / checkpoint.LATEST).exists():
        return Path(args.resume)
    return Path(args.output_dir) / run_name(args, network, prefix)


@contextlib.contextmanager
def locked(folder: Path, world: World) -> Iterator[Callable[[], None]]:
    """A block in which the run's folder, which is made if need be, belongs to this job.

    Yields a function that raises UserError where the folder has come to belong to another job.

    Raises:
        UserError: another job has it.
    """
    path, owner = folder / LOCK, _this_job()
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    with world.main_only("locking the output folder") as main:
        if main:
            folder.mkdir(parents=True, exist_ok=True)
            _lock(path, owner)

    def check() -> None:
        if world.is_main and _owner(path) != owner:
            raise UserError(f"{path} is no longer this job's: it ends without writing to the folder")

    try:
        yield check
    finally:
        if world.is_main and _owner(path) == owner:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                for each in new:  # of a run that was refused: nothing is in them
                    each.rmdir()


def _this_job() -> dict[str, Any]:
    """What tells this job from others. `job` is the same when SLURM or torchrun starts it again, on any machine."""
    slurm, torchrun = os.environ.get("SLURM_JOB_ID"), os.environ.get("TORCHELASTIC_RUN_ID", "none")
    job = f"SLURM job {slurm}" if slurm else "" if torchrun == "none" else f"torchrun job {torchrun}"
    return {"host": socket.gethostname(), "pid": os.getpid(), "job": job, "token": uuid.uuid4().hex}


def _lock(path: Path, owner: dict[str, Any]) -> None:
    patience = time.monotonic() + 3.0  # seconds that a process which was killed may take to be gone
    while True:
        try:
            with open(path, "x", encoding="utf-8") as file:
                json.dump(owner, file)
            return
        except FileExistsError:
            other = _owner(path)
        if other is not None and not _is_over(other, owner):
            if other["host"] == owner["host"] and time.monotonic() < patience:
                time.sleep(0.2)
                continue
            job = f" ({other['job']})" if other["job"] else ""
            raise UserError(
                f"{path.parent} is in use by process {other['pid']} on {other['host']}{job}: wait for its end, choose "
                f"another --output-dir, or, if it is over, delete {path}"
            )
        path.unlink(missing_ok=True)


def _owner(path: Path) -> dict[str, Any] | None:
    """Who has the lock; None if nobody, or where the file was cut off."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"host", "pid", "job"} <= found.keys() else None


def _is_over(other: dict[str, Any], here: dict[str, Any]) -> bool:
    if other["host"] != here["host"]:  # the same job on another machine: SLURM and torchrun move it once it has ended
        return bool(other["job"]) and other["job"] == here["job"]
    if other["pid"] == here["pid"]:
        return True  # a container that was started again
    try:
        os.kill(other["pid"], 0)
        state = Path(f"/proc/{other['pid']}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return state in "ZX"


def prepare(folder: Path, args: Args, world: World) -> None:
    """Refuse to write over a run that is in the folder unless that is asked for.

    Raises:
        UsageError: it holds a run that is neither overwritten nor resumed.
    """
    with world.main_only("preparing the output folder") as main:
        there = checkpoint.candidates(folder) if main else []
        if not there:
            return
        if args.overwrite:
            aside = folder / OVERWRITTEN  # where the run stays until the one that replaces it has saved
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            for path in [*there, folder / METRICS]:
                if path.exists():
                    os.replace(path, aside / path.name)
        elif not args.resume:
            raise UsageError(
                f"{folder} holds a run already ({there[0].name}): go on with --resume auto, "
                "begin anew with --overwrite, or choose another --output-dir"
            )
        elif args.resume != "auto" and not Path(args.resume).resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{folder} holds a run already ({there[0].name}), and --resume {args.resume} is of another one: "
                "choose another --output-dir"
            )


def discard_overwritten(folder: Path) -> None:
    """Delete the run that was set aside, if there is one."""
    shutil.rmtree(folder / OVERWRITTEN, ignore_errors=True)


def keep_config(folder: Path, args: Args, world: World) -> str:
    """Write config.yaml: every option in effect, and what the run was made with; `--config` starts it again."""
    made_with: dict[str, Any] = {"script": f"{args.data_set}.train", **versions()}
    made_with["machine"] = machine(world.device, world.size)
    if found := commit():
        made_with["commit"] = found
    text = write_config(args, made_with)
    with world.main_only(f"writing {CONFIG}") as main:
        if main:
            write_file(folder / CONFIG, text.encode())
    return text


def other_runs(folder: Path) -> str:
    """In words: the runs beside a folder that has none, newest first."""
    found = [path.parent for path in folder.parent.glob(f"*/{checkpoint.LATEST}")]
    names = [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]
    return f"; {folder.parent} holds {', '.join(names[:3])}{' and more' * (len(names) > 3)}" if names else ""

"""Processes that can be told apart over machines and restarts, and whether one of them is over."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What tells this process from any other one, in plain values.

    host: the machine's name. machine, boot: ids of the installation and of its last start, "" where there is none.
    namespace: of process ids (containers have their own). pid, started: the process, and its start in clock ticks since
    boot, for ids are used again. job: what SLURM or torchrun calls the job, or "". restart: how often SLURM has queued
    it again.
    """
    return {
        "host": socket.gethostname(),
        "machine": _line("/etc/machine-id"),
        "boot": _line("/proc/sys/kernel/random/boot_id"),
        "namespace": _namespace(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "job": _job(),
        "restart": int(text) if (text := os.environ.get("SLURM_RESTART_COUNT", "")).isdigit() else 0,
    }


def is_process(value: Any) -> bool:
    """Whether a value, from a file say, has all that `this_process` says, and in its types."""
    kinds: dict[str, Any] = {name: type(one) for name, one in this_process().items()} | {"started": int | None}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def describe(holder: dict[str, Any]) -> str:
    """A holder in words."""
    job = f" ({holder['job']})" if holder["job"] else ""
    return f"process {holder['pid']} on {holder['host']}{job}"


def is_over(other: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether a process is known to have ended, by one that is `here`; False also where that cannot be known."""
    if other["job"].startswith("SLURM") and other["job"] == here["job"] and other["restart"] < here["restart"]:
        return True  # SLURM queues a job again when nothing of it runs any more
    if other["host"] != here["host"]:
        return False
    if other["boot"] != here["boot"]:
        # started since; if it is the same machine and not one of the same name
        return other["machine"] == here["machine"] != ""
    return other["namespace"] == here["namespace"] and not _runs(other["pid"], other["started"])


def _job() -> str:
    if "SLURM_JOB_ID" in os.environ:
        return f"SLURM job {os.environ['SLURM_JOB_ID']}"
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # "none" is every job's that was given no --rdzv-id
    return "" if name == "none" else f"torchrun job {name}"


def _runs(pid: int, started: int | None) -> bool:
    if started is None:  # no /proc: an id that is used again cannot be told from the process that had it first
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
        return True
    return _started(pid) == started


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it has ended, or where there is no /proc."""
    # "pid (name) state ...": the name may hold anything
    fields = _line(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

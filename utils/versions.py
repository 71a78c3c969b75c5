"""What a run was made with: versions of what computes, and the commit of this project's source."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

PROJECT = "full-spike-aap"


def versions() -> dict[str, str]:
    """Version by name of python, torch, spikingjelly and this project, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in ("torch", "spikingjelly", PROJECT):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # run from the folder, without pip install
            found[name] = importlib.metadata.version(name)
    return found


def machine(device: torch.device, processes: int) -> str:
    """What computes, in words: a run's device, times its processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = f"{platform.machine()}, {cores} cores"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, {name}"
    return f"{processes} x {device.type}: {name}"


def commit() -> str | None:
    """The git commit of the source, with "-dirty" after it if tracked files differ; None without a repository."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None  # installed, or below another project's repository
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()

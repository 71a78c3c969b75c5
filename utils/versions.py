"""What a run was made with: versions of what computes, and the commit of this project's source."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PROJECT = "full-spike-aap"
_PACKAGES = {"torch": "torch", "spikingjelly": "spikingjelly", PROJECT: PROJECT}


def versions() -> dict[str, str]:
    """Version by name of python, torch, spikingjelly and this project, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name, package in _PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # this project, run from its folder without `pip install`
    return found


def machine(device: Any, processes: int) -> str:
    """What computes, in words.

    Args:
        device: a torch.device.
        processes: of the run.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = f"{platform.machine()}, {cores} cores"
    if device.type == "cuda":
        import torch

        name = f"{torch.cuda.get_device_name(device)}, {name}"
    return f"{processes} x {device.type}: {name}"


def commit() -> str | None:
    """The git commit of the source, with "-dirty" after it if tracked files differ; None without a repository."""
    root = Path(__file__).resolve().parents[2]
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

"""The end of a process whose parent is gone.

torchrun's agent restarts its workers as a group. When the agent itself is killed (SIGKILL, the out-of-memory killer)
nobody tells its workers: they would train on and write into the run's folder beside the job that takes their place.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist

from utils.runtime.errors import UserError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have the system kill this process when its parent ends, however that ends. On Linux; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_agent() -> None:
    """In a worker of torchrun (or torch.distributed.launch): end with the agent that started it.

    Raises:
        UserError: the agent is gone already.
    """
    if not dist.is_torchelastic_launched():
        return
    end_with_parent()
    if sys.platform == "linux" and not _runs_torch(os.getppid()):  # it may have ended before the line above
        raise UserError("the torchrun agent that started this process is gone: start the job again")


def _runs_torch(process: int) -> bool:
    """Whether a process has torch's library loaded: an agent has; what adopts orphans (init, systemd, tini) has not."""
    try:
        return "libtorch" in Path(f"/proc/{process}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False

"""The end of a process whose parent is gone.

torchrun's agent restarts its workers as a group. When the agent itself is killed (SIGKILL, the out-of-memory killer)
nobody tells its workers: they would train on and write into the run's folder beside the job that takes their place.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch.distributed as dist
from full_spike.utils.errors import UserError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have the system kill this process when its parent ends, however that ends. On Linux; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_agent() -> None:
    """In a worker of torchrun (or torch.distributed.launch): end with the agent that started it. On Linux.

    Raises:
        UserError: the agent is gone already.
    """
    if not dist.is_torchelastic_launched() or sys.platform != "linux":
        return
    end_with_parent()
    agent = _agent()  # looked for afterwards: it may have ended before
    if agent is None:
        raise UserError("the torchrun agent that started this process is gone: start the job again")
    if agent != os.getppid():  # a script between them may live on
        threading.Thread(target=_end_with, args=(agent,), daemon=True).start()


def _agent() -> int | None:
    """The nearest ancestor that has torch loaded, as agents have; what adopts orphans (init, systemd) has not."""
    process = os.getppid()
    while process > 0:
        try:
            if "libtorch" in Path(f"/proc/{process}/maps").read_text(encoding="utf-8", errors="replace"):
                return process
        except PermissionError:
            if process != 1:
                return process  # it cannot be told; init is no agent of another user
        except OSError:
            return None
        process = _parent(process)
    return None


def _parent(process: int) -> int:
    """0 where there is none."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _end_with(process: int) -> None:
    while Path(f"/proc/{process}").exists():
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)

"""Threads of a process that shares its machine with others of the same run: each gets its part of the cores.

torchrun gives every process one thread unless OMP_NUM_THREADS is set, and says so in a block of stars. What a user sets
stays; what torchrun sets for want of that is replaced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from full_spike.utils.runtime.variables import whole_number

_VARIABLE = "OMP_NUM_THREADS"


def share(cores: int, processes: int) -> int:
    """Threads of each of some processes on these cores, at least one."""
    return max(1, cores // processes)


def threads_of_its_own(env: Mapping[str, str], parent: Mapping[str, str] | None) -> int | None:
    """How many threads a process is to have, or None where that is not for us to say.

    Args:
        env: its environment.
        parent: the environment that the process was started with which started this one; None where it is not known.
    """
    processes = whole_number(env, "LOCAL_WORLD_SIZE", 1)
    if processes < 2:
        return None
    by_torchrun = "TORCHELASTIC_RUN_ID" in env and env.get(_VARIABLE) == "1" and parent is not None
    if _VARIABLE in env and not (by_torchrun and _VARIABLE not in (parent or {})):
        return None
    return share(len(os.sched_getaffinity(0)), processes)


def share_cores() -> None:
    """Give this process its part of the cores, if it has been given nothing else."""
    count = threads_of_its_own(os.environ, _environment(os.getppid()))
    if count is not None:
        import torch

        torch.set_num_threads(count)


def _environment(pid: int) -> dict[str, str] | None:
    """What a process was started with; None where that cannot be read."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    items = (item.partition("=") for item in content.decode(errors="replace").split("\0") if item)
    return {name: value for name, _, value in items}

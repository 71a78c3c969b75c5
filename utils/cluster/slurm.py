"""What SLURM says of this process: torch.distributed's variables from those that `srun` sets for each task.

A batch script sees the job's variables too (SLURM_NTASKS, SLURM_PROCID=0), but it is one process alone: only a task
that `srun` started has the id of a step, and only such a task has peers.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from full_spike.utils.errors import UserError
from full_spike.utils.runtime.variables import whole_number

# Below the ports that Linux gives to outgoing connections (from 32768 on), so that none of these can be in the way.
_FIRST_PORT, _PORTS = 15000, 15000


def in_step(env: Mapping[str, str]) -> bool:
    """Whether `srun` started this process, as one task of a step."""
    return "SLURM_PROCID" in env and ("SLURM_STEP_ID" in env or "SLURM_STEPID" in env)


def torch_variables(env: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT of a task; empty if the step has no other task.

    Raises:
        UserError: a variable is no number, or the first machine's name cannot be found.
    """
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"  # the latter may be the job's
    if whole_number(env, tasks, 1) == 1:
        return {}
    # the tasks of a step agree on a port without talking; those of another step, or another job, take another one
    job, step = whole_number(env, "SLURM_JOB_ID", 0), whole_number(env, "SLURM_STEP_ID", 0)
    return {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": env[tasks],
        "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": env.get("MASTER_ADDR") or _first_node(env),
        "MASTER_PORT": env.get("MASTER_PORT") or str(_FIRST_PORT + (31 * job + step) % _PORTS),
    }


def _first_node(env: Mapping[str, str]) -> str:
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "localhost"
    if not any(character in nodes for character in "[,"):
        return nodes
    try:  # a list: only scontrol knows how to unfold it
        shown = subprocess.run(["scontrol", "show", "hostnames", nodes], check=True, capture_output=True, text=True)
        return shown.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(f"cannot unfold SLURM's node list {nodes!r} ({error}): set MASTER_ADDR") from None

"""Which process of the run this one is: what torchrun, torch.distributed.launch or SLURM's `srun` tells it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from full_spike.utils.cluster import slurm
from full_spike.utils.errors import UserError
from full_spike.utils.runtime.variables import whole_number


@dataclass(frozen=True)
class Place:
    """One process among `size`; `local_rank` counts those of one machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def read_place() -> Place:
    """This process's place. What SLURM says is put into torch.distributed's variables, where torch looks for it.

    Raises:
        UserError: a variable is not what a launcher sets.
    """
    env = os.environ
    if "RANK" not in env and slurm.in_step(env):
        env.update(slurm.torch_variables(env))
    place = Place(whole_number(env, "RANK", 0), whole_number(env, "WORLD_SIZE", 1), whole_number(env, "LOCAL_RANK", 0))
    if place.rank >= place.size:
        raise UserError(
            f"RANK={place.rank} is not below WORLD_SIZE={place.size}: "
            "start all processes by torchrun or srun, which set both, or unset both for a single process"
        )
    return place


def main_address(place: Place) -> tuple[str, int]:
    """Host and port where the processes meet, from MASTER_ADDR and MASTER_PORT.

    Raises:
        UserError: they are not set, or the port is none.
    """
    host, port = os.environ.get("MASTER_ADDR", ""), whole_number(os.environ, "MASTER_PORT", 0)
    if not host or not 0 < port < 1 << 16:
        raise UserError(
            f"process {place.rank} of {place.size} cannot look for the others at MASTER_ADDR={host!r}, "
            f"MASTER_PORT={port}: start all processes by torchrun or srun, or set both (ports are 1 to 65535)"
        )
    return host, port

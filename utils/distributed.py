"""The processes of a run: torchrun's, torch.distributed.launch's or SLURM's environment, or one alone.

CPU processes talk over gloo, GPU processes over NCCL, one device each; control messages always over gloo, so that none
of them makes a GPU wait.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from full_spike.utils.cluster import slurm
from full_spike.utils.cluster.agent import end_with_agent
from full_spike.utils.cluster.environment import read_place
from full_spike.utils.cluster.rendezvous import meet
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.runtime.threads import share_cores
from torch import Tensor

_FAILED, _DONE, _WORKING = range(3)  # what the main process tells the others of its work
_MESSAGE = 1 << 26  # bytes sent at once
_LONGEST = 1e6  # seconds; torch's clocks overflow far above


@dataclass(frozen=True)
class World:
    """This process among all processes of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: Any = None  # a gloo group; None in a run of one process

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes; `values` stays as it is."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> list[Tensor]:
        """A CPU tensor of every process, by rank; all have one shape and dtype."""
        if self.size == 1:
            return [values]
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(gathered, values, group=self.control)
        return gathered

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(group=self.control)

    def share_buffers(self, module: torch.nn.Module) -> None:
        """Give every process the main one's buffers: between training steps batch norm's statistics differ."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def share(self, content: bytes) -> bytes:
        """The main process's bytes, in every process; what the others pass in does not matter."""
        if self.size == 1:
            return content
        length = torch.tensor([len(content)])
        dist.broadcast(length, src=0, group=self.control)
        shared = torch.empty(int(length), dtype=torch.uint8)
        if self.is_main:
            shared.numpy()[:] = memoryview(content)
        for part in shared.split(_MESSAGE):
            dist.broadcast(part, src=0, group=self.control)
        return content if self.is_main else shared.numpy().tobytes()

    @contextlib.contextmanager
    def main_only(self, what: str) -> Iterator[bool]:
        """A block whose work the main process alone does; if that fails, every process stops, not just the main one.

        Yields whether this process is the main one. Work that may outlast the others' patience calls `keep_alive`.
        """
        failure: BaseException | None = None
        try:
            yield self.is_main
        except (OSError, UserError) as error:
            failure = error
        if self.size > 1:
            outcome = self._tell(_FAILED if failure else _DONE)
            while outcome == _WORKING and not self.is_main:
                outcome = self._tell(_DONE)
            if outcome == _FAILED and failure is None:
                time.sleep(2.0)  # torchrun ends all processes with the first one: the main one says its error before
                raise UserError(f"{what} failed in the main process: its error says why")
        if failure is not None:
            raise failure

    def keep_alive(self) -> None:
        """From the main process inside `main_only`: makes the others wait on, however long it has been."""
        if self.size > 1:
            self._tell(_WORKING)

    def _tell(self, outcome: int) -> int:
        """The main process's outcome, to all."""
        told = torch.tensor([outcome])
        dist.broadcast(told, src=0, group=self.control)
        return int(told.item())


class Consensus:
    """What any process requests, known to all of them one call later, without waiting for each other.

    Scheduler signals reach processes at different steps; all must stop at the same one.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._request = torch.zeros(1, dtype=torch.int64)
        self._pending: dist.Work | None = None

    def exchange(self, request: int) -> int:
        """Announce a request (0: none) and get the largest that was announced at the previous call."""
        if self.world.size == 1:
            return request
        agreed = self.settle()
        self._request[0] = request
        self._pending = dist.all_reduce(self._request, dist.ReduceOp.MAX, group=self.world.control, async_op=True)
        return agreed

    def settle(self) -> int:
        """The largest request of the last exchange; nothing is under way afterwards."""
        if self._pending is None:
            return 0
        self._pending.wait()
        self._pending = None
        return int(self._request.item())


def named_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        UsageError: it is neither the CPU nor a CUDA device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name} is unknown: use cuda or cpu") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index not in (None, 0)):
        raise UsageError(f"--device {name} cannot be used: use cuda, cuda:N or cpu")
    return device


def _pick_device(name: str, local_rank: int) -> torch.device:
    device = named_device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"--device {name}: this machine has no CUDA device; use --device cpu")
        if device.index is None:
            count = torch.cuda.device_count()
            if count == 1 and slurm.in_step(os.environ):
                local_rank = 0  # srun --gpus-per-task=1 shows each task its own GPU alone
            if local_rank >= count:
                raise UsageError(
                    f"process {local_rank} of this machine has no GPU of its own ({count} found): "
                    f"start at most {count} processes a machine"
                )
            device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return device


def start(device: str, *, world_size: int = 1, dist_url: str = "env://", timeout: float = 600.0) -> World:
    """Join the run that the environment describes.

    Args:
        device: "cuda" (each process takes the GPU of its local rank), "cuda:1" or "cpu".
        world_size: the number of processes that the user asked for; only checked, the launcher's number counts.
        dist_url: where the processes meet; "env://" is MASTER_ADDR and MASTER_PORT.
        timeout: seconds to wait for the others, here and in every exchange.

    Raises:
        UsageError: no such device.
        UserError: the processes did not meet.
    """
    end_with_agent()
    place = read_place()
    if not 0.0 < timeout <= _LONGEST:
        raise UsageError(
            f"--dist-timeout {timeout:g} is no time to wait: choose seconds above 0 and up to {_LONGEST:g}"
        )
    if world_size > 1 and place.size == 1:
        raise UsageError(
            f"--world-size {world_size}, but this is a single process: "
            f"start with torchrun --nproc-per-node={world_size}, which sets the size itself"
        )
    picked = _pick_device(device, place.local_rank)
    if place.size == 1:
        return World(device=picked)
    share_cores()
    limit = timedelta(seconds=timeout)
    try:
        dist.init_process_group(
            "nccl" if picked.type == "cuda" else "gloo",
            store=meet(dist_url, place, limit),
            rank=place.rank,
            world_size=place.size,
            timeout=limit,
            device_id=picked if picked.type == "cuda" else None,
        )
        control = dist.new_group(backend="gloo", timeout=limit)
    except (RuntimeError, ValueError, OSError) as error:  # torch's errors of stores, backends and addresses are these
        where = dist_url
        if dist_url == "env://":
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"process {place.rank} of {place.size} could not meet the others at {where} within {timeout:g} s "
            f"({reason}): check MASTER_ADDR, MASTER_PORT and that all processes started"
        ) from None
    return World(place.rank, place.size, place.local_rank, picked, control)


def stop(world: World) -> None:
    """Leave the run."""
    if world.size > 1:
        dist.destroy_process_group()


@contextlib.contextmanager
def explain_lost_peers(world: World) -> Iterator[None]:
    """Turn the backend's error about a process that is gone into one line; its own error is the one that matters."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        lost = isinstance(error, dist.DistBackendError) or "gloo" in text or "closed by peer" in text
        if world.size == 1 or not lost:
            raise
        raise UserError(f"process {world.rank} lost contact with another process: that one's error says why") from None

"""The processes of a run: torchrun's, torch.distributed.launch's or SLURM's environment, or one alone.

CPU processes talk over gloo, GPU processes over NCCL, one device each; control messages always over gloo, so that none
of them makes a GPU wait.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from full_spike.utils.errors import UsageError, UserError, end_with_parent

X = TypeVar("X")


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: Any = None  # a gloo group of all processes; None in a single one

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

    def share(self, value: X) -> X:
        """The main process's value, in every process; what the others pass in does not matter."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the main one's buffers: between training steps batch norm's statistics differ."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    @contextlib.contextmanager
    def main_only(self, what: str) -> Iterator[bool]:
        """A block whose work the main process alone does; if that fails, every process stops, not just the main one.

        Yields whether this process is the main one.
        """
        failure: BaseException | None = None
        try:
            yield self.is_main
        except (OSError, UserError) as error:
            failure = error
        failed = self.share(failure is not None)
        if failure is not None:
            raise failure
        if failed:
            time.sleep(2.0)  # torchrun ends all processes with the first one: the main one says its error before
            raise UserError(f"{what} failed in the main process: its error says why")


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


class _WithEmptyStep(nn.Module):
    """A network that can also return a zero to which every parameter contributes, with a gradient of zero."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor, empty: bool = False) -> Any:
        if not empty:
            return self.network(*inputs)
        # the backward pass goes through the terms from the last one to the first, as it does through the layers
        return sum((parameter * 0.0).sum() for parameter in self.network.parameters() if parameter.requires_grad)


def data_parallel(network: Any, world: World) -> DistributedDataParallel:
    """The network, all processes having the main one's weights, and the backward pass the mean of all gradients.

    DistributedDataParallel sends gradients in buckets: in its first step in the order of the parameters, from the
    second one on in the order in which the first backward pass had them ready. The place in a bucket decides in which
    order those of more than two processes are added, and so how the sum is rounded; a resumed run, whose first step is
    another one, would end with other bits. So an empty step comes before all others.
    """
    devices = [world.device] if world.device.type == "cuda" else None
    wrapped = DistributedDataParallel(_WithEmptyStep(network), device_ids=devices)
    with torch.enable_grad():
        wrapped(empty=True).backward()
    for parameter in network.parameters():
        parameter.grad = None
    return wrapped


def _whole_number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{name}={text!r} in the environment is no whole number: unset it, or leave it to the launcher")
    return int(text)


def in_slurm_step(env: Mapping[str, str]) -> bool:
    """Whether `srun` started this process: a batch script has SLURM_NTASKS too and is one process alone."""
    return "SLURM_PROCID" in env and ("SLURM_STEP_ID" in env or "SLURM_STEPID" in env)


def slurm_variables(env: Mapping[str, str]) -> dict[str, str]:
    """torch.distributed's variables of a task that `srun` started; empty if the step has no other task.

    Raises:
        UserError: a variable is no number, or the first machine's name cannot be found.
    """
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"  # the latter may be the job's
    if _whole_number(env, tasks, 1) == 1:
        return {}
    # the tasks of a step agree on a port without talking; those of another step, or another job, take another one.
    # Below the ports that Linux gives to outgoing connections (from 32768 on)
    job, step = _whole_number(env, "SLURM_JOB_ID", 0), _whole_number(env, "SLURM_STEP_ID", 0)
    return {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": env[tasks],
        "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": env.get("MASTER_ADDR") or _first_node(env),
        "MASTER_PORT": env.get("MASTER_PORT") or str(15000 + (31 * job + step) % 15000),
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


def named_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        UsageError: it is neither the CPU nor a CUDA device that is there.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} is not available ({str(error).splitlines()[0]}): use cuda or cpu") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name} cannot be used: use cuda, cuda:N or cpu")
    return device


def _pick_device(name: str, local_rank: int) -> torch.device:
    device = named_device(name)
    if device.type == "cuda":
        if device.index is None:
            count = torch.cuda.device_count()
            if count == 1 and in_slurm_step(os.environ):
                local_rank = 0  # srun --gpus-per-task=1 shows each task its own GPU alone
            if local_rank >= count:
                raise UsageError(
                    f"process {local_rank} of this machine has no GPU of its own ({count} found): "
                    f"start at most {count} processes a machine"
                )
            device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return device


def cores_of_each(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPU cores of each process of this machine: of those that they may use, by their container's quota as well."""
    count = float(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError):  # there is no cpu.max without cgroups, version 2
        own = cgroups / Path("/proc/self/cgroup").read_text().rpartition("::/")[2].strip()
        for limit in (folder / "cpu.max" for folder in (own, *own.parents)):
            quota, _, period = limit.read_text().partition(" ") if limit.exists() else ("max", "", "")
            count = count if quota.strip() == "max" else min(count, int(quota) / int(period))
    return max(1, int(count) // _whole_number(os.environ, "LOCAL_WORLD_SIZE", 1))


def start(device: str, *, world_size: int = 1, dist_url: str = "env://", timeout: float = 600.0) -> World:
    """Join the run that the environment describes.

    Args:
        device: "cuda" (each process takes the GPU of its local rank), "cuda:1" or "cpu".
        world_size: the number of processes that the user asked for; only checked, the launcher's number counts.
        dist_url: where the processes meet; "env://" is MASTER_ADDR and MASTER_PORT.
        timeout: seconds to wait for the others, here and in every step.

    Raises:
        UsageError: no such device.
        UserError: the processes did not meet.
    """
    env = os.environ
    if dist.is_torchelastic_launched():
        end_with_parent()
    if "RANK" not in env and in_slurm_step(env):
        env.update(slurm_variables(env))
    rank, size = _whole_number(env, "RANK", 0), _whole_number(env, "WORLD_SIZE", 1)
    local_rank = _whole_number(env, "LOCAL_RANK", 0)
    if rank >= size:
        raise UserError(f"RANK={rank} is not below WORLD_SIZE={size}: let torchrun or srun set both, or unset them")
    if world_size > 1 and size == 1:
        raise UsageError(
            f"--world-size {world_size}, but this is a single process: "
            f"start with torchrun --nproc-per-node={world_size}, which sets the size itself"
        )
    picked = _pick_device(device, local_rank)
    if size == 1:
        return World(device=picked)
    local_size = _whole_number(env, "LOCAL_WORLD_SIZE", 1)
    if local_size > 1 and env.get("OMP_NUM_THREADS", "1") == "1":  # 1 is what torchrun sets where nobody did
        torch.set_num_threads(cores_of_each())
    limit = timedelta(seconds=timeout)
    try:
        store = _store_of_attempt(limit) if dist_url == "env://" else None
        dist.init_process_group(
            "nccl" if picked.type == "cuda" else "gloo",
            init_method=None if store else dist_url,
            store=store,
            rank=rank,
            world_size=size,
            timeout=limit,
            device_id=picked if picked.type == "cuda" else None,
        )
        # work of the main process alone, such as preparing data, may take hours; one that dies is noticed all the same
        control = dist.new_group(backend="gloo", timeout=timedelta(days=2))
    except (RuntimeError, ValueError, OSError) as error:  # torch's errors of stores, backends and addresses are these
        where = f"{env.get('MASTER_ADDR')}:{env.get('MASTER_PORT')}" if dist_url == "env://" else dist_url
        raise UserError(
            f"process {rank} of {size} could not meet the others at {where} within {timeout:g} s "
            f"({str(error).strip().splitlines()[0]}): check MASTER_ADDR, MASTER_PORT and that all processes started"
        ) from None
    return World(rank, size, local_rank, picked, control)


def _store_of_attempt(limit: timedelta) -> dist.Store | None:
    """Where the workers of torchrun's agent meet; None where torch's own store will do.

    The agent's store outlives its workers, so after a restart it still has the addresses of dead ones (torch 2.14 adds
    no prefix for the attempt). Agents of several machines count restarts apart: they need stores of their own, by
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, see docs/TRAINING.md.
    """
    env = os.environ
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    store = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False, timeout=limit)
    return dist.PrefixStore(f"attempt {env.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


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

"""Kill jobs at random moments, and count the bits in which they end differently from a run that nothing disturbed.

    python -m benchmarks.faults --kills 100 --writes 20 --folder faults

Real jobs of torchrun on this machine's CPU: one agent with one process, one with two, and two agents (as on two
machines) with two processes each. SIGKILL hits any agent or worker, at any moment from its start on, or the main worker
while it writes a checkpoint. Workers are restarted by torchrun, agents by this program, as a cluster would. Finished
jobs are kept in the folder: the same command goes on where it was interrupted.
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import platform
import random
import select
import shutil
import signal
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.jobs import OWN_STORES, Jobs, children, wait_for
from full_spike.utils import checkpoint

TRAIN = (
    "cifar.train --dataset digits --width 4 --T 2 --image-size 8 -j 1 --device cpu --epochs 4 --cos_lr_T 4 "
    "--ema-decay 0.9 --checkpoint-every 1 --print-freq 5 --resume auto"
).split()
SETTINGS = ((1, 1), (1, 2), (2, 2))  # agents, processes of each
KILLS_A_JOB = 8  # then it may come through, and is compared
PARTS = ("weights", "optimizer", "averaged weights", "metrics", "rest")


@dataclass
class Job:
    """What happened to a job, and how it ended: differing bits by part."""

    agents: int
    processes: int
    agents_killed: int = 0
    workers_killed: int = 0
    in_writes: int = 0
    gave_up: int = 0  # agents that ended by themselves, for torchrun's reasons
    left_over: int = 0  # workers and loading processes that were there a minute after the job's end
    differing: dict[str, int] = field(default_factory=dict)


class Runner:
    """One job, from its start until it is through.

    Args:
        record: of the job; what happens is noted in it.
        folder: for its output folder and what its processes print.
    """

    def __init__(self, record: Job, folder: Path) -> None:
        self.record = record
        self.out = folder / "out"
        self.jobs = Jobs(folder)
        batch = 32 // (record.agents * record.processes)
        self.command = (*TRAIN, "-b", batch, "--output-dir", self.out)
        self.agents = self._start()

    def _start(self):
        if self.record.agents == 1:
            return [self.jobs.standalone(*self.command, processes=self.record.processes, restarts=1000)]
        return self.jobs.agents(
            self.record.agents, *self.command, per_agent=self.record.processes, env=OWN_STORES, restarts=1000
        )

    def _replace(self, index: int) -> None:
        self.agents[index] = self._start()[0] if self.record.agents == 1 else self.jobs.another_agent()

    def through(self) -> bool:
        """Whether the run is done; an agent that ended otherwise is started again."""
        if any("done in" in self.jobs.printed(agent) for agent in self.jobs.started):
            return True
        for index, agent in enumerate(self.agents):
            if agent.poll() is not None and agent.returncode > 0:
                self.record.gave_up += 1
                self._replace(index)
        return False

    def kill_anything(self, chance: random.Random, moment: float) -> None:
        """SIGKILL to an agent or a worker, `moment` seconds from now."""
        end = time.monotonic() + moment
        while time.monotonic() < end:
            if self.through():
                return
            time.sleep(0.05)
        workers = [worker for agent in self.agents for worker in children(agent.pid)]
        target = chance.choice([*range(len(self.agents)), *workers])
        if target in workers:
            os.kill(target, signal.SIGKILL)
            self.record.workers_killed += 1
            return
        self.agents[target].kill()
        self.agents[target].wait()
        self.record.agents_killed += 1
        self._replace(target)  # at once, beside workers that may not have noticed yet

    def kill_in_write(self, chance: random.Random) -> None:
        """SIGKILL to the main worker soon after it began to write a checkpoint; counted if it left a partial file."""
        folder = next(self.out.glob("*/"), None)
        if folder is None or self.through():
            time.sleep(0.05)
            return
        partial = f"{checkpoint.LATEST}.partial"
        if not created(folder, partial, timeout=1.0):
            return
        time.sleep(chance.uniform(0.0, 0.01))
        for worker in [worker for agent in self.agents for worker in children(agent.pid)]:
            if b"RANK=0" in Path(f"/proc/{worker}/environ").read_bytes().split(b"\0"):
                os.kill(worker, signal.SIGKILL)
                wait_for(lambda pid=worker: not running(pid), "the worker's end")
                self.record.in_writes += (folder / partial).exists()

    def finish(self) -> None:
        """Wait until the run is through and its processes are gone."""
        wait_for(self.through, f"a job of {self.record.agents} x {self.record.processes}", limit=600)
        self.record.left_over = len(surviving(self._workers_and_below))

    def close(self) -> None:
        """End what is left, also an agent whose peer was killed at the very end, for which it waits some minutes."""
        self.jobs.close()

    def _workers_and_below(self) -> list[int]:
        agents = {agent.pid for agent in self.jobs.started}
        return [pid for pid in self.jobs.living() if pid not in agents]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def surviving(living, seconds: float = 60.0):
    """What living() still lists after some time, or nothing as soon as it lists nothing."""
    end = time.monotonic() + seconds
    while (found := living()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def created(folder: Path, name: str, timeout: float) -> bool:
    """Wait until a file of this name is created in the folder (inotify), or some seconds."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init()
    try:
        libc.inotify_add_watch(watch, os.fsencode(folder), 0x100)  # IN_CREATE
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            if select.select([watch], [], [], left)[0] and os.fsencode(name) + b"\0" in os.read(watch, 65536):
                return True
        return False
    finally:
        os.close(watch)


def differing_bits(ours, theirs) -> int:
    """In how many bits two values differ; 64 for each that only one has, or that is of another kind."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor) and ours.shape == theirs.shape:
        a, b = (np.frombuffer(t.contiguous().reshape(-1).view(torch.uint8).numpy(), np.uint8) for t in (ours, theirs))
        return int(np.bitwise_count(a ^ b).sum()) if len(a) == len(b) else 8 * max(len(a), len(b))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return sum(differing_bits(ours.get(name), theirs.get(name)) for name in {**ours, **theirs})
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return sum(differing_bits(*pair) for pair in itertools.zip_longest(ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        a, b = (int.from_bytes(struct.pack("d", value)) for value in (ours, theirs))
        return (a ^ b).bit_count()
    return 0 if type(ours) is type(theirs) and ours == theirs else 64


def outcome(out: Path) -> dict:
    """What a run ended with, by part."""
    (folder,) = out.glob("*/")
    state = checkpoint.read(folder / checkpoint.LATEST)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for entry in metrics:
        del entry["images_per_second"]
    rest = ("epoch", "step", "max_test_acc1", "test_acc5_at_max_test_acc1", "lr_scheduler", "meter", "random_states")
    found = {"weights": state["model"], "optimizer": state["optimizer"], "averaged weights": state["ema"]}
    return {**found, "metrics": metrics, "rest": {name: state[name] for name in rest}}


def quiet_run(folder: Path, agents: int, processes: int) -> tuple[dict, float]:
    """What a run that nothing disturbs ends with, and how many seconds it takes."""
    took = folder / "seconds"
    if not took.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        began = time.monotonic()
        with contextlib.closing(Runner(Job(agents, processes), folder)) as runner:
            runner.finish()
        took.write_text(str(time.monotonic() - began))
    return outcome(folder / "out"), float(took.read_text())


def disturbed_run(folder: Path, record: Job, kills: int, writes: int, seed: str, seconds: float, expected) -> None:
    """A run that is killed so often, and compared with what was expected of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    chance = random.Random(seed)
    with contextlib.closing(Runner(record, folder)) as runner:
        while not runner.through():
            killed = record.agents_killed + record.workers_killed
            left = {"kills": kills - killed, "writes": writes - record.in_writes}
            if left["kills"] <= 0 and left["writes"] <= 0:
                break
            if chance.random() * sum(max(n, 0) for n in left.values()) < left["writes"]:
                runner.kill_in_write(chance)
            else:
                runner.kill_anything(chance, chance.uniform(0.0, seconds))
        runner.finish()
    found = outcome(runner.out)
    record.differing = {part: differing_bits(found[part], expected[part]) for part in PARTS}


def table(jobs: list[Job]) -> str:
    """A row for each setting, in Markdown."""
    columns = (
        "agents x processes", "jobs", "agents killed", "workers killed", "killed in writes",
        *(f"differing bits: {part}" for part in PARTS), "left over", "agents that gave up",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for agents, processes in SETTINGS:
        mine = [job for job in jobs if (job.agents, job.processes) == (agents, processes)]
        counts = [sum(getattr(j, name) for j in mine) for name in ("agents_killed", "workers_killed", "in_writes")]
        bits = [sum(job.differing[part] for job in mine) for part in PARTS]
        ends = [sum(getattr(job, name) for job in mine) for name in ("left_over", "gave_up")]
        lines.append(f"| {agents} x {processes} | {' | '.join(map(str, [len(mine), *counts, *bits, *ends]))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="at random moments")
    parser.add_argument("--writes", type=int, default=20, help="inside checkpoint writes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("faults"), help="where it works and keeps finished jobs")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so end what was started
    args.folder.mkdir(parents=True, exist_ok=True)
    results = args.folder / f"jobs_seed{args.seed}.json"
    jobs = [Job(**entry) for entry in json.loads(results.read_text())] if results.exists() else []
    for index, setting in enumerate(SETTINGS):
        expected, seconds = quiet_run(args.folder / "quiet_{}x{}".format(*setting), *setting)
        shares = [(count + len(SETTINGS) - 1 - index) // len(SETTINGS) for count in (args.kills, args.writes)]
        while True:
            mine = [job for job in jobs if (job.agents, job.processes) == setting]
            kills = shares[0] - sum(job.agents_killed + job.workers_killed for job in mine)
            writes = shares[1] - sum(job.in_writes for job in mine)
            if kills <= 0 and writes <= 0:
                break
            record, began = Job(*setting), time.monotonic()
            seed = f"{args.seed} {setting} {len(mine)}"
            wanted = min(max(kills, 0), KILLS_A_JOB), min(max(writes, 0), KILLS_A_JOB)
            disturbed_run(args.folder / "job", record, *wanted, seed, seconds, expected)
            jobs.append(record)
            results.write_text(json.dumps([asdict(job) for job in jobs], indent=1))
            print(f"{time.monotonic() - began:.0f} s: {asdict(record)}", flush=True)
    print(f"\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores\n")
    print(table(jobs))


if __name__ == "__main__":
    main()

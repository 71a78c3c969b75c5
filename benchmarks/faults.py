"""Kill training runs at random moments; they must end bit for bit as a run that nothing disturbed.

    python -m benchmarks.faults --kills 20

Small runs on the CPU in three modes: one process; two workers under torchrun, where SIGKILL hits a worker or the agent;
and two torchrun agents of one worker each, as on two machines. torchrun restarts workers; this program, as a cluster
would, restarts agents. A run that was killed eight times may come through; then the next one begins.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from full_spike.utils import checkpoint

TRAIN = (
    "cifar.train --dataset digits --width 4 --T 2 --image-size 8 -j 1 --device cpu --epochs 3 --cos_lr_T 3 "
    "--ema-decay 0.9 --checkpoint-every 1 --resume auto"
).split()
MODES = {
    "one process": (1, 0),
    "one agent, two workers": (1, 2),
    "two agents, one worker each": (2, 1),
}  # agents, workers
KILLS_A_RUN = 8
LIMIT = 600.0  # seconds from the last kill to the end of a run
MARK = "FULL_SPIKE_FAULTS"  # in the environment of everything that is started here
ROOT = Path(__file__).parent.parent


class Run:
    """One training run: its agents (or the one process), whatever became of them, until it is through."""

    def __init__(self, folder: Path, agents: int, workers: int) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.started: list[subprocess.Popen] = []
        # a store outside of the agents, so that either of them can be lost
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if agents > 1 else None
        meeting = ["--standalone"]
        if self.store is not None:
            meeting = [f"--nnodes={agents}", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.store.port}"]
            meeting += [f"--rdzv-id={self.mark}", "--local-addr=127.0.0.1"]
            # an agent that sends no sign of life for 12 s counts as lost
            meeting += ["--rdzv-conf=is_host=0,keep_alive_interval=2,keep_alive_max_attempt=6"]
        torchrun = ["torch.distributed.run", *meeting, f"--nproc-per-node={workers}", "--max-restarts=1000", "-m"]
        batch = 64 // max(1, agents * workers)
        self.command = [*(torchrun if workers else []), *TRAIN, "-b", str(batch), "--output-dir", str(folder / "out")]
        self.agents = [self._start() for _ in range(agents)]

    def _start(self) -> subprocess.Popen:
        # TORCH_DISABLE...: else a new agent cannot take the place of a lost one, see scripts/train_imagenet_nodes.sh
        env = {
            MARK: self.mark,
            "OMP_NUM_THREADS": "1",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": str(int(bool(self.store))),
        }
        with open(self.folder / f"output{len(self.started)}.txt", "w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *self.command], cwd=ROOT, env={**os.environ, **env},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    @property
    def restarts(self) -> int:
        return len(self.started) - len(self.agents)

    def through(self) -> bool:
        """Whether it has trained to its end; an agent that gave up is started again."""
        if any("done in" in path.read_text() for path in self.folder.glob("output*.txt")):
            return True
        for index, agent in enumerate(self.agents):
            if agent.poll() is not None:
                self.agents[index] = self._start()
        return False

    def wait(self, condition: Callable[[], bool] = lambda: False, seconds: float = LIMIT) -> bool:
        """Wait for a condition, or so long; whether the run came through meanwhile."""
        end = time.monotonic() + seconds
        while not (through := self.through()) and not condition() and time.monotonic() < end:
            time.sleep(0.02)
        return through

    def newest(self) -> int:
        """What changes with each checkpoint; 0 before the first."""
        return next((path.stat().st_mtime_ns for path in self.folder.glob(f"out/*/{checkpoint.LATEST}")), 0)

    def wait_to_kill(self, chance: random.Random, starting: float) -> bool:
        """Wait for a moment while it starts, or after some more steps; whether the run came through meanwhile."""
        if chance.random() < 0.3:
            return self.wait(seconds=chance.uniform(0, starting))
        for _ in range(chance.randint(1, 6)):
            before = self.newest()
            if self.wait(lambda before=before: self.newest() != before):  # type: ignore[misc]
                return True
        return self.wait(seconds=chance.uniform(0, 0.2))

    def kill(self, chance: random.Random) -> None:
        """SIGKILL to a worker or an agent, which is started again at once, beside workers that may not know yet."""
        workers = [pid for agent in self.agents for pid in children(agent.pid)] if "torch" in self.command[0] else []
        target = chance.choice([*workers, *range(len(self.agents))])
        if target in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)
        else:
            self.agents[target].kill()
            self.agents[target].wait()
            self.agents[target] = self._start()

    def left_over(self) -> int:
        """Processes that outlive the run: agents have two minutes to end, as one whose peer was killed at the very end
        waits for another, and what they started has half a minute more."""
        end = time.monotonic() + 120
        for agent in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(max(0.0, end - time.monotonic()))
            agent.kill()
            agent.wait()
        end = time.monotonic() + 30
        while (left := list(marked(self.mark))) and time.monotonic() < end:
            time.sleep(0.1)
        return len(left)

    def close(self) -> None:
        """End everything that was started."""
        for pid in marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait(60)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def marked(mark: str) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                yield int(entry.name)


def differing_bits(ours: Any, theirs: Any) -> int:
    """In how many bits two checkpoints differ; 64 for each value but tensors that is another one."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return sum(differing_bits(ours.get(name), theirs.get(name)) for name in {**ours, **theirs})
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        return sum(differing_bits(*pair) for pair in zip(ours, theirs, strict=True))
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return 64 * max(ours.numel(), theirs.numel())
        a, b = (x.contiguous().reshape(-1).view(torch.uint8).to(torch.int64) for x in (ours, theirs))
        return int(sum((((a ^ b) >> bit) & 1).sum() for bit in range(8)))
    return 0 if type(ours) is type(theirs) and ours == theirs else 64


def campaign(mode: str, kills: int, chance: random.Random) -> str:
    """A row of the table: what became of the runs of one mode, the first of which is not disturbed."""
    began, killed, restarts, bits, left, runs = time.monotonic(), 0, 0, 0, 0, 0
    expected, starting = None, 0.0
    while expected is None or killed < kills:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            run, target = Run(Path(name), *MODES[mode]), min(kills, killed + KILLS_A_RUN)
            try:
                if expected is None:
                    run.wait(lambda run=run: run.newest() > 0)
                    starting = time.monotonic() - began
                while expected is not None and killed < target and not run.wait_to_kill(chance, starting):
                    run.kill(chance)
                    killed += 1
                if not run.wait():
                    last = run.folder / f"output{len(run.started) - 1}.txt"
                    sys.exit(f"{mode}: not through {LIMIT:.0f} s after its last kill\n{last.read_text()[-2000:]}")
                left += run.left_over()
                restarts, runs = restarts + run.restarts, runs + 1
                (path,) = run.folder.glob(f"out/*/{checkpoint.LATEST}")
                found = checkpoint.read(path)
            finally:
                run.close()
            bits += differing_bits(found, expected) if expected else 0
            expected = expected or found
    seconds = time.monotonic() - began
    return f"{mode:29}{runs - 1:6}{killed:7}{restarts:10}{bits:16}{left:17}{seconds:9.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="in each mode (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims (default: 0)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so end what was started
    print(f"{'':29}{'runs':>6}{'kills':>7}{'restarts':>10}{'bits different':>16}{'processes left':>17}{'seconds':>9}")
    for mode in args.modes:
        print(campaign(mode, args.kills, random.Random(f"{args.seed} {mode}")), flush=True)


if __name__ == "__main__":
    main()

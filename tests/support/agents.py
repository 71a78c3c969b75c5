"""Real jobs of several processes, started by torchrun as on one or more machines, to be killed and looked after."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import torch.distributed as dist

ROOT = Path(__file__).parent.parent.parent
# Agents send a sign of life every 2 s and take each other for dead after 12 s: a busy machine delays some of them.
RENDEZVOUS = "is_host=0,keep_alive_interval=2,keep_alive_max_attempt=6"
OWN_STORES = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # as scripts/train_imagenet_nodes.sh sets it
_MARK = "FULL_SPIKE_JOB"


def wait_for(condition, what, limit=180):
    """The first true value of condition(), asked for again and again."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {limit} s"
        time.sleep(0.02)
    return value


def children(pid):
    """Process ids of a process's children, none if it has ended."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


class Jobs:
    """Starts commands whose processes, and all that these start, can be found again by a mark in their environment."""

    def __init__(self, folder):
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.started = []
        self._stores = []

    def start(self, *command, env=None, cwd=ROOT):
        """A process of its own session; what it prints is appended to `printed(process)`."""
        with open(self.folder / f"output{len(self.started)}.txt", "w") as output:
            process = subprocess.Popen(
                [str(part) for part in command], cwd=cwd, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", _MARK: self.mark, **(env or {})},
            )  # fmt: skip
        self.started.append(process)
        return process

    def printed(self, process):
        return (self.folder / f"output{self.started.index(process)}.txt").read_text()

    def agents(self, count, *command, per_agent=1, env=None, restarts=3):
        """torchrun's agents, as on `count` machines that meet in a store which none of them holds."""
        self._stores.append(dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        self.torchrun = (
            sys.executable, "-m", "torch.distributed.run", f"--nnodes={count}", f"--nproc-per-node={per_agent}",
            "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self._stores[-1].port}", f"--rdzv-id={self.mark}",
            f"--rdzv-conf={RENDEZVOUS}", "--local-addr=127.0.0.1", f"--max-restarts={restarts}", "-m", *command,
        )  # fmt: skip
        self.env = env
        return [self.start(*self.torchrun, env=env) for _ in range(count)]

    def another_agent(self):
        """One more agent of the last job, in the place of one that was lost."""
        return self.start(*self.torchrun, env=self.env)

    def standalone(self, *command, processes=2, restarts=3, env=None):
        return self.start(
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
            f"--max-restarts={restarts}", "-m", *command, env=env,
        )  # fmt: skip

    def succeed(self, *processes, limit=300):
        """What they printed; each must end well."""
        for process in processes:
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = f"still running after {limit} s"
            assert status == 0, f"{status}: {self.printed(process)}"
        return "".join(self.printed(process) for process in processes)

    def living(self):
        """Process ids of all that was started here and still runs."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                if f"{_MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def close(self):
        for pid in self.living():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait()
        self._stores.clear()

"""Runs what is left of a study, each run as a process of its own that goes on where it was stopped."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from full_spike.utils.errors import one_line
from full_spike.utils.log import METRICS, read_metrics

from studies.grid import AFTER, Planned

ROOT = Path(__file__).parent.parent
LATEST = "checkpoint_latest.pth"
STOPPED = (75, -signal.SIGTERM, -signal.SIGINT)  # a run that was asked to stop saves, and ends with 75


def trained(run: Planned, folder: Path) -> bool:
    """Whether a run has seen its last epoch."""
    if not (folder / METRICS).exists():
        return False
    entries = read_metrics(folder)
    return bool(entries) and entries[-1].get("epoch") == run.epochs - 1


def after_command(step: str, run: Planned, folder: Path, data: str | None) -> list[str]:
    """What does a step that comes after training, as arguments of python."""
    checkpoint = str(folder / LATEST)
    if step == "synops":
        again = ["--config", str(folder / "config.yaml"), "--resume", checkpoint]
        return ["-m", run.study.script, *again, "--test-only", "--synops", "--no-syops"]
    if step == "blocks":
        return ["-m", "studies.blocks", str(folder)]
    where = [] if data is None else ["--data", data]
    package = run.study.script.split(".")[0]
    bits = ["--bits", "4", "--finetune", "2"] if step == "integer4" else []
    export = ["-m", "utils.export", "--checkpoint", checkpoint, "--to", "integer", "--data-set", package]
    return [*export, *where, *bits, "--output", str(folder / step)]


class Runner:
    """Runs what is left, some at once.

    Args:
        runs: folder of the studies' runs; each is in <study>/<row>_seed<n>.
        data: folder of each data set that a study names.
        jobs: processes at once. Each has one thread, so results do not depend on it.
    """

    def __init__(self, runs: Path, data: dict[str, str], jobs: int = 1) -> None:
        self.runs, self.data, self.jobs = runs, data, jobs
        self.stopping = threading.Event()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def folder(self, run: Planned) -> Path:
        return self.runs / run.study.name / run.name

    def left(self, run: Planned) -> list[str]:
        """What is still to be done: "train", and what comes after."""
        folder = self.folder(run)
        steps = [] if trained(run, folder) else ["train"]
        return steps + [step for step in run.after if steps or not (folder / AFTER[step]).exists()]

    def _command(self, step: str, run: Planned) -> list[str]:
        folder = self.folder(run)
        data = None if run.study.data is None else self.data[run.study.data]
        if step != "train":
            return after_command(step, run, folder, data)
        where = ["--output-dir", str(folder.parent), "--name", run.name, "--resume", "auto"]
        return ["-m", run.study.script, *run.arguments(data), *where]

    def _call(self, arguments: Sequence[str], log: Path) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(log, "ab") as output, self._lock:
            if self.stopping.is_set():
                return STOPPED[0]
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=output, stderr=output
            )
            self._processes.add(process)
        status = process.wait()
        with self._lock:
            self._processes.discard(process)
        return status

    def do(self, run: Planned) -> str | None:
        """Train what is left of a run, then what comes after; returns what went wrong in one line, or None."""
        folder = self.folder(run)
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.parent / f"{run.name}.log"
        for step in self.left(run):
            if step in ("integer8", "integer4") and (folder / step).exists():
                shutil.rmtree(folder / step)  # half done, else it would not be left
            status = self._call(self._command(step, run), log)
            if self.stopping.is_set():
                return None
            if status in STOPPED:
                return f"{run.study.name}: {run.name} was stopped: the same command goes on where it was"
            if status:
                return f"{run.study.name}: {step} of {run.name} ended with status {status}: see {log}"
        return None

    def stop(self, *_: object) -> None:
        """Ask every process to save and end; nothing is started any more."""
        self.stopping.set()
        with self._lock:
            for process in self._processes:
                process.send_signal(signal.SIGTERM)

    def all(self, planned: Sequence[Planned]) -> Iterator[tuple[Planned, str | None]]:
        """Do what is left of each, and yield each with what went wrong, in the order in which they end."""
        waiting = [run for run in planned if self.left(run)]
        done: queue.SimpleQueue[tuple[Planned, str | None]] = queue.SimpleQueue()

        def attempt(run: Planned) -> None:
            try:
                problem = None if self.stopping.is_set() else self.do(run)
            except Exception as error:  # the disk is full, no process can be started: who waits must hear of it
                problem = f"{run.study.name}: {run.name}: {one_line(error)}"
            done.put((run, problem))

        with ThreadPoolExecutor(self.jobs) as pool:
            for run in waiting:
                pool.submit(attempt, run)
            for _ in waiting:
                yield done.get()

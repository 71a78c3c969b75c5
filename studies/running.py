"""Runs what is left of a study, each run as a process that resumes where it was stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from full_spike.utils.errors import one_line
from studies.grid import AFTER, Run

ROOT = Path(__file__).parent.parent
INTEGERS = {"integer8": [], "integer4": ["--bits", "4", "--finetune", "2"]}


class Runner:
    """Runs what is left, `jobs` processes at once, one thread each.

    Args:
        runs: folder of all studies' runs.
        data: folders of the data sets that studies name.
    """

    def __init__(self, runs: Path, data: dict[str, str], jobs: int = 1) -> None:
        self.runs, self.data, self.jobs = runs, data, jobs
        self.stopping = threading.Event()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def left(self, run: Run) -> list[str]:
        """The steps still to do: "train", and what comes after."""
        if not run.trained(self.runs):
            return ["train", *run.after]
        return [step for step in run.after if not (run.folder(self.runs) / AFTER[step]).exists()]

    def command(self, step: str, run: Run) -> list[str]:
        """A step as arguments of python."""
        folder, data = run.folder(self.runs), self.data.get(run.study.data or "")
        if step == "blocks":
            return ["-m", "studies.blocks", str(folder)]
        if step in INTEGERS:
            export = ["-m", "full_spike.utils.export", "--to", "integer", *(["--data", data] if data else [])]
            checkpoint = str(folder / "checkpoint_latest.pth")
            return [*export, "--checkpoint", checkpoint, *INTEGERS[step], "--output", str(folder / step)]
        where = ["--output-dir", str(folder.parent), "--name", run.name, "--resume", "auto"]
        count = ["--test-only", "--synops", "--no-syops"] if step == "synops" else []
        return ["-m", run.study.script, *run.arguments(data), *where, *count]

    def _do(self, run: Run) -> str | None:
        """Do what is left of a run; the problem in one line, or None."""
        folder = run.folder(self.runs)
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_name(f"{run.name}.log")
        for step in self.left(run):
            if step in INTEGERS:
                shutil.rmtree(folder / step, ignore_errors=True)  # half done, else it would not be left
            command, environment = [sys.executable, *self.command(step, run)], {**os.environ, "OMP_NUM_THREADS": "1"}
            with open(log, "ab") as output:
                with self._lock:
                    if self.stopping.is_set():
                        return None
                    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
                    self._processes.add(process)
                status = process.wait()
            self._processes.discard(process)
            if status and not self.stopping.is_set():
                return f"{run.study.name}: {step} of {run.name} ended with status {status}: see {log}"
        return None

    def stop(self, *_: object) -> None:
        """Start nothing more, and ask every process to save and end."""
        with self._lock:
            self.stopping.set()
            for process in list(self._processes):
                process.send_signal(signal.SIGTERM)

    def all(self, planned: Sequence[Run]) -> Iterator[tuple[Run, str | None]]:
        """Do what is left of each run; yields each as it ends, with its problem if there was one."""
        with ThreadPoolExecutor(self.jobs) as pool:
            jobs = {pool.submit(self._do, run): run for run in planned if self.left(run)}
            for job in as_completed(jobs):
                try:
                    yield jobs[job], job.result()
                except OSError as error:  # a full disk, say: the other runs go on
                    yield jobs[job], f"{jobs[job].study.name}: {jobs[job].name}: {one_line(error)}"

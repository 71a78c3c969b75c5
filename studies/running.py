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

from full_spike.utils.errors import StopRequestedError, one_line
from full_spike.utils.log import METRICS, read_metrics
from studies.grid import AFTER, Run

ROOT = Path(__file__).parent.parent
LATEST = "checkpoint_latest.pth"
INTEGERS = {"integer8": [], "integer4": ["--bits", "4", "--finetune", "2"]}


def trained(run: Run, folder: Path) -> bool:
    """Whether the last epoch is done."""
    entries = read_metrics(folder) if (folder / METRICS).exists() else []
    return bool(entries) and entries[-1]["epoch"] == run.options["epochs"] - 1


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

    def folder(self, run: Run) -> Path:
        return self.runs / run.study.name / run.name

    def left(self, run: Run) -> list[str]:
        """The steps still to do: "train", and what comes after."""
        folder = self.folder(run)
        if not trained(run, folder):
            return ["train", *run.after]
        return [step for step in run.after if not (folder / AFTER[step]).exists()]

    def command(self, step: str, run: Run) -> list[str]:
        """A step as arguments of python."""
        folder, data = self.folder(run), self.data.get(run.study.data or "")
        if step == "blocks":
            return ["-m", "studies.blocks", str(folder)]
        if step in INTEGERS:
            package = run.study.script.partition(".")[0]
            export = ["--checkpoint", str(folder / LATEST), "--data-set", package, *(["--data", data] if data else [])]
            return ["-m", "utils.export", "--to", "integer", *export, *INTEGERS[step], "--output", str(folder / step)]
        where = ["--output-dir", str(folder.parent), "--name", run.name, "--resume", "auto"]
        count = ["--test-only", "--synops", "--no-syops"] if step == "synops" else []
        return ["-m", run.study.script, *run.arguments(data), *where, *count]

    def _call(self, arguments: Sequence[str], log: Path) -> int:
        with open(log, "ab") as output, self._lock:
            if self.stopping.is_set():
                return StopRequestedError.exit_status
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, *arguments]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
            self._processes.add(process)
        status = process.wait()
        with self._lock:
            self._processes.discard(process)
        return status

    def _do(self, run: Run) -> str | None:
        """Do what is left of a run; the problem in one line, or None."""
        folder = self.folder(run)
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_name(f"{run.name}.log")
        for step in self.left(run):
            if step in INTEGERS:
                shutil.rmtree(folder / step, ignore_errors=True)  # half done, else it would not be left
            status = self._call(self.command(step, run), log)
            if self.stopping.is_set():
                return None
            if status:
                return f"{run.study.name}: {step} of {run.name} ended with status {status}: see {log}"
        return None

    def stop(self, *_: object) -> None:
        """Start nothing more, and ask every process to save and end."""
        self.stopping.set()
        with self._lock:
            for process in self._processes:
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

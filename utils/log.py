"""What a run says: lines or a progress bar on the terminal, metrics.jsonl, TensorBoard. From the main process alone."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from full_spike.utils.files import write_file

if TYPE_CHECKING:  # files are read without waiting for torch
    from full_spike.utils.distributed import World

METRICS = "metrics.jsonl"  # in a run's folder: a line of JSON for each epoch


class RunLog:
    """Tells people and files how a run goes.

    Args:
        world: the processes; only the main one writes.
        folder: the run's folder, or None to write no files.
    """

    def __init__(self, world: World, folder: Path | None = None) -> None:
        self.quiet = not world.is_main
        self.folder = folder
        self._writers: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """A line on standard output, above the progress bar if there is one."""
        if not self.quiet:
            from tqdm import tqdm  # here: files are read without it

            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def warn(self, text: str) -> None:
        """A line that says what is not as it should be, and no reason to stop."""
        self.say(f"warning: {text}")

    def open_tensorboard(self, first_epoch: int, options: str) -> None:
        """Write scalars to `<folder>_logs/train` and `<folder>_logs/te`, and the options beside them."""
        if self.quiet or self.folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # half a second to import, only needed here

        logs = self.folder.with_name(self.folder.name + "_logs")
        for split in ("train", "te"):
            self._writers[split] = SummaryWriter(str(logs / split), purge_step=first_epoch)
        write_file(logs / "args.txt", f"{options}\n".encode())

    def scalars(self, split: str, values: dict[str, float], epoch: int) -> None:
        """Scalars of an epoch for TensorBoard; split is "train" or "te"."""
        writer = self._writers.get(split)
        if writer is not None:
            for tag, value in values.items():
                writer.add_scalar(tag, value, epoch)
            writer.flush()

    def record(self, entry: dict[str, Any]) -> None:
        """A line of metrics.jsonl."""
        if not self.quiet and self.folder is not None:
            with open(self.folder / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def forget_from(self, epoch: int) -> None:
        """Drop the records of epochs that will be run again, and lines that are damaged or that a crash cut off."""
        if self.quiet or self.folder is None:
            return
        found = read_metrics(self.folder, self.warn) if (self.folder / METRICS).exists() else []
        kept = [entry for entry in found if entry["epoch"] < epoch]
        write_file(self.folder / METRICS, "".join(json.dumps(entry) + "\n" for entry in kept).encode())

    def progress(self, title: str, total: int, done: int = 0, unit: str = "batch") -> Progress:
        """Progress through `total` batches, or whatever the unit is, `done` of them before."""
        return Progress(self, title, total, done, unit)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class Progress:
    """A bar on a terminal; elsewhere a line at each `show`."""

    def __init__(self, log: RunLog, title: str, total: int, done: int, unit: str) -> None:
        self.log, self.title, self.total, self.done = log, title, total, done
        from tqdm import tqdm

        self.on_terminal = sys.stderr.isatty() and not log.quiet
        self._bar = tqdm(
            total=total, initial=done, desc=title, unit=unit, disable=not self.on_terminal, leave=False,
            dynamic_ncols=True,
        )  # fmt: skip

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self) -> None:
        self.done += 1
        self._bar.update()

    @contextlib.contextmanager
    def waiting(self, what: str, every: float | None = None) -> Iterator[None]:
        """A block that takes long and shows nothing: meanwhile the seconds are counted.

        Args:
            what: is done.
            every: seconds between two counts: by default one on a terminal, and 15 where each is a line.
        """
        over = threading.Event()
        began = time.monotonic()

        def count() -> None:
            while not over.wait(every or (1.0 if self.on_terminal else 15.0)):
                seconds = f"{what}, {time.monotonic() - began:.0f} s"
                if self.on_terminal:
                    self._bar.set_postfix_str(seconds)
                else:
                    self.log.say(f"{self.title}  {seconds}")

        counter = threading.Thread(target=count, daemon=True)
        counter.start()
        try:
            yield
        finally:
            over.set()
            counter.join()

    def show(self, text: str) -> None:
        """How things stand, e.g. the loss."""
        if self.on_terminal:
            self._bar.set_postfix_str(text)
        else:
            self.log.say(f"{self.title}  {self.done:>{len(str(self.total))}}/{self.total}  {text}")


def read_metrics(folder: Path, say: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
    """The entries of a run's metrics.jsonl, each a dict with its `epoch`.

    Args:
        say: is told of damaged lines, which are left out. A last line that a crash has cut off is left out silently.

    Raises:
        OSError: the file is missing, or may not be read.
    """
    lines = (folder / METRICS).read_bytes().split(b"\n")
    entries, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict) and isinstance(entry.get("epoch"), int):
            entries.append(entry)
        elif line.strip() and number < len(lines):
            damaged.append(str(number))
    if damaged:
        more = " and more" * (len(damaged) > 5)
        say(f"{folder / METRICS} is damaged: line {', '.join(damaged[:5])}{more} left out")
    return entries


def training_seconds(entries: Sequence[dict[str, Any]]) -> float | None:
    """How long a run trained, tests not counted, from the speed of each epoch; None if an entry does not say it."""
    try:
        return sum(next(iter(entry["train"].values()))["count"] / entry["images_per_second"] for entry in entries)
    except (KeyError, TypeError, ZeroDivisionError, StopIteration, RuntimeError):
        return None


def table(scores: dict[str, Any], unit: str = "images") -> str:
    """Scores by readout as aligned text; the unit is what was counted."""
    rows = [f"{'readout':<10}{'top-1 %':>9}{'top-5 %':>9}{'loss':>10}{unit:>9}"]
    for name, s in scores.items():
        rows.append(f"{name:<10}{s.acc1:>9.2f}{s.acc5:>9.2f}{s.loss:>10.4f}{s.count:>9}")
    return "\n".join(rows)

"""The tables of DVS128 Gesture: beside each recording one that says which gesture begins and ends when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from full_spike.utils.errors import UserError
from full_spike.utils.files import read_text

HEADER = "class,startTime_usec,endTime_usec"


@dataclass(frozen=True)
class Trial:
    """A row of a table: one gesture, with start <= t < end.

    label: its class, from 1 on as in the file.
    start, end: in us of the recording's clock.
    row: its line in the file, the header's being 1; 0 of one that was not read from a file.
    """

    label: int
    start: int
    end: int
    row: int = 0


def table_of(recording: Path) -> Path:
    """Where the table of a recording is: user01_led_labels.csv beside user01_led.aedat."""
    return recording.with_name(f"{recording.stem}_labels.csv")


def read_trials(table: Path) -> list[Trial]:
    """The rows of a table, in their order.

    Raises:
        UserError: it is no text, its header is another one, or a row is not three whole numbers, or
            no span of time.
        OSError: the file cannot be read.
    """
    lines = read_text(table).splitlines()
    if not lines or lines[0].replace(" ", "") != HEADER:
        raise UserError(f"{table} does not begin with {HEADER}: fetch it again")
    trials = []
    for row, line in enumerate(lines[1:], start=2):
        if line.strip():
            try:
                label, start, end = map(int, line.split(","))
            except ValueError:
                raise UserError(f"{table}, row {row}: {line!r} is not three whole numbers: fetch it again") from None
            if not 0 <= start < end:
                raise UserError(f"{table}, row {row}: {start} to {end} us is no span of time: fetch it again")
            trials.append(Trial(label, start, end, row))
    return trials


def write_trials(table: Path, trials: Iterable[Trial]) -> None:
    """Write a table such that `read_trials` returns these trials."""
    rows = [f"{trial.label},{trial.start},{trial.end}" for trial in trials]
    table.write_text("\n".join([HEADER, *rows]) + "\n", encoding="ascii")

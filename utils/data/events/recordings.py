"""Any single file of event data: a recording as published, or what the data sets keep of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from full_spike.utils.data.events.aedat import SENSOR, Events, check_clock, read_aedat2, read_aedat3
from full_spike.utils.data.events.gestures import Trial, read_trials, table_of
from full_spike.utils.data.npz import read_arrays
from full_spike.utils.errors import UserError
from full_spike.utils.files import open_regular

MOST_EVENTS = 1 << 53  # of a pixel in a frame, and us of a time: beyond it float64 does not tell one from two


def read_file(path: Path) -> Events | np.ndarray:
    """Events, or frames [T, 2, H, W], of any file that the data sets consist of or that is made of them.

    Raises:
        UserError: it is missing, of another format, or damaged.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it")
    if not path.exists():
        raise UserError(f"there is no file {path}: check the path")
    with open_regular(path) as file:
        start = file.read(10)
    if start.startswith(b"#!AER-DAT3"):
        return read_aedat3(path)
    if start.startswith(b"#!AER-DAT2") or (path.suffix == ".aedat" and start[:1] == b"#" and start[:5] != b"#!AER"):
        events = read_aedat2(path)
        check_clock(path, events["t"])
        return events
    if start.startswith(b"PK"):  # a .zip file, which an .npz file is
        return _read_npz(path)
    raise UserError(
        f"{path} is neither a recording (AEDAT 3.1 or 2.0) nor an .npz file of events or frames: name another file"
    )


def _read_npz(path: Path) -> Events | np.ndarray:
    try:
        arrays = read_arrays(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged or no .npz file of numbers ({error}): use another one") from None
    if "frames" in arrays:
        return _check_frames(path, arrays["frames"])
    if not {"t", "x", "y", "p"} <= set(arrays):
        raise UserError(f"{path} holds {', '.join(arrays) or 'nothing'}: t, x, y and p, or frames, are needed")
    return check_events(path, {name: arrays[name] for name in "txyp"})


def _check_frames(path: Path, frames: np.ndarray) -> np.ndarray:
    """Counts of events [T, 2, H, W]; UserError if they are none."""
    if frames.ndim != 4 or frames.shape[1] != 2 or frames.dtype.kind not in "iuf" or not frames.size:
        raise UserError(
            f"{path} has frames of shape {frames.shape} and type {frames.dtype}: numbers [T, 2, H, W] are needed"
        )
    if not (frames.min() >= 0 and frames.max() <= MOST_EVENTS):  # neither is true of NaN
        raise UserError(f"{path} has frames with negative, infinite or huge values: counts of events are needed")
    return frames


def check_events(path: Path, events: Events) -> Events:
    """Events of a DVS128, as many of t, x, y and p; UserError if they are none."""
    shapes = {array.shape for array in events.values()}
    if (
        len(shapes) != 1
        or events["t"].ndim != 1
        or any(array.dtype.kind not in ("iuf" if name == "t" else "iub") for name, array in events.items())
    ):
        raise UserError(f"{path} is damaged: t, x, y and p are not whole numbers, or not as many of each")
    if not len(events["t"]):
        return events
    for name, end in {"x": SENSOR, "y": SENSOR, "p": 2, "t": MOST_EVENTS}.items():
        for value in (events[name].min(), events[name].max()):
            if not 0 <= value < end:
                raise UserError(
                    f"{path} has an event of {name}={value}, outside 0..{end - 1}: use data of a DVS128 in whole us"
                )
    return events


def read_trial(recording: Path, number: int) -> Trial:
    """A row of the table beside a recording of DVS128 Gesture, the first being 1.

    Raises:
        UserError: there is no such table or row.
    """
    table = table_of(recording)
    if not table.is_file():
        raise UserError(f"--trial {number}: there is no {table}: leave it out, or use --start-us and --end-us")
    trials = read_trials(table)
    if number > len(trials):
        raise UserError(f"--trial {number}: {table} lists {len(trials)} trials: use 1 to {len(trials)}")
    return trials[number - 1]

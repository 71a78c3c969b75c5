"""Files of event data: recordings as published, and the .npz files that spikingjelly keeps of them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from full_spike.utils.errors import UserError
from spikingjelly.datasets.cifar10_dvs import _load_origin_data  # the only reader of AEDAT 2.0 there, not public
from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number, load_aedat_v3

SENSOR = (128, 128)  # height and width of the DVS128, in pixels

# t in microseconds, x and y in pixels, p is 1 where it became brighter; all [events], ordered as recorded
Events = dict[str, np.ndarray]


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
        UserError: it is missing, damaged, or holds pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: check the path") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is damaged or no .npz file of numbers ({error}): delete it and make it again"
        ) from None


def read_file(path: Path) -> Events | np.ndarray:
    """Events, or frames [T, 2, H, W], of a recording (AEDAT 3.1 or 2.0) or an .npz file.

    Raises:
        UserError: it is missing, of another format, or damaged.
    """
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if "frames" in arrays:
            if arrays["frames"].ndim != 4 or arrays["frames"].shape[1] != 2:
                raise UserError(f"{path} has frames of shape {arrays['frames'].shape}: [T, 2, H, W] is needed")
            return arrays["frames"]
        if not {"t", "x", "y", "p"} <= set(arrays):
            raise UserError(f"{path} holds {', '.join(arrays) or 'nothing'}: t, x, y and p, or frames, are needed")
        return {key: arrays[key] for key in "txyp"}
    try:
        with open(path, "rb") as file:
            header = file.read(10)
        if header == b"#!AER-DAT3":
            return load_aedat_v3(path)
        if header[:1] == b"#":
            return _load_origin_data(path)
    except (struct.error, ValueError) as error:
        raise UserError(f"{path} is damaged or cut off ({error}): fetch it again") from None
    raise UserError(f"{path} is neither a recording (AEDAT 3.1 or 2.0) nor an .npz file: name another file")


def read_trial(recording: Path, number: int) -> tuple[int, int, int]:
    """(class, start, end) of a row of the table beside a recording of DVS128 Gesture: the first row is 1, the first
    class 0, times are in us.

    Raises:
        UserError: there is no such table or row.
    """
    table = recording.with_name(f"{recording.stem}_labels.csv")
    if not table.is_file():
        raise UserError(f"--trial {number}: there is no {table}: leave it out, or use --start-us and --end-us")
    try:
        rows = np.loadtxt(table, dtype=np.int64, delimiter=",", skiprows=1, ndmin=2)
    except ValueError as error:
        raise UserError(f"{table} is damaged ({error}): fetch it again") from None
    if not 1 <= number <= len(rows):
        raise UserError(f"--trial {number}: {table} lists {len(rows)} trials: use 1 to {len(rows)}")
    label, start, end = rows[number - 1].tolist()
    return label - 1, start, end


def integrate(events: Events, T: int, sensor: tuple[int, int] = SENSOR, pooled: int = 1) -> np.ndarray:
    """Frames [T, 2, H, W] of event counts, in the smallest unsigned type that holds them.

    Each frame has as many events as the others, the last one also the rest: spikingjelly's split_by="number".

    Args:
        sensor: its height and width.
        pooled: side of the square of pixels that are summed to one.

    Raises:
        ValueError: there are fewer events than frames, or some are outside the sensor.
    """
    height, width = sensor
    if len(events["t"]) < T:
        raise ValueError(f"{len(events['t'])} events do not fill T={T} frames")
    if not (
        0 <= events["x"].min() <= events["x"].max() < width and 0 <= events["y"].min() <= events["y"].max() < height
    ):
        raise ValueError(f"there are events outside the sensor of {height}x{width} pixels")
    events = {**events, "x": events["x"] // pooled, "y": events["y"] // pooled}
    frames = integrate_events_by_fixed_frames_number(events, "number", T, height // pooled, width // pooled)
    return frames.astype(np.min_scalar_type(int(frames.max())))

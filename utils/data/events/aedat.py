"""The two file formats that event cameras' recordings are published in here: AEDAT 2.0 (jAER) and AEDAT 3.1 (cAER).

Both are read into the arrays that spikingjelly's `load_aedat_v3` and its CIFAR10-DVS reader return, value for value,
but whole packets at a time, and with checks: those read a file that is cut off, or of another camera, without a word.
Formats: https://docs.inivation.com/software/software-advanced-usage/file-formats/
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from full_spike.utils.data.events.options import SENSOR
from full_spike.utils.errors import UserError
from full_spike.utils.files import open_regular

# t in microseconds, x and y in pixels, p is 1 where it became brighter; all [events], ordered as recorded
Events = dict[str, np.ndarray]

PIECE = 1 << 18  # events that are converted at a time
# us that the clock may go back between two events: the hardware of that time did not always deliver its advances
# (https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-1.0.html, "Ordering")
SET_BACK = 1_000_000

_POLARITY = 1  # event type of AEDAT 3.1
_HEADER3 = struct.Struct("<hhiiiiii")  # type, source, size, offset of the time, overflow, capacity, number, valid
_END3 = b"#!END-HEADER\r\n"
_HEADER2 = b"#!AER-DAT2.0\r\n# 32-bit address, 32-bit timestamp in microseconds, both big-endian\r\n"


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def _room(count: int) -> Events:
    """Arrays for so many events."""
    types = {"t": np.int64, "x": np.int16, "y": np.int16, "p": np.uint8}
    return {name: np.empty(count, dtype) for name, dtype in types.items()}


def _pieces(first: int, count: int) -> Iterator[slice]:
    """Some events from `first` on, in pieces whose intermediate results are small."""
    for start in range(first, first + count, PIECE):
        yield slice(start, min(start + PIECE, first + count))


def _packets(path: Path, data: bytes) -> array[int]:
    """Where the polarity events of an AEDAT 3.1 file are: position, number and overflow count of each packet."""
    end = data.find(_END3)
    if not data.startswith(b"#!AER-DAT3") or end < 0:
        raise UserError(f"{path} is no AEDAT 3.1 file (its header is missing or incomplete): fetch it again")
    position = end + len(_END3)
    found = array("q")
    while position < len(data):
        left = len(data) - position - _HEADER3.size
        if left < 0:
            raise UserError(f"{path} is cut off inside the header of the packet at byte {position}: fetch it again")
        kind, _, size, _, overflow, capacity, _, _ = _HEADER3.unpack_from(data, position)
        if size < 0 or capacity < 0 or size * capacity > left:
            raise UserError(
                f"{path} is cut off or damaged: the packet at byte {position} says {capacity} events of {size} bytes, "
                f"and {left} bytes are left; fetch it again"
            )
        if kind == _POLARITY and size != 8:
            raise UserError(f"{path} has events of {size} bytes at byte {position}: those of AEDAT 3.1 have 8")
        if kind == _POLARITY and capacity:
            found.extend((position + _HEADER3.size, capacity, overflow))
        position += _HEADER3.size + size * capacity
    return found


def read_aedat3(path: Path) -> Events:
    """The polarity events of an AEDAT 3.1 file (DVS128 Gesture); packets of other types are passed over.

    Raises:
        UserError: it is no such file, is cut off, is of a larger sensor, or its clock was set back.
        OSError: it is missing, or may not be read.
    """
    data = _read(path)
    packets = np.frombuffer(_packets(path, data), np.int64).reshape(-1, 3)
    events = _room(int(packets[:, 1].sum()))
    done = 0
    for position, capacity, overflow in packets.tolist():
        packet = np.frombuffer(data, "<u4", 2 * capacity, position).reshape(-1, 2)  # address, low 31 bits of the time
        for piece in _pieces(0, capacity):
            address, time = packet[piece].T
            where = slice(done + piece.start, done + piece.stop)
            events["t"][where] = time
            events["t"][where] |= overflow << 31
            events["x"][where] = address >> 17 & 0x7FFF
            events["y"][where] = address >> 2 & 0x7FFF
            events["p"][where] = address >> 1 & 1
        done += capacity
    for name in "xy":
        i = int(events[name].argmax()) if done else 0
        if done and events[name][i] >= SENSOR:
            raise UserError(
                f"{path} has an event at x={events['x'][i]}, y={events['y'][i]}, outside the {SENSOR}x{SENSOR} sensor "
                "of the DVS128: recordings of another camera cannot be used"
            )
    check_clock(path, events["t"])
    return events


def check_clock(path: Path, t: np.ndarray) -> None:
    """Check that the times of a recording [events] do not run backwards, but for what the hardware is known for.

    Raises:
        UserError: they do.
    """
    for piece in _pieces(0, len(t) - 1):
        steps = np.diff(t[piece.start : piece.stop + 1])
        back = int(steps.argmin()) + piece.start
        if t[back + 1] < t[back] - SET_BACK:
            raise UserError(
                f"{path} has an event at {t[back + 1]} us after one at {t[back]} us: its clock was set back, or it is "
                "damaged; fetch it again, or cut it there"
            )


def read_aedat2(path: Path) -> Events:
    """The events of an AEDAT 2.0 file of the DVS128 (CIFAR10-DVS), turned upright as spikingjelly turns them.

    Times are returned as they are: files of this format may go back in time, and a data set of one sample for each file
    has no use for them. `check_clock` is for who has.

    Raises:
        UserError: it is no such file, is cut off, or is of another camera.
        OSError: it is missing, or may not be read.
    """
    data = _read(path)
    if not data.startswith(b"#") or (data.startswith(b"#!AER-DAT") and not data.startswith(b"#!AER-DAT2")):
        raise UserError(f"{path} is no AEDAT 2.0 file (it has no such header): fetch it again")
    position = 0
    while data[position : position + 1] == b"#":  # no event of this sensor begins with that byte
        position = data.find(b"\n", position) + 1 or len(data)
    left = len(data) - position
    if left % 8:
        raise UserError(f"{path} is cut off: {left} bytes of events are no multiple of 8; fetch it again")
    address, time = np.frombuffer(data, ">u4", left // 4, position).reshape(-1, 2).T
    events = _room(len(address))
    for piece in _pieces(0, len(address)):
        pixel = address[piece].astype(np.int64)
        if pixel.max() >> 16:
            raise UserError(
                f"{path} has the address {pixel.max():#x}, wider than the 16 bits of the {SENSOR}x{SENSOR} sensor of "
                "the DVS128: recordings of another camera cannot be used"
            )
        events["t"][piece] = time[piece]
        events["x"][piece] = 127 - (pixel >> 8 & 0x7F)
        events["y"][piece] = 127 - (pixel >> 1 & 0x7F)
        events["p"][piece] = 1 - (pixel & 1)
    return events


def write_aedat3(path: Path, events: Events, packet: int = 4096) -> None:
    """Write events, ordered by time, as AEDAT 3.1, `packet` of them at most in each packet."""
    with open(path, "wb") as file:
        file.write(b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n" + _END3)
        address = events["x"].astype("<u4") << 17 | events["y"].astype("<u4") << 2 | events["p"].astype("<u4") << 1 | 1
        time = events["t"].astype(np.int64)
        # a packet has one overflow counter, so none crosses a multiple of 2^31 us
        cuts = {0, len(time), *range(0, len(time), packet), *(np.flatnonzero(np.diff(time >> 31)) + 1).tolist()}
        bounds = sorted(cuts)
        for first, last in itertools.pairwise(bounds):
            n = last - first
            file.write(_HEADER3.pack(_POLARITY, 1, 8, 4, int(time[first] >> 31), n, n, n))
            low = (time[first:last] & 0x7FFFFFFF).astype("<u4")
            file.write(np.stack([address[first:last], low], axis=1).tobytes())


def write_aedat2(path: Path, events: Events) -> None:
    """Write events as AEDAT 2.0 of the DVS128, such that `read_aedat2` returns them."""
    x, y, p = (events[key].astype(np.int64) for key in ("x", "y", "p"))
    address = (127 - x) << 8 | (127 - y) << 1 | (1 - p)
    path.write_bytes(_HEADER2 + np.stack([address, events["t"]], axis=1).astype(">u4").tobytes())

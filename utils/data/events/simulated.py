"""Digits as an event camera would see them: the default of the event data sets, made here instead of downloaded.

A still image gives an event camera nothing to see, so the camera is moved: three short movements along a triangle, as
N-MNIST was recorded (Orchard et al., Frontiers in Neuroscience 9:437, 2015). A pixel fires whenever the logarithm of
its brightness has changed by a threshold since it last fired (Lichtsteiner et al., IEEE JSSC 43:566, 2008). Pixels
differ in how far they are from firing when a digit begins, always in the same way; there is no other noise, so the same
digits give the same events.

They are written in the files that the real data sets consist of, so all that reads those is used and tested with these.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from full_spike.utils.data.digits import load_digits
from full_spike.utils.data.events.aedat import SENSOR, Events, write_aedat2, write_aedat3
from full_spike.utils.data.events.gestures import Trial, table_of, write_trials

SCALE = 8  # pixels of the sensor per pixel of the scan: a digit covers 64 of 128
AMPLITUDE = 3.0  # pixels, half the side of the triangle
MOVEMENT = 100_000  # us for each of the three movements
STEPS = 6  # at which brightness is computed in a movement; events between them have times between them
THRESHOLD = np.float32(0.7)  # change of log brightness
DARK = np.float32(0.1)  # brightness of the background, where the brightest stroke has 1 + DARK
CORNERS = AMPLITUDE * np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 0.0], [0.0, 0.0]], dtype=np.float32)  # x, y

GAP = 50_000  # us between two digits of a recording
BATCH = 16  # digits computed at a time


def _path() -> np.ndarray:
    """Where the camera looks at each step [3 * STEPS + 1, 2], in pixels (x, y)."""
    along = np.arange(3 * STEPS + 1) / STEPS
    return np.stack([np.interp(along, np.arange(4), CORNERS[:, axis]) for axis in (0, 1)], axis=1).astype(np.float32)


def _stretch(images: np.ndarray, offset: np.float32, side: int, axis: int) -> np.ndarray:
    """Magnify an axis by SCALE, linearly, the scan's first pixel `offset` inside the edge; black outside."""
    images = np.moveaxis(images, axis, -1)
    at = (np.arange(side, dtype=np.float32) - offset + 0.5) / SCALE + 0.5  # in pixels of the scan padded by one
    low = np.clip(np.floor(at), 0, images.shape[-1]).astype(int)
    weight = np.clip(at - low, 0, 1).astype(np.float32)
    padded = np.pad(images, [(0, 0)] * (images.ndim - 1) + [(1, 1)])
    padded = np.concatenate([padded, padded[..., -1:]], axis=-1)
    stretched = padded[..., low] * (1 - weight) + padded[..., low + 1] * weight
    return np.ascontiguousarray(np.moveaxis(stretched, -1, axis))


def digit_events(scans: np.ndarray) -> list[Events]:
    """The events of each digit, ordered by time, over the three movements (0.3 s from time 0).

    Args:
        scans: grey levels in 0..16, [samples, 8, 8].
    """
    side = 8 * SCALE + int(2 * AMPLITUDE) + SCALE  # the window that holds the digit wherever the camera looks
    corner = (SENSOR - side) // 2
    scans = scans.astype(np.float32) / 16

    def brightness(position: np.ndarray) -> np.ndarray:
        rows = _stretch(scans, position[1] + SCALE / 2, side, axis=1)
        return np.log(_stretch(rows, position[0] + SCALE / 2, side, axis=2) + DARK)

    path = _path()
    last = brightness(path[0])
    start = np.random.default_rng(0).uniform(-THRESHOLD / 2, THRESHOLD / 2, last.shape[1:])
    reference = last + start.astype(np.float32)  # the log brightness that each pixel fired at last
    nothing = np.empty(0, np.int64)
    found: list[tuple[np.ndarray, ...]] = [(nothing, nothing, nothing, nothing, nothing > 0)]  # (sample, t, y, x, p)
    for step, position in enumerate(path[1:]):
        now = brightness(position)
        where = np.nonzero(np.abs(now - reference) >= THRESHOLD)  # few: the rest is done for these alone
        before, began, ended = reference[where], last[where], now[where]
        sign = np.sign(ended - before)
        crossings = np.trunc(np.abs(ended - before) / THRESHOLD)
        for k in range(1, int(crossings.max(initial=0)) + 1):
            fires = crossings >= k
            level = (before + k * THRESHOLD * sign)[fires]
            fraction = np.clip((level - began[fires]) / (ended - began)[fires], 0, 1)
            t = ((step + fraction) * (MOVEMENT / STEPS)).astype(np.int64)
            sample, y, x = (axis[fires] for axis in where)
            found.append((sample, t, y, x, sign[fires] > 0))
        reference[where] = before + crossings * THRESHOLD * sign
        last = now
    sample, t, y, x, p = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((x, y, t, sample))
    sample, t, y, x, p = sample[order], t[order], y[order] + corner, x[order] + corner, p[order]
    ends = np.searchsorted(sample, np.arange(len(scans) + 1))
    return [{"t": t[a:b], "x": x[a:b], "y": y[a:b], "p": p[a:b]} for a, b in itertools.pairwise(ends)]


def _all_events(scans: np.ndarray, keep_alive: Callable[[], None]) -> Iterator[Events]:
    for first in range(0, len(scans), BATCH):
        yield from digit_events(scans[first : first + BATCH])
        keep_alive()


def write_as_gestures(folder: Path, keep_alive: Callable[[], None] = lambda: None, *, count: int | None = None) -> None:
    """Write the digits as DVS128 Gesture is published: users, each with one long recording and a table of what is when.

    Args:
        folder: gets trials_to_train.txt, trials_to_test.txt, userNN_led.aedat and userNN_led_labels.csv; label 1 is 0.
        keep_alive: called again and again while it works.
        count: only so many digits for training, and a quarter as many to test.
    """
    folder.mkdir(parents=True)
    user = 0
    for split, users in (("train", 23), ("test", 6)):
        scans, classes = (a[: count if split == "train" or count is None else count // 4] for a in load_digits(
            train=split == "train"
        ))  # fmt: skip
        events = list(_all_events(scans, keep_alive))
        recordings = []
        for mine in np.array_split(np.arange(len(scans)), min(users, max(1, len(scans) // 2))):
            user += 1
            name = f"user{user:02}_led"
            starts = (GAP + np.arange(len(mine)) * (3 * MOVEMENT + GAP)).tolist()
            shifted = [{**events[i], "t": events[i]["t"] + start} for i, start in zip(mine, starts, strict=True)]
            write_aedat3(folder / f"{name}.aedat", {k: np.concatenate([e[k] for e in shifted]) for k in "txyp"})
            trials = [
                Trial(int(classes[i]) + 1, start, start + 3 * MOVEMENT) for i, start in zip(mine, starts, strict=True)
            ]
            write_trials(table_of(folder / f"{name}.aedat"), trials)
            recordings.append(f"{name}.aedat\n")
        (folder / f"trials_to_{split}.txt").write_text("".join(recordings), encoding="ascii")


def write_as_cifar10dvs(
    folder: Path, keep_alive: Callable[[], None] = lambda: None, *, count: int | None = None
) -> None:
    """Write the digits as CIFAR10-DVS is published: a folder for each class, a recording for each sample.

    Args:
        folder: gets 0/ to 9/ with digits_<class>_<number>.aedat.
        keep_alive: called again and again while it works.
        count: only so many digits.
    """
    parts = [load_digits(train=train) for train in (True, False)]
    scans, classes = (np.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True))
    numbers = [0] * 10
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for label, events in zip(classes, _all_events(scans, keep_alive), strict=True):
        write_aedat2(folder / str(label) / f"digits_{label}_{numbers[label]}.aedat", events)
        numbers[label] += 1

"""Digits as an event camera would see them: the default of the event data sets, made here instead of downloaded.

A still image gives an event camera nothing to see, so the camera is moved: three short movements along a triangle, as
N-MNIST was recorded (Orchard et al., Frontiers in Neuroscience 9:437, 2015). A pixel fires whenever the logarithm of
its brightness has changed by a threshold since it last fired (Lichtsteiner et al., IEEE JSSC 43:566, 2008). Pixels
differ in how far they are from firing when a digit begins, always in the same way; there is no other noise, so the same
digits give the same events.

They are written as spikingjelly keeps the events of the real data sets, and what reads those reads these.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from full_spike.utils.data.digits import load_digits

# t in microseconds, x and y in pixels, p is 1 where it became brighter; all [events], in the order of time
Events = dict[str, np.ndarray]

SENSOR = 128  # pixels on each side, as the DVS128 has
SCALE = 8  # pixels of the sensor per pixel of the scan: a digit covers 64 of 128
AMPLITUDE = 3.0  # pixels, half the side of the triangle
MOVEMENT = 100_000  # us for each of the three movements
STEPS = 6  # at which brightness is computed in a movement; events between them have times between them
THRESHOLD = np.float32(0.7)  # change of log brightness
DARK = np.float32(0.1)  # brightness of the background, where the brightest stroke has 1 + DARK
CORNERS = AMPLITUDE * np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 0.0], [0.0, 0.0]], dtype=np.float32)  # x, y
BATCH = 16  # digits computed at a time

CLASSES = tuple(str(digit) for digit in range(10))


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
    sample, t, y, x, p = sample[order], t[order].astype(np.int32), y[order] + corner, x[order] + corner, p[order]
    x, y = x.astype(np.int16), y.astype(np.int16)
    ends = np.searchsorted(sample, np.arange(len(scans) + 1))
    return [{"t": t[a:b], "x": x[a:b], "y": y[a:b], "p": p[a:b]} for a, b in itertools.pairwise(ends)]


def write_digits(folder: Path, *, divided: bool, count: int | None = None) -> None:
    """Write the events of each digit as spikingjelly's events_np/ holds them: arrays t, x, y and p.

    Args:
        folder: is made.
        divided: into train/ and test/, as DVS128 Gesture is; else as CIFAR10-DVS.
        count: only so many digits: to train on, and a quarter to test, if they are divided; else in all.
    """
    train, test = load_digits(train=True), load_digits(train=False)
    parts: list[Any]
    if divided:  # as many people as in DVS128 Gesture
        parts = [("train", *train, 23, count), ("test", *test, 6, count and count // 4)]
    else:
        parts = [("", *(np.concatenate(arrays) for arrays in zip(train, test, strict=True)), 1, count)]
    for split, scans, classes, people, most in parts:
        scans, classes = scans[:most], classes[:most]
        for label in CLASSES:
            (folder / split / label).mkdir(parents=True)
        paths = [folder / split / name for name in _names(classes, people)]
        for first in range(0, len(scans), BATCH):
            batch = slice(first, first + BATCH)
            for path, events in zip(paths[batch], digit_events(scans[batch]), strict=True):
                np.savez(path, t=events["t"], x=events["x"], y=events["y"], p=events["p"])


def _names(classes: np.ndarray, people: int) -> Iterator[str]:
    """A file for each digit. Their order as text is that of the samples, and so part of every figure published here."""
    for person, mine in enumerate(np.array_split(classes, people), start=1):
        seen = dict.fromkeys(CLASSES, 0)
        for label in map(str, mine):
            yield f"{label}/user{person:02}_{seen[label]}.npz"
            seen[label] += 1

"""From recordings to frames on disk: recording -> events of each sample -> frames, each step made once and kept.

    <data path>/extract/                             the originals, as published
    <data path>/full-spike/events/                   the events of each sample
    <data path>/full-spike/frames_T16_128x128/       its frames: one folder for each T and size

A frame holds how many events of each polarity each pixel had; a sample's events are divided into T frames of as many
events each, the last one taking the rest: spikingjelly's `integrate_events_by_fixed_frames_number`, split_by="number".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from full_spike.utils.data.events.aedat import SENSOR, Events
from full_spike.utils.data.events.recordings import check_events
from full_spike.utils.data.npz import write_npz
from full_spike.utils.data.prepared import KeepAlive, listing_digest, locked, read_npz, read_record, write_record
from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError
from full_spike.utils.files import replacing
from full_spike.utils.log import RunLog


@dataclass(frozen=True)
class Originals:
    """A data set's published files.

    Attributes:
        recordings: are converted one by one.
        labels: other files that say what the recordings hold.
        read: recording -> (name of a sample, its events), the name a path such as "train/3/user01_led_0".
    """

    recordings: list[Path]
    labels: list[Path]
    read: Callable[[Path], Iterable[tuple[str, Events]]]


def sum_pixels(events: Events, size: int) -> Events:
    """The same events on a sensor of size x size, whose pixels each cover a square of the original's."""
    factor = SENSOR // size
    return {**events, "x": events["x"] // factor, "y": events["y"] // factor}


def integrate(events: Events, T: int, size: int) -> np.ndarray:
    """Frames [T, 2, size, size] of a sample, in the smallest type of whole numbers that holds them.

    Raises:
        ValueError: there are fewer events than frames.
    """
    from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number  # seconds to import, rarely needed

    if len(events["t"]) < T:
        raise ValueError(f"{len(events['t'])} events do not fill T={T} frames")
    frames = integrate_events_by_fixed_frames_number(sum_pixels(events, size), "number", T, size, size)
    return frames.astype(np.min_scalar_type(int(frames.max())))


def frames_folder(root: Path, T: int, size: int) -> Path:
    """Where the frames are, below the data path."""
    return root / "full-spike" / f"frames_T{T}_{size}x{size}"


class Preparation:
    """Makes what is not there yet, and checks what is.

    Args:
        root: the data path.
        obtain: of (extract folder, keep_alive): puts the originals there, from archives or made; raises UserError.
        open_originals: of the extract folder; UserError if it is incomplete.
        world: the processes, of which only the main one calls this.
    """

    def __init__(
        self,
        root: Path,
        obtain: Callable[[Path, Callable[[], None]], None],
        open_originals: Callable[[Path], Originals],
        world: World,
    ) -> None:
        self.root = root
        self.obtain = obtain
        self.open_originals = open_originals
        self.log = RunLog(world)
        self.keep_alive = KeepAlive(world)

    def frames(self, T: int, size: int) -> None:
        """Have the frames of every sample, complete and checked, in their folder.

        Raises:
            UserError: the originals, or what was made of them, are not as they should be.
        """
        kept = self.root / "full-spike"
        with locked(kept, self.log.say, self.keep_alive):
            extract, events, frames = self.root / "extract", kept / "events", frames_folder(self.root, T, size)
            if not (extract.exists() or events.exists() or frames.exists()):
                self.log.say(f"putting the recordings in {extract}")
                self.obtain(extract, self.keep_alive)
            source = None
            if extract.exists():  # else it was deleted to save space, and what was made of it is taken as it is
                originals = self.open_originals(extract)
                source = listing_digest(extract, [*originals.recordings, *originals.labels])
            made_of = {"sensor": SENSOR}
            of_frames = {**made_of, "T": T, "split_by": "number", "frame_size": size}
            if frames.exists():  # the events are not needed then, so nobody looks at their files
                source = source or read_record(frames)["made_of"].get("source")
                read_record(frames, {**of_frames, "source": source})
                return
            if events.exists():
                source = source or read_record(events)["made_of"].get("source")
                read_record(events, {**made_of, "source": source})
            else:
                self._make_events(events, originals, {**made_of, "source": source})
            self._make_frames(frames, events, T, size, {**of_frames, "source": source})

    def _make_events(self, target: Path, originals: Originals, made_of: dict[str, Any]) -> None:
        def convert(folder: Path, recording: Path) -> None:
            for name, events in originals.read(recording):
                path = folder / f"{name}.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_npz(path, t=events["t"], x=events["x"], y=events["y"], p=events["p"])

        self._make(target, originals.recordings, convert, made_of, "recordings")

    def _make_frames(self, target: Path, source: Path, T: int, size: int, made_of: dict[str, Any]) -> None:
        def convert(folder: Path, name: str) -> None:
            arrays = dict(zip("txyp", read_npz(source, name, *"txyp"), strict=True))
            try:
                frames = integrate(check_events(source / name, arrays), T, size)
            except ValueError as error:
                raise UserError(f"{source / name}: {error}: use a smaller --T") from None
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_npz(folder / name, frames=frames)

        self._make(target, sorted(read_record(source)["files"]), convert, made_of, "samples")

    def _make(
        self,
        target: Path,
        items: list,
        convert: Callable[[Path, Any], None],
        made_of: dict[str, Any],
        unit: str,
    ) -> None:
        """A folder in which every item was converted, several at once: reading and compressing leave Python's lock."""
        began = time.monotonic()

        with replacing(target) as folder:
            folder.mkdir(parents=True)
            pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 16))
            try:
                with self.log.progress(f"converting to {target.name}", len(items), unit=unit) as progress:
                    for _ in pool.map(lambda item: convert(folder, item), items):
                        progress.advance()
                        self.keep_alive()
            finally:
                pool.shutdown(cancel_futures=True)
            write_record(folder, made_of)
        size = sum(read_record(target)["files"].values())
        self.log.say(
            f"{len(items)} {unit} converted to {target} in {time.monotonic() - began:.1f} s ({size / 1e6:.1f} MB)"
        )

"""Data sets of event cameras: spikingjelly unpacks and cuts the recordings; here are frames, division and loading.

The folders are spikingjelly's, so that what it has prepared is used as it is:

    <data path>/download/                            the archives, as published
    <data path>/extract/                             unpacked
    <data path>/events_np/                           the events of each sample
    <data path>/frames_number_16_split_by_number/    its frames [T, 2, H, W], as [train|test]/<class>/<sample>.npz
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import math
import os
import shutil
import struct
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from spikingjelly.datasets.base import NeuromorphicDatasetFolder
from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.utils import check_integrity

from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.events_augment import make_augmentation
from full_spike.utils.data.events_digits import CLASSES, SENSOR, Events, write_digits
from full_spike.utils.data.options import DIGITS
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import OF_SYSTEMS, cache_home, is_hidden, replacing
from full_spike.utils.log import RunLog

Samples = list[tuple[Path, int]]  # (file below the folder of frames, class)
Shape = tuple[int, int, int, int]  # (T, 2, H, W)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
        UserError: it is damaged, or holds pickled objects.
        OSError: it is missing, or may not be read.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete its folder of frames or events; it is made again"
        ) from None


def integrate(events: Events, T: int, sensor: tuple[int, int], pooled: int = 1) -> np.ndarray:
    """Frames [T, 2, H, W] of event counts, in the smallest unsigned type that holds them.

    Each frame has as many events as the others, the last one also the rest: spikingjelly's split_by="number".

    Args:
        sensor: its height and width.
        pooled: side of the square of pixels that are summed to one.

    Raises:
        ValueError: there are fewer events than frames, or some are outside the sensor.
    """
    height, width = sensor
    x, y = events["x"], events["y"]
    if len(x) < T:
        raise ValueError(f"{len(x)} events do not fill T={T} frames")
    if min(x.min(), y.min()) < 0 or x.max() >= width or y.max() >= height:
        raise ValueError(f"there are events outside the sensor of {height}x{width} pixels")
    events = {**events, "x": x // pooled, "y": y // pooled}
    frames = integrate_events_by_fixed_frames_number(events, "number", T, height // pooled, width // pooled)
    return frames.astype(np.min_scalar_type(int(frames.max())))


@dataclass
class EventFrames(Dataset):
    """Samples as float32 frames [T, 2, H, W] of event counts, with their classes.

    Attributes:
        folder: of frames.
        samples: their files below the folder, and their classes.
        shape: (T, 2, H, W). Frames of a multiple of this size are pooled by summing.
        T_train: only so many frames of each sample, drawn at random each time, in their order; all by default.
        augment: of the frames, afterwards.
    """

    folder: Path
    samples: Samples
    shape: Shape
    T_train: int | None = None
    augment: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def name_of(self, index: int) -> str:
        """The file of its frames."""
        return str(self.folder / self.samples[index][0])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        name, target = self.samples[index]
        path, (T, _, height, width) = self.folder / name, self.shape
        counts = read_npz(path).get("frames", np.empty(0))
        pooled = counts.shape[-1] // width
        if not pooled or counts.shape != (T, 2, height * pooled, width * pooled) or counts.dtype.kind not in "iuf":
            raise UserError(
                f"{path} holds {counts.dtype} of shape {counts.shape}, not counts of shape {self.shape}: delete the "
                "folder of frames; it is made again"
            )
        frames = torch.from_numpy(counts)
        if self.T_train is not None:
            frames = frames[torch.randperm(T)[: self.T_train].sort().values]
        frames = frames.float()
        if pooled > 1:
            frames = frames.unflatten(-1, (width, pooled)).sum(-1).unflatten(-2, (height, pooled)).sum(-2)
        return (self.augment(frames) if self.augment else frames), target


def time_first(batch: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Samples (frames [T, 2, H, W], class) -> (frames [T, N, 2, H, W], classes [N])."""
    return torch.stack([frames for frames, _ in batch], dim=1), torch.tensor([target for _, target in batch])


@dataclass(frozen=True)
class EventDataset:
    """A data set of spikingjelly's, and what it does not say.

    Attributes:
        name: of --dataset, and of the folder with its script.
        source: unpacks its archives and cuts its recordings.
        classes: their names, in order.
        folders: of the classes, in the same order, if they have other names. spikingjelly sorts them as text instead,
            so that class 10 comes before class 2.
        count: samples that it has.
        T_train: the part of a sample's frames that its published recipe trains on.
        train_share: the part of each class that trains, the first ones by name; None if there are train/ and test/.
        sensor: height and width, in pixels.
    """

    name: str
    source: type[NeuromorphicDatasetFolder]
    classes: tuple[str, ...]
    folders: tuple[str, ...] | None = None
    count: int | None = None
    T_train: float = 1.0
    train_share: float | None = None
    sensor: tuple[int, int] = (SENSOR, SENSOR)

    def load(self, args: argparse.Namespace, world: World) -> Datasets:
        """The data set that --dataset names, converted to frames first if it is not yet.

        Raises:
            UsageError: the options don't fit together.
            UserError: the data are missing or not what they should be.
        """
        if args.dataset not in (self.name, DIGITS):
            raise UsageError(f"--dataset {args.dataset!r} is unknown: choose one of {self.name}, {DIGITS}")
        if args.dataset == self.name and args.data_path is None:
            raise UsageError(f"--dataset {self.name} needs --data-path: the folder of {self.name}/README.md")
        root, chosen = Path(args.data_path or cache_home()), self
        place = Path(args.frames_path or root)
        if args.dataset == DIGITS:
            root, place = (path / DIGITS / self.name for path in (root, place))
            chosen = replace(self, classes=CLASSES, folders=None, count=None, sensor=(SENSOR, SENSOR))
        height, width = chosen.sensor
        pooled = height // args.frame_size  # pixels on each side that are summed to one
        if height % args.frame_size or width % pooled:
            raise UsageError(f"--frame-size {args.frame_size} does not divide {height}: use {height}, {height // 2}, …")
        T_train = max(1, round(self.T_train * args.T)) if args.T_train is None else args.T_train
        if T_train > args.T:
            raise UsageError(f"--T-train {T_train} is above --T {args.T}: draw at most as many frames as there are")
        augment = make_augmentation(args.augment)
        shape = (args.T, 2, args.frame_size, width // pooled)
        folder = chosen._prepare(root, place, args.dataset, shape, world)
        train, test = chosen.divide(folder)
        changed = {
            f"{args.frame_size}px": args.frame_size != height,
            f"Ttrain{T_train}": T_train != args.T,
            args.augment.replace(",", "+").replace(" ", ""): args.augment,
        }
        name = "_".join([args.dataset, *(part for part, there in changed.items() if there)])
        return Datasets(
            EventFrames(folder, train, shape, T_train if T_train != args.T else None, augment),
            EventFrames(folder, test, shape),
            len(chosen.classes),
            in_channels=2,
            name=f"{name}_",
            collate=time_first,
            unit="samples",
            classes=chosen.classes,
            inputs={"channels": 2, "T": args.T, "frame_size": args.frame_size},
            recipe={
                "dataset": args.dataset,
                "T_train": T_train,
                "frame_size": args.frame_size,
                "augment": args.augment,
                "files": hashlib.sha256(repr([(str(path), label) for path, label in train]).encode()).hexdigest()[:16],
            },
        )

    def divide(self, folder: Path) -> tuple[Samples, Samples]:
        """(training samples, test samples) of a folder of frames or of events.

        Raises:
            UserError: some are missing.
        """
        train: Samples = []
        test: Samples = []
        for label, name in enumerate(self.folders or self.classes):
            if self.train_share is None:
                first, rest = (_samples(folder / part / name) for part in ("train", "test"))
            else:  # spikingjelly's `split_to_train_test_set`, which reads every sample to divide them
                files = _samples(folder / name)
                count = math.ceil(self.train_share * len(files))
                first, rest = files[:count], files[count:]
            train += [(path.relative_to(folder), label) for path in first]
            test += [(path.relative_to(folder), label) for path in rest]
        found = len(train) + len(test)
        if found == 0 or found != (self.count or found):
            raise UserError(
                f"{folder} holds {found} instead of {self.count or 'the'} samples of {self.name}: delete it; "
                "it is made again"
            )
        return train, test

    def _prepare(self, root: Path, place: Path, dataset: str, shape: Shape, world: World) -> Path:
        """The folder of frames, made below `place` by the main process if it is in neither."""
        T, _, height, width = shape
        whole = f"frames_number_{T}_split_by_number"
        small = whole if (height, width) == self.sensor else f"{whole}_{height}x{width}"
        folder = _first(place / small, root / small, place / whole, root / whole)
        with world.main_only(f"preparing {dataset}") as main:
            if main and not folder.is_dir():
                RunLog(world).say(f"preparing {dataset} in {place}")
                events = _first(place / "events_np", root / "events_np")
                if not events.is_dir():
                    self._make_events(root, events, dataset)
                self._make_frames(events, folder, T, self.sensor[0] // height, RunLog(world))
        if not folder.is_dir():
            raise UserError(f"there is no {folder} on this machine: choose a --data-path that all of them share")
        return folder

    # spikingjelly makes each folder in its final place, where a killed run leaves half of it to be removed by hand (or,
    # before 2.0, to be taken for the whole), and its constructors delete archives with a wrong checksum. So its steps
    # are called one by one, each in a folder that is renamed when it is complete.

    def _make_events(self, root: Path, events: Path, dataset: str) -> None:
        if dataset == DIGITS:
            with _making(events) as partial:
                write_digits(partial, divided=self.train_share is None)
            return
        download, extract = root / "download", _first(events.with_name("extract"), root / "extract")
        here = [extract] if extract.is_dir() else [] if download.is_dir() else [root]
        if other := next((path for folder in here for path in folder.rglob("*.aedat4")), None):
            raise UserError(
                f"{other} is AEDAT 4, to which other libraries convert: fetch the archives of {self.name}/README.md "
                f"to {download}, and put this folder away"
            )
        try:
            if not extract.is_dir():
                self._check_archives(download)
                with _making(extract) as partial, _visible(download) as archives:
                    self.source.extract_downloaded_files(archives, partial)
            with _making(events) as partial, _visible(extract) as recordings:
                self.source.create_raw_from_extracted(recordings, partial)
        except (RuntimeError, ValueError, LookupError, EOFError, struct.error) as error:
            raise UserError(
                f"{extract} cannot be converted ({error}): delete what is damaged or not part of the data set, "
                "fetch it again"
            ) from error

    def _check_archives(self, download: Path) -> None:
        for name, url, md5 in self.source.resource_url_md5():
            if not name.endswith((".zip", ".gz")):
                continue  # a readme or licence
            if not (download / name).is_file():
                raise UserError(f"there is no {download / name}: fetch it from {url} (see {self.name}/README.md)")
            if not check_integrity(download / name, md5):
                raise UserError(f"{download / name} is incomplete: its MD5 is not {md5}; fetch it again")

    def _make_frames(self, events: Path, target: Path, T: int, pooled: int, log: RunLog) -> None:
        """spikingjelly's frames, in the smallest type of whole numbers, where spikingjelly writes float64."""
        began = time.monotonic()
        samples = [name for part in self.divide(events) for name, _ in part]
        reading = threading.Lock()  # numpy.load fails now and then in threads before Python 3.11.8 (cpython#106905)

        def convert(name: Path) -> None:
            with reading:
                arrays = read_npz(events / name)
            try:
                frames = integrate(arrays, T, self.sensor, pooled)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{events / name}: {error}: use a smaller --T, or make {events} again") from None
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(partial / name, frames=frames)

        with _making(target) as partial, ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            list(pool.map(convert, samples))
        log.say(f"{len(samples)} samples converted to {target} in {time.monotonic() - began:.1f} s")


def _first(*folders: Path) -> Path:
    """The first of them that is there, or else the first."""
    for folder in folders:
        if (marker := folder.with_name(f"{folder.name}.building")).exists():  # of spikingjelly 2
            raise UserError(f"{folder} was never finished, says {marker.name}: delete both; it is made again")
    return next(filter(Path.is_dir, folders), folders[0])


def _samples(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.npz") if not is_hidden(path.name))


@contextlib.contextmanager
def _visible(folder: Path) -> Iterator[Path]:
    """A folder with links to what is in another one, without what systems left there: spikingjelly takes all."""
    with tempfile.TemporaryDirectory() as made:
        links = Path(made, folder.name)
        hidden = shutil.ignore_patterns(".*", *OF_SYSTEMS)
        shutil.copytree(folder.absolute(), links, copy_function=os.symlink, ignore=hidden)
        yield links


@contextlib.contextmanager
def _making(folder: Path) -> Iterator[Path]:
    """A folder to fill, which then gets its name; another run may do the same at the same time."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder, contended=True) as partial:
            partial.mkdir()
            yield partial
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS):
            raise UserError(f"{folder} cannot be made ({error.strerror}): say by --frames-path where it may") from None
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # the other one was first
            raise

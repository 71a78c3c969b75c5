"""Event data for training: samples as tensors of frames, and batches with time first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.events.archives import unpack
from full_spike.utils.data.events.augment import make_augmentation
from full_spike.utils.data.events.frames import Originals, Preparation, frames_folder
from full_spike.utils.data.events.options import DIGITS, SENSOR, EventOptions
from full_spike.utils.data.machines import on_machines_without
from full_spike.utils.data.prepared import digest, read_npz, read_record
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import cache_home, replacing
from torch import Tensor
from torch.utils.data import Dataset

Split = Sequence[tuple[str, int]]  # (file of a sample in the folder of frames, its class)


class EventFrames(Dataset):
    """Samples as float32 frames [T, 2, H, W] of event counts, with their classes.

    Args:
        folder: of frames, as `Preparation` makes it.
        samples: which of them, and their classes.
        shape: of a sample, (T, 2, H, W); by default any.
        T_train: only so many frames of each sample, drawn at random each time, in their order; all by default.
        augment: of the frames, afterwards.
    """

    def __init__(
        self,
        folder: Path,
        samples: Split,
        *,
        shape: tuple[int, int, int, int] | None = None,
        T_train: int | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.folder = folder
        self.samples = samples
        self.shape = shape
        self.T_train = T_train
        self.augment = augment

    def __len__(self) -> int:
        return len(self.samples)

    def name_of(self, index: int) -> str:
        """The file of its frames."""
        return str(self.folder / self.samples[index][0])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        name, target = self.samples[index]
        (counts,) = read_npz(self.folder, name, "frames")
        if counts.shape != (self.shape or counts.shape) or counts.dtype.kind not in "iu" or not counts.dtype.isnative:
            raise UserError(
                f"{self.folder / name} holds {counts.dtype} of shape {counts.shape}, not counts of shape {self.shape}: "
                f"delete {self.folder}; it is made again"
            )
        frames = torch.from_numpy(counts)
        if self.T_train is not None:
            frames = frames[torch.randperm(len(frames))[: self.T_train].sort().values]
        frames = frames.float()
        return (self.augment(frames) if self.augment else frames), target


def time_first(batch: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Samples (frames [T, 2, H, W], class) -> (frames [T, N, 2, H, W], classes [N])."""
    return torch.stack([frames for frames, _ in batch], dim=1), torch.tensor([target for _, target in batch])


@dataclass(frozen=True)
class EventDataset:
    """What is particular to a data set.

    Attributes:
        name: of --dataset, and of the folder with its script.
        classes: their names, in order.
        T_train: the part of a sample's frames that its published recipe trains on.
        resources: (file, address, MD5) of each of its downloads.
        write_digits: (folder, keep_alive) -> the digits below the folder, in the data set's own files.
        open_originals: (folder, whether it is the real data set) -> its files; UserError if some are missing.
        divide: (folder of frames, the processes) -> (training samples, test samples).
    """

    name: str
    classes: tuple[str, ...]
    T_train: float
    resources: Callable[[], list[tuple[str, str, str]]]
    write_digits: Callable[[Path, Callable[[], None]], None]
    open_originals: Callable[[Path, bool], Originals]
    divide: Callable[[Path, World], tuple[Split, Split]]

    def load(self, options: EventOptions, world: World, T: int | None) -> Datasets:
        """The data set that --dataset names, converted to frames first if it is not yet.

        Raises:
            UsageError: the options don't fit together.
            UserError: the data are missing or not what they should be.
        """
        assert T is not None  # the scripts of event data have a default
        if options.dataset not in (self.name, DIGITS):
            raise UsageError(f"--dataset {options.dataset!r} is unknown: choose one of {self.name}, {DIGITS}")
        real = options.dataset == self.name
        if real and options.data_path is None:
            raise UsageError(f"--dataset {self.name} needs --data-path: the folder of {self.name}/README.md")
        if SENSOR % options.frame_size:
            raise UsageError(f"--frame-size {options.frame_size} does not divide {SENSOR}: use {SENSOR}, 64, 32 or 16")
        T_train = max(1, round(self.T_train * T)) if options.T_train is None else options.T_train
        if T_train > T:
            raise UsageError(f"--T-train {T_train} is above --T {T}: draw at most as many frames as there are")
        augment = make_augmentation(options.augment)
        root = Path(options.data_path) if options.data_path is not None else cache_home() / DIGITS / self.name
        folder = frames_folder(root, T, options.frame_size)

        def prepare(world: World) -> None:
            obtain = partial(self._obtain, real=real)
            Preparation(root, obtain, lambda extract: self.open_originals(extract, real), world).frames(
                T, options.frame_size
            )

        what = f"preparing {options.dataset}"
        with world.main_only(what) as main:
            if main:
                prepare(world)
        on_machines_without(folder, world, what, lambda: prepare(World(rank=world.rank)))  # alone there, and quiet
        train, test = self.divide(folder, world)
        classes = self.classes if real else tuple(map(str, range(10)))
        shape = (T, 2, options.frame_size, options.frame_size)
        sizes = read_record(folder)["files"]
        parts = [options.dataset]  # of the run's folder's name: the data set, and what is done to it
        parts += [f"{options.frame_size}px"] if options.frame_size != SENSOR else []
        parts += [f"Ttrain{T_train}"] if T_train != T else []
        parts += [options.augment.replace(",", "+").replace(" ", "")] if options.augment else []
        return Datasets(
            EventFrames(folder, train, shape=shape, T_train=T_train if T_train != T else None, augment=augment),
            EventFrames(folder, test, shape=shape),
            len(classes),
            in_channels=2,
            name="_".join(parts) + "_",
            collate=time_first,
            unit="samples",
            classes=classes,
            inputs={"channels": 2, "T": T, "frame_size": options.frame_size},
            recipe={
                "dataset": options.dataset,
                "T_train": T_train,
                "frame_size": options.frame_size,
                "augment": options.augment,
                "files": digest(sorted([name, label, sizes[name]] for name, label in train))[:16],
            },
        )

    def _obtain(self, extract: Path, keep_alive: Callable[[], None], *, real: bool) -> None:
        """Put the originals into the folder: from the archives beside it, or, for digits, made here."""
        download = extract.with_name("download")
        if real:
            resources = [r for r in self.resources() if r[0].endswith((".zip", ".tar.gz"))]
            for name, address, _ in resources:
                if not (download / name).is_file():
                    raise UserError(
                        f"there is no {download / name}: fetch it from {address} (see {self.name}/README.md)"
                    )
            unpack([download / name for name, _, _ in resources], extract, keep_alive, {r[0]: r[2] for r in resources})
        elif download.exists():
            unpack(sorted(download.iterdir()), extract, keep_alive)
        else:
            with replacing(extract) as folder:
                self.write_digits(folder, keep_alive)

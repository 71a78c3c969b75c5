"""Event data for training: samples as tensors of frames, batches with time first, and the options they share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.cli import Parser, positive_int
from utils.data.events.aedat import SENSOR
from utils.data.events.archives import unpack
from utils.data.events.augment import AUGMENTATIONS, make_augmentation
from utils.data.events.frames import Originals, Preparation, frames_folder
from utils.data.prepared import read_npz
from utils.launch import Datasets
from utils.runtime.distributed import World
from utils.runtime.errors import UsageError, UserError
from utils.runtime.files import cache_home, replacing

DIGITS = "digits-dvs"

Split = Sequence[tuple[str, int]]  # (file of a sample in the folder of frames, its class)


class EventFrames(Dataset):
    """Samples as float32 frames [T, 2, H, W] of event counts, with their classes.

    Args:
        folder: of frames, as `Preparation` makes it.
        samples: which of them, and their classes.
        T_train: only so many frames of each sample, drawn at random each time, in their order; all by default.
        augment: of the frames, afterwards.
    """

    def __init__(
        self,
        folder: Path,
        samples: Split,
        *,
        T_train: int | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.folder = folder
        self.samples = samples
        self.T_train = T_train
        self.augment = augment

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        name, target = self.samples[index]
        (counts,) = read_npz(self.folder, name, "frames")
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
        classes: how many it has.
        T_train: the part of a sample's frames that its published recipe trains on.
        resources: (file, address, MD5) of each of its downloads.
        write_digits: (folder, keep_alive) -> the digits below the folder, in the data set's own files.
        open_originals: (folder, whether it is the real data set) -> its files; UserError if some are missing.
        divide: (folder of frames, the processes) -> (training samples, test samples).
    """

    name: str
    classes: int
    T_train: float
    resources: Callable[[], list[tuple[str, str, str]]]
    write_digits: Callable[[Path, Callable[[], None]], None]
    open_originals: Callable[[Path, bool], Originals]
    divide: Callable[[Path, World], tuple[Split, Split]]

    def add_arguments(self, parser: Parser) -> None:
        events = parser.add_argument_group("events")
        events.add_argument("--dataset", default=DIGITS, help=f"{self.name}, or {DIGITS}: made here, no download")
        events.add_argument(
            "--T-train", "--T_train", type=positive_int, metavar="N",
            help="train on N of a sample's T frames, drawn anew each time and kept in order; default: "
            + (f"{self.T_train:g} T" if self.T_train < 1 else "all"),
        )  # fmt: skip
        events.add_argument(
            "--frame-size", type=positive_int, default=SENSOR, metavar="PIXELS",
            help=f"side of the frames; below {SENSOR} pixels are summed, as on a coarser sensor",
        )  # fmt: skip
        events.add_argument(
            "--augment", default="", metavar="NAMES",
            help=f"change training samples at random: {', '.join(AUGMENTATIONS)}; several with commas between them",
        )  # fmt: skip

    def load(self, args: argparse.Namespace, world: World) -> Datasets:
        """The data set that --dataset names, converted to frames first if it is not yet.

        Raises:
            UsageError: the options don't fit together.
            UserError: the data are missing or not what they should be.
        """
        if args.dataset not in (self.name, DIGITS):
            raise UsageError(f"--dataset {args.dataset!r} is unknown: choose one of {self.name}, {DIGITS}")
        real = args.dataset == self.name
        if real and args.data_path is None:
            raise UsageError(f"--dataset {self.name} needs --data-path: the folder of {self.name}/README.md")
        if SENSOR % args.frame_size:
            raise UsageError(f"--frame-size {args.frame_size} does not divide {SENSOR}: use {SENSOR}, 64, 32 or 16")
        T_train = max(1, round(self.T_train * args.T)) if args.T_train is None else args.T_train
        if T_train > args.T:
            raise UsageError(f"--T-train {T_train} is above --T {args.T}: draw at most as many frames as there are")
        augment = make_augmentation(args.augment)
        root = Path(args.data_path) if args.data_path is not None else cache_home() / DIGITS / self.name
        folder = frames_folder(root, args.T, args.frame_size)
        with world.main_only(f"preparing {args.dataset}") as main:
            if main:
                preparation = Preparation(
                    root, partial(self._obtain, real=real), lambda extract: self.open_originals(extract, real), world
                )
                preparation.frames(args.T, args.frame_size)
        train, test = self.divide(folder, world)
        parts = [args.dataset]  # of the run's folder's name: the data set, and what is done to it
        parts += [f"{args.frame_size}px"] if args.frame_size != SENSOR else []
        parts += [f"Ttrain{T_train}"] if T_train != args.T else []
        parts += [args.augment.replace(",", "+").replace(" ", "")] if args.augment else []
        return Datasets(
            EventFrames(folder, train, T_train=T_train if T_train != args.T else None, augment=augment),
            EventFrames(folder, test),
            self.classes if real else 10,
            in_channels=2,
            name="_".join(parts) + "_",
            collate=time_first,
            unit="samples",
            recipe={
                "dataset": args.dataset,
                "T_train": T_train,
                "frame_size": args.frame_size,
                "augment": args.augment,
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

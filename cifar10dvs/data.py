"""CIFAR10-DVS: a folder for each class, a recording for each sample; the first nine tenths of each class train."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from full_spike.utils.data.events.aedat import Events, read_aedat2
from full_spike.utils.data.events.dataset import EventDataset, Split
from full_spike.utils.data.events.frames import Originals
from full_spike.utils.data.events.simulated import write_as_cifar10dvs
from full_spike.utils.data.machines import on_machines_without
from full_spike.utils.data.prepared import locked, read_json, read_record, write_json
from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORDINGS = 1000  # of each class
RULE = "of each class, in the order of their names, the first 90 % train and the others test"


def resources() -> list[tuple[str, str, str]]:
    from spikingjelly.datasets import CIFAR10DVS

    return CIFAR10DVS.resource_url_md5()


def write_digits(folder: Path, keep_alive: Callable[[], None]) -> None:
    write_as_cifar10dvs(folder, keep_alive)


def open_originals(extract: Path, real: bool) -> Originals:
    """Every class's recordings.

    Raises:
        UserError: a class is missing or incomplete.
    """
    again = f"{extract} is incomplete; delete it and unpack the archives again"
    recordings = []
    for name in CLASSES if real else map(str, range(10)):
        found = sorted((extract / name).glob("*.aedat"))
        if not found or (real and len(found) != RECORDINGS):
            wanted = f" instead of {RECORDINGS}" if real else ""
            raise UserError(f"{extract / name} holds {len(found)} recordings (*.aedat){wanted}: {again}")
        recordings += found

    def read(recording: Path) -> list[tuple[str, Events]]:
        return [(f"{recording.parent.name}/{recording.stem}", read_aedat2(recording))]

    return Originals(recordings, [], read)


def split(names: list[str]) -> dict[str, list[str]]:
    """Names such as "cat/cifar10_cat_12.npz" divided into {"train": ..., "test": ...}, as SEW-ResNet divides them."""
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for label in sorted({name.split("/")[0] for name in names}):
        mine = sorted(name for name in names if name.startswith(f"{label}/"))
        first = math.ceil(len(mine) * 0.9)
        parts["train"] += mine[:first]
        parts["test"] += mine[first:]
    return parts


def divide(folder: Path, world: World) -> tuple[Split, Split]:
    """(training samples, test samples) by split.json beside the folder, written if it is not there.

    Raises:
        UserError: split.json was changed, or is of other samples.
    """
    path = folder.with_name("split.json")
    expected = {"rule": RULE, **split(list(read_record(folder)["files"]))}

    def write() -> None:
        with locked(path.parent):
            write_json(path, expected)

    on_machines_without(path, world, "dividing the data", write)
    stored = read_json(path)
    if stored != expected:
        raise UserError(f"{path} does not divide the samples of {folder} by its rule: delete it; it is made again")
    labels = {label: i for i, label in enumerate(sorted({name.split("/")[0] for name in expected["train"]}))}
    if len(labels) > len(CLASSES):
        raise UserError(f"{folder} holds {len(labels)} classes instead of {len(CLASSES)}: delete it; it is made again")
    train, test = ([(name, labels[name.split("/")[0]]) for name in stored[part]] for part in ("train", "test"))
    return train, test


CIFAR10DVS = EventDataset("cifar10dvs", CLASSES, 1.0, resources, write_digits, open_originals, divide)
load = CIFAR10DVS.load

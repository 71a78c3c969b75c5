"""Which images a folder holds: one folder for each class, with images at any depth below."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from full_spike.utils.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's
THREADS = 16  # that list classes: a network file system takes a while for each answer, and gives many at a time
TICK = 0.02  # s, more than the clocks of file systems take for a step


@dataclass(frozen=True)
class ImageIndex:
    """The images below a folder, in sorted order. Arrays, not a list: loading processes share them without copying.

    Attributes:
        classes: names, sorted; a class is its place in here.
        names: all paths relative to the folder, one after the other, as the file system's bytes [bytes].
        ends: where each path ends in `names` [images].
        targets: the class of each image [images].
        sizes: of each file when it was listed, in bytes [images]; -1 where it could not be looked at.
        directories: the folder and all those below, sorted, relative to it.
        modified: when each of them was changed last, in ns [directories].
    """

    root: Path
    classes: list[str]
    names: np.ndarray
    ends: np.ndarray
    targets: np.ndarray
    sizes: np.ndarray
    directories: list[str]
    modified: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def fingerprint(self) -> str:
        """A word for the names, classes and sizes of all images."""
        found = hashlib.sha256("\n".join(self.classes).encode(errors="surrogateescape"))
        for array in (self.names, self.ends, self.targets, self.sizes):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()[:16]

    def subset(self, chosen: np.ndarray) -> ImageIndex:
        """Some of the images, in their order; classes stay what they are.

        Args:
            chosen: their numbers, ascending.
        """
        begins = np.concatenate([[0], self.ends[:-1]])
        parts = [self.names[begins[i] : self.ends[i]] for i in chosen]
        return dataclasses.replace(
            self,
            names=np.concatenate(parts),
            ends=np.cumsum([len(part) for part in parts], dtype=np.int64),
            targets=self.targets[chosen],
            sizes=self.sizes[chosen],
        )

    def divide(self, share: float, seed: int) -> tuple[ImageIndex, ImageIndex]:
        """(the others, a share of each class), at least one image in each.

        Raises:
            UserError: a class has a single image.
        """
        aside = np.zeros(len(self), dtype=bool)
        for label, name in enumerate(self.classes):
            mine = np.flatnonzero(self.targets == label)
            if len(mine) < 2:
                raise UserError(f"the class {name} of {self.root} has one image, which cannot be divided: add another")
            count = min(max(1, round(share * len(mine))), len(mine) - 1)
            aside[np.random.default_rng([seed, label]).permutation(mine)[:count]] = True
        return self.subset(np.flatnonzero(~aside)), self.subset(np.flatnonzero(aside))

    def path(self, index: int) -> str:
        begin = self.ends[index - 1] if index else 0
        return os.path.join(self.root, os.fsdecode(bytes(self.names[begin : self.ends[index]])))


@dataclass(frozen=True, order=True)
class _Directory:
    """A directory as it was found. Its identity is what two paths to it share."""

    path: str
    identity: tuple[int, int]
    modified: int
    folders: list[str]
    images: list[tuple[str, int]]  # names and sizes in bytes


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _read(path: str) -> _Directory:
    """List a directory. A link that leads nowhere is none of its folders."""
    status = os.stat(path)
    # a change in the same tick of the clock as the last one would not change the time: let the tick pass
    time.sleep(max(0.0, min(TICK, status.st_mtime + TICK - time.time())))
    folders: list[str] = []
    images: list[tuple[str, int]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            if is_folder:
                folders.append(entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                images.append((entry.name, _size(entry)))
    return _Directory(path, _identity(status), status.st_mtime_ns, sorted(folders), sorted(images))


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link that leads nowhere: reading it will say so
        return -1


def _walk(root: _Directory, name: str, above: frozenset[tuple[int, int]]) -> list[_Directory]:
    """A folder of a directory and all folders below it, sorted, following links.

    A link to a folder that it is in (`above`: the identities of those that `root` is in) would lead to the same files
    again and again: it is passed over.
    """
    found = []
    waiting = [(os.path.join(root.path, name), above | {root.identity})]
    while waiting:
        path, inside = waiting.pop()
        if _identity(os.stat(path)) in inside:
            continue
        directory = _read(path)
        found.append(directory)
        waiting += [(os.path.join(path, folder), inside | {directory.identity}) for folder in directory.folders]
    return sorted(found)


def _images(directory: _Directory, root: Path) -> list[tuple[bytes, int]]:
    """The paths of a directory's images, relative to a root above it, and their sizes."""
    prefix = os.fsencode(os.path.relpath(directory.path, root))
    return [(os.path.join(prefix, os.fsencode(name)), size) for name, size in directory.images]


def scan(root: Path, keep_alive: Callable[[], None] = lambda: None) -> ImageIndex:
    """List `root/<class>/**/<image>`; an image is told by its suffix.

    Args:
        keep_alive: called again and again while it works.

    Raises:
        UserError: the folder is missing, holds no class, or a class holds no image.
        OSError: a folder may not be read.
    """
    expected = f"images are expected as {root}/<class>/<image>"
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: {expected}")
    top = _read(str(root))
    if not top.folders:
        raise UserError(f"Couldn't find any class folder in {root}: {expected}")
    above = frozenset(_identity(os.stat(folder)) for folder in root.absolute().parents)
    directories = [top]
    by_class: list[list[tuple[bytes, int]]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for below in pool.map(lambda name: _walk(top, name, above), top.folders):
                directories += below
                by_class.append([image for directory in below for image in _images(directory, root)])
                keep_alive()
        finally:
            pool.shutdown(cancel_futures=True)
    empty = [name for name, images in zip(top.folders, by_class, strict=True) if not images]
    if empty:
        raise UserError(
            f"Found no valid file for the classes {', '.join(empty)}: {expected}, named {', '.join(SUFFIXES)}"
        )
    names, sizes = zip(*(image for images in by_class for image in images), strict=True)
    return ImageIndex(
        root,
        top.folders,
        np.frombuffer(b"".join(names), dtype=np.uint8),
        np.cumsum([len(name) for name in names], dtype=np.int64),
        np.repeat(np.arange(len(by_class)), [len(images) for images in by_class]),
        np.array(sizes, dtype=np.int64),
        [os.path.relpath(directory.path, root) for directory in directories],
        np.array([directory.modified for directory in directories], dtype=np.int64),
    )


def modification_times(root: Path, directories: Iterable[str]) -> np.ndarray:
    """When each of them was changed last, in ns [directories]; OSError if one cannot be looked at any more."""
    times = (os.stat(os.path.join(root, name)).st_mtime_ns for name in directories)
    return np.fromiter(times, dtype=np.int64)

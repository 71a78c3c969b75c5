"""Which images a folder holds, and a cache of that: listing the 1.28 million of ImageNet takes minutes on a cold disk.

The cache is an .npz of plain arrays under ~/.cache/full-spike (or $XDG_CACHE_HOME), one file for each folder. It is
trusted while every directory of the folder has the modification time that it had when it was listed: adding, removing
or renaming anything changes one of them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from utils.runtime.errors import UserError
from utils.runtime.files import cache_home, replacing

VERSION = 1


@dataclass(frozen=True)
class ImageIndex:
    """The images below a folder, in sorted order. Arrays, not a list: loading processes share them without copying.

    Attributes:
        classes: names, sorted; a class is its place in here.
        names: all paths relative to the folder, one after the other, as UTF-8 bytes [bytes].
        ends: where each path ends in `names` [images].
        targets: the class of each image [images].
    """

    root: Path
    classes: list[str]
    names: np.ndarray
    ends: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def path(self, index: int) -> str:
        begin = self.ends[index - 1] if index else 0
        return os.path.join(self.root, bytes(self.names[begin : self.ends[index]]).decode())


def scan(root: Path) -> ImageIndex:
    """List `root/<class>/**/<image>`.

    Raises:
        UserError: the folder is missing, holds no class, or a class holds no image.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: images are expected as {root}/<class>/<image>")
    try:
        classes, numbers = find_classes(str(root))
        samples = make_dataset(str(root), numbers, extensions=IMG_EXTENSIONS)
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0].split(". Supported")[0].rstrip(".")
        raise UserError(f"{reason}: images are expected as {root}/<class>/<image>") from None
    names = [os.path.relpath(path, root).encode() for path, _ in samples]
    return ImageIndex(
        root,
        classes,
        np.frombuffer(b"".join(names), dtype=np.uint8),
        np.cumsum([len(name) for name in names], dtype=np.int64),
        np.array([target for _, target in samples], dtype=np.int64),
    )


def directories_below(root: Path) -> list[str]:
    """Every directory below the folder, itself included, relative to it."""
    return sorted(os.path.relpath(folder, root) for folder, _, _ in os.walk(root, followlinks=True))


def modification_times(root: Path, directories: list[str]) -> np.ndarray:
    return np.array([os.stat(os.path.join(root, name)).st_mtime_ns for name in directories], dtype=np.int64)


def cache_path(root: Path) -> Path:
    """Where the index of a folder is cached."""
    return cache_home() / f"images-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.npz"


def save(path: Path, index: ImageIndex, directories: list[str], modified: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, contended=True) as partial, open(partial, "wb") as file:
        np.savez(
            file,
            version=np.int64(VERSION),
            root=np.array(str(index.root.resolve())),
            classes=np.array(index.classes),
            directories=np.array(directories),
            modified=modified,
            names=index.names,
            ends=index.ends,
            targets=index.targets,
        )


def load(path: Path, root: Path) -> ImageIndex | None:
    """The cached index, or None if the folder has changed since.

    Raises:
        ValueError, KeyError, OSError: the file is damaged or something else.
    """
    with np.load(path, allow_pickle=False) as stored:
        if int(stored["version"]) != VERSION or str(stored["root"]) != str(root.resolve()):
            return None
        try:
            if not np.array_equal(modification_times(root, stored["directories"].tolist()), stored["modified"]):
                return None
        except FileNotFoundError:
            return None
        return ImageIndex(root, stored["classes"].tolist(), stored["names"], stored["ends"], stored["targets"])


def index_images(root: Path, *, cache: bool = False, say: Callable[[str], None] = lambda _: None) -> ImageIndex:
    """List a folder's images, from the cache if it is asked for and still true; `say` hears which."""
    if not cache or not root.is_dir():
        return scan(root)
    path = cache_path(root)
    began = time.monotonic()
    try:
        index = load(path, root) if path.exists() else None
        reason = "the folder changed" if path.exists() else "first time"
    except Exception as error:  # whatever a damaged file makes numpy's and zipfile's readers raise
        index, reason = None, f"the cache is damaged: {(str(error).splitlines() or ['empty'])[0]}"
    if index is not None:
        say(f"{len(index)} images of {root} from the index {path} in {time.monotonic() - began:.1f} s")
        return index
    directories = directories_below(root)
    modified = modification_times(root, directories)
    # a change in the same tick of the file system's clock as the last one would go unnoticed: let the tick pass
    time.sleep(max(0.0, min(0.02, (modified.max() - time.time_ns()) / 1e9 + 0.02)))
    index = scan(root)
    try:
        save(path, index, directories, modified)
        say(f"{len(index)} images of {root} listed in {time.monotonic() - began:.1f} s ({reason}), cached in {path}")
    except OSError as error:
        say(f"warning: cannot cache the index of {root} in {path} ({error.strerror}): it is listed at each start")
    return index

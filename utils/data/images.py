"""Folders of images, one folder a class: how they are listed, divided, normalised and read.

`args` has the fields of `options.add_loading_arguments` and `add_folder_arguments`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.io import ImageReadMode, decode_jpeg

from full_spike.utils.data.options import KNOWN, MEASURED
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import cache_home, replacing
from full_spike.utils.log import RunLog

Index = dict[str, np.ndarray]  # see `list_images`
Numbers = tuple[float, ...]  # one for each channel

warnings.filterwarnings("ignore", module=r"PIL\.")  # of oddities beside the pixels, such as damaged EXIF data


class ImageFolder(Dataset):
    """The images `root/<class>/**`, each with the number of its class, in the order of torchvision's `ImageFolder`.

    That one takes hidden files (`._x.JPEG`) for images, and keeps a list of tuples, which every loading process copies
    as it reads them (pytorch#13246): hence arrays.

    Args:
        root: the folder.
        index: what it holds, if it has been listed already.
        transform: of a PIL image.
    """

    def __init__(self, root: Path, index: Index | None = None, transform: Callable | None = None) -> None:
        self.root = root
        self.index = list_images(root) if index is None else index
        self.classes = tuple(self.index["classes"].tolist())
        self.transform = transform
        self.load: Callable = load_image

    def __len__(self) -> int:
        return len(self.index["paths"])

    def name_of(self, i: int) -> str:
        """The image's path."""
        return os.path.join(self.root, os.fsdecode(self.index["paths"][i]))

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image = self.load(self.name_of(i))
        return image if self.transform is None else self.transform(image), int(self.index["targets"][i])

    def fingerprint(self) -> str:
        """A digest of the names, classes and sizes of all images."""
        found = hashlib.sha256("\n".join(self.classes).encode(errors="surrogateescape"))
        paths, targets, sizes = (self.index[name] for name in ("paths", "targets", "sizes"))
        found.update(b"".join(paths.tolist()))
        for numbers in (np.cumsum(np.char.str_len(paths)), targets, sizes):
            found.update(numbers.tobytes())
        return found.hexdigest()[:16]

    def divide(self, share: float, seed: int) -> tuple[ImageFolder, ImageFolder]:
        """(the others, a share of each class), at least one image in each."""
        aside = np.zeros(len(self), dtype=bool)
        for label, name in enumerate(self.classes):
            mine = np.flatnonzero(self.index["targets"] == label)
            if len(mine) < 2:
                raise UserError(f"the class {name} of {self.root} has one image, which cannot be divided: add another")
            count = min(max(1, round(share * len(mine))), len(mine) - 1)
            aside[np.random.default_rng([seed, label]).permutation(mine)[:count]] = True
        return self._only(~aside), self._only(aside)

    def _only(self, chosen: np.ndarray) -> ImageFolder:
        some = {name: self.index[name][chosen] for name in ("paths", "targets", "sizes")}
        return ImageFolder(self.root, {**self.index, **some}, self.transform)

    def evenly(self, most: int) -> Iterator[Image.Image]:
        """At most so many images, evenly over all, read as they are asked for."""
        count = min(most, len(self))
        return (load_image(self.name_of(i * len(self) // count)) for i in range(count))


def _walk(folder: str) -> Iterator[tuple[str, int, list[tuple[str, int]]]]:
    """(a folder, when it was changed, its images with their sizes) of it and of all below; hidden ones are left out."""
    changed = os.stat(folder).st_mtime_ns  # before it is listed: what comes in between makes the list out of date
    below, images = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below.append(entry.path)
            elif entry.name.lower().endswith(IMG_EXTENSIONS):
                images.append((entry.path, entry.stat().st_size))
    yield folder, changed, sorted(images)
    for path in below:
        yield from _walk(path)


def list_images(root: Path) -> Index:
    """The images `root/<class>/**/<image>`, told by their suffixes.

    Returns:
        classes: their names, sorted.
        paths, targets, sizes: of each image the path relative to the root, the class, and the bytes.
        folders, times: every folder, and when it was changed last [ns]: the list holds until one is.

    Raises:
        UserError: the folder is missing, holds no class, or a class holds no image.
        OSError: a folder or an image may not be looked at.
    """
    expected = f"images are expected as {root}/<class>/<image>"
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: {expected}")
    changed = root.stat().st_mtime_ns
    classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise UserError(f"there is no class folder in {root}: {expected}")
    with ThreadPoolExecutor(
        16
    ) as pool:  # a network file system takes a while for each answer, and gives many at a time
        by_class = list(pool.map(lambda name: sorted(_walk(os.path.join(root, name))), classes))
    counts = [sum(len(images) for _, _, images in folders) for folders in by_class]
    if 0 in counts:
        empty = classes[counts.index(0)]
        raise UserError(f"no image in the class {empty}: {expected}, named {', '.join(IMG_EXTENSIONS)}")
    folders = [(str(root), changed, []), *(folder for found in by_class for folder in found)]
    images = [image for _, _, found in folders for image in found]
    start = len(os.path.join(root, ""))
    return {
        "classes": np.array(classes),
        "paths": np.array([os.fsencode(path[start:]) for path, _ in images]),
        "targets": np.repeat(np.arange(len(classes)), counts),
        "sizes": np.array([size for _, size in images]),
        "folders": np.array([os.fsencode(folder[start:]) for folder, _, _ in folders]),
        "times": np.array([changed for _, changed, _ in folders]),
    }


def list_images_once(root: Path, say: Callable[[str], None]) -> Index:
    """`list_images`, kept for later runs: listing the 1.28 million of ImageNet takes minutes on a cold disk."""
    path = cache_home() / f"list-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.npz"
    with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile):  # not kept yet, damaged, a folder gone
        with np.load(path, allow_pickle=False) as arrays:
            index = dict(arrays)
        now = [os.stat(os.path.join(root, os.fsdecode(folder))).st_mtime_ns for folder in index["folders"]]
        if now == index["times"].tolist():
            say(f"{len(index['paths'])} images of {root} from the list {path}")
            return index
    began = time.monotonic()
    index = list_images(root)
    say(f"{len(index['paths'])} images of {root} listed in {time.monotonic() - began:.1f} s")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, contended=True) as partial, open(partial, "wb") as file:
        np.savez(file, **index)  # type: ignore[arg-type]  # none of them is called allow_pickle
    return index


def load_folder(
    args: Namespace, world: World, *, tests: Sequence[str], default: str
) -> tuple[ImageFolder, ImageFolder, Numbers, Numbers]:
    """(training images, test images, mean, standard deviation) of --data-path, the same in all processes.

    Args:
        world: the processes, all of which call this; the main one looks.
        tests: names that the folder to test on may have; the first one that there is counts.
        default: the known data set as which colours are normalised unless --mean says otherwise; grey is measured.

    Raises:
        UserError: a folder is not as expected, or the classes differ, or there is only one.
        UsageError: options that do not go together.
    """
    found = None
    with world.main_only(f"listing the images of {args.data_path}") as main:
        if main:
            train, test = _splits(Path(args.data_path), args, tests, RunLog(world).say)
            found = (train, test, *_normalisation(train, args, default))
    return world.share(found)  # type: ignore[return-value]


def _splits(
    root: Path, args: Namespace, tests: Sequence[str], say: Callable[[str], None]
) -> tuple[ImageFolder, ImageFolder]:
    """The training and the test images, with the same classes, since these are numbered by name."""

    def folder(name: str) -> ImageFolder:
        return ImageFolder(root / name, list_images_once(root / name, say) if args.cache_dataset else None)

    train = folder("train")
    if len(train.classes) == 1:
        raise UserError(f"{train.root} holds one class alone, {train.classes[0]}: add another to tell it from")
    there = next((name for name in tests if (root / name).is_dir()), None)
    if there and args.split is not None:
        raise UsageError(f"--split {args.split:g} divides train/ and {root} has {there}/ to test on: leave one out")
    if not there and args.split is None:
        either = " or ".join(str(root / name) for name in tests)
        raise UserError(f"there is no folder {either} to test on: make one, or give --split 0.1")
    if not there:
        return train.divide(args.split, args.split_seed)
    test = folder(there)
    only = sorted({*train.classes} ^ {*test.classes})
    if only:
        raise UserError(
            f"only one of {train.root} and {test.root} holds {', '.join(only[:3])}: make the classes the same"
        )
    return train, test


def _normalisation(images: ImageFolder, args: Namespace, default: str) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation, one number for each channel."""
    numbers = given_numbers(args)
    channels = args.channels or (1 if are_grey(images) else 3)
    name = args.mean or args.std or (default if channels == 3 else MEASURED)
    if numbers is None and name == MEASURED:
        return measure(images, channels)
    mean, std = numbers or KNOWN[name]
    if channels == 1 and numbers is None:
        return (float(np.mean(mean)),), (float(np.mean(std)),)
    if not {len(mean), len(std)} <= {1, channels}:
        raise UsageError(f"--mean {args.mean} and --std {args.std}: give one number for each of {channels} channels")
    return mean * (channels // len(mean)), std * (channels // len(std))


def given_numbers(args: Namespace) -> tuple[Numbers, Numbers] | None:
    """--mean and --std where they are numbers; None where they are one name or left out.

    Raises:
        UsageError: they are of two kinds, or a deviation is not above 0.
    """
    given = [value for value in (args.mean, args.std) if value is not None]
    named = [value for value in given if value in (*KNOWN, MEASURED)]
    if named == given and len(set(named)) <= 1:
        return None
    if named or len(given) == 1:
        raise UsageError(f"--mean {args.mean} and --std {args.std}: give one name, or numbers for both")
    # a text of the command line, or a list of a configuration or of a checkpoint's recipe
    mean, std = (tuple(map(float, value.split(",") if isinstance(value, str) else value)) for value in given)
    if min(std) <= 0.0:
        raise UsageError(f"--std {args.std} is not above 0")
    return mean, std


def are_grey(images: ImageFolder) -> bool:
    """Whether 200 of the images, evenly over all, have no colours, whatever their files could hold."""
    pixels = (np.asarray(image) for image in images.evenly(200))  # [H, W, 3]
    return all((image == image[..., :1]).all() for image in pixels)


def measure(images: ImageFolder, channels: int) -> tuple[Numbers, Numbers]:
    """Means and standard deviations by channel over the pixels, in [0, 1], of at most 10,000 images.

    Each image weighs the same.
    """
    moments = []
    for image in images.evenly(10_000):
        image = image if channels == 3 else image.convert("L")
        pixels = np.asarray(image, dtype=np.float64).reshape(-1, channels) / 255.0
        moments.append((pixels.mean(axis=0), (pixels**2).mean(axis=0)))
    mean, square = np.mean(moments, axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    if not std.all():
        raise UserError(f"the images of {images.root} are all of one level: there is nothing to tell apart")
    return tuple(np.round(mean, 6).tolist()), tuple(np.round(std, 6).tolist())  # rounded: the same on any machine


def load_image(path: str | Path) -> Image.Image:
    """An image as RGB with 8 bits, whatever it was: grey, CMYK, with a palette, or grey with 16 bits.

    Raises:
        UserError: it cannot be read, or has pixels of an unknown range.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # of those, 0..65535
                raise ValueError("its pixels are numbers of an unknown range; save it with 8 or 16 bits")
            if image.mode.startswith("I"):  # by their range: Pillow itself would cut off all that is above 255
                pixels = (np.asarray(image).astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF
                return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except Exception as error:  # whatever a damaged file makes Pillow's readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(f"cannot read the image {path} ({reason}): replace it or take it out")


def decode(path: str) -> Image.Image | Tensor:
    """A JPEG as bytes [3, H, W], upright, by torchvision, which is faster; other images as `load_image` has them."""
    content = Path(path).read_bytes()
    if content.startswith(b"\xff\xd8"):
        with contextlib.suppress(RuntimeError):  # damaged, or of a rare kind: Pillow reads it, or says what is wrong
            encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            return decode_jpeg(encoded, ImageReadMode.RGB, apply_exif_orientation=True)
    return load_image(path)

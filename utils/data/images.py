"""Folders of images, one folder a class: how they are listed, divided, normalised and read.

`args` has the fields of `options.add_loading_arguments` and `add_folder_arguments`.
"""

from __future__ import annotations

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
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from full_spike.utils.data.options import KNOWN, MEASURED
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import cache_home, replacing
from full_spike.utils.log import RunLog

# what Pillow may take a file for, whatever its name; for others, such as EPS, it would start another program
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
THREADS = 16  # that list classes: a network file system takes a while for each answer, and gives many at a time

Index = dict[str, np.ndarray]  # see `list_images`
Say = Callable[[str], None]
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
        self.transform = transform

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.index["classes"].tolist())

    def __len__(self) -> int:
        return len(self.index["paths"])

    def name_of(self, i: int) -> str:
        """The image's path."""
        return os.path.join(self.root, os.fsdecode(self.index["paths"][i]))

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image = load_image(self.name_of(i))
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
    with ThreadPoolExecutor(THREADS) as pool:
        by_class = list(pool.map(lambda name: sorted(_walk(os.path.join(root, name))), classes))
    counts = [sum(len(images) for _, _, images in folders) for folders in by_class]
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        some = ", ".join(empty[:3]) + (" and others" if len(empty) > 3 else "")
        raise UserError(f"no image in the classes {some}: {expected}, named {', '.join(IMG_EXTENSIONS)}")
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


def list_images_once(root: Path, say: Say) -> Index:
    """`list_images`, kept for later runs: listing the 1.28 million of ImageNet takes minutes on a cold disk."""
    path, began = cache_path(root, "list"), time.monotonic()
    index = _kept(path)
    if index is not None and _is_current(index, root):
        say(f"{len(index['paths'])} images of {root} from the list {path} in {time.monotonic() - began:.1f} s")
        return index
    index = list_images(root)
    say(f"{len(index['paths'])} images of {root} listed in {time.monotonic() - began:.1f} s")
    _keep(path, index, say)
    return index


def _is_current(index: Index, root: Path) -> bool:
    try:
        now = [os.stat(os.path.join(root, os.fsdecode(folder))).st_mtime_ns for folder in index["folders"]]
    except OSError:  # one is gone
        return False
    return now == index["times"].tolist()


def cache_path(root: Path, kind: str, *words: object) -> Path:
    """Where something of a folder is kept for later runs."""
    key = os.fsencode("\0".join(map(str, (root.resolve(), *words))))
    return cache_home() / f"{kind}-{hashlib.sha256(key).hexdigest()[:16]}.npz"


def _kept(path: Path) -> Index | None:
    """What an earlier run has kept; None where it has not, or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _keep(path: Path, arrays: Index, say: Say) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, contended=True) as partial, open(partial, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # none of them is called allow_pickle
    except OSError as error:
        say(f"warning: cannot write {path} ({error.strerror}): each start does this again")


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
            say = RunLog(world).say
            train, test = _splits(Path(args.data_path), args, tests, say)
            found = (train, test, *_normalisation(train, args, default, say))
    return world.share(found)  # type: ignore[return-value]


def _splits(root: Path, args: Namespace, tests: Sequence[str], say: Say) -> tuple[ImageFolder, ImageFolder]:
    """The training and the test images, with the same classes, since these are numbered by name."""

    def folder(name: str) -> ImageFolder:
        return ImageFolder(root / name, list_images_once(root / name, say) if args.cache_dataset else None)

    train = folder("train")
    there = next((name for name in tests if (root / name).is_dir()), None)
    if there and args.split is not None:
        raise UsageError(f"--split {args.split:g} divides train/ and {root} has {there}/ to test on: leave one out")
    if not there and args.split is None:
        either = " or ".join(str(root / name) for name in tests)
        raise UserError(f"there is no folder {either} to test on: make one, or give --split 0.1")
    train, test = (train, folder(there)) if there else train.divide(args.split, args.split_seed)
    if train.classes != test.classes:
        only = {f.root: sorted({*f.classes} - {*g.classes}) for f, g in ((train, test), (test, train))}
        parts = "; ".join(f"only in {folder}: {', '.join(names[:3])}" for folder, names in only.items() if names)
        raise UserError(f"the classes of {train.root} and {test.root} differ ({parts}): make them the same")
    if len(train.classes) == 1:
        raise UserError(f"{train.root} holds one class alone, {train.classes[0]}: add another to tell it from")
    return train, test


def _normalisation(images: ImageFolder, args: Namespace, default: str, say: Say) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation, one number for each channel."""
    numbers = given_numbers(args)
    channels = args.channels or (1 if are_grey(images) else 3)
    if numbers is not None:
        for flag, values in zip(("--mean", "--std"), numbers, strict=True):
            if len(values) not in (1, channels):
                raise UserError(
                    f"{flag} has {len(values)} numbers and the images {channels} channels: give one for each"
                )
        mean, std = (values * (channels // len(values)) for values in numbers)
        return mean, std
    name = args.mean or args.std or (default if channels == 3 else MEASURED)
    if name == MEASURED:
        return _measure_once(images, channels, say)
    mean, std = KNOWN[name]
    return (mean, std) if channels == 3 else ((float(np.mean(mean)),), (float(np.mean(std)),))


def given_numbers(args: Namespace) -> tuple[Numbers, Numbers] | None:
    """--mean and --std where they are numbers; None where they are one name or left out.

    Raises:
        UsageError: they are of two kinds.
    """
    given = [value for value in (args.mean, args.std) if value is not None]
    named = [value for value in given if value in (*KNOWN, MEASURED)]
    if named == given and len(set(named)) <= 1:
        return None
    if named or len(given) == 1:
        raise UsageError(f"--mean {args.mean} and --std {args.std}: give one name, or numbers for both")
    # a text of the command line, or a list of a configuration or of a checkpoint's recipe
    mean, std = (tuple(map(float, value.split(",") if isinstance(value, str) else value)) for value in given)
    return mean, std


def _evenly(images: ImageFolder, most: int) -> list[str]:
    """Paths of at most so many images, evenly over all."""
    count = min(most, len(images))
    return [images.name_of(i * len(images) // count) for i in range(count)]


def are_grey(images: ImageFolder) -> bool:
    """Whether 200 of the images, evenly over all, have no colours, whatever their files could hold."""
    pixels = (np.asarray(load_image(path)) for path in _evenly(images, 200))  # [H, W, 3]
    return all((image == image[..., :1]).all() for image in pixels)


def measure(images: ImageFolder, channels: int) -> tuple[Numbers, Numbers]:
    """Means and standard deviations by channel over the pixels, in [0, 1], of at most 10,000 images.

    Each image weighs the same.
    """
    sums = np.zeros((2, channels))
    paths = _evenly(images, 10_000)
    for path in paths:
        image = load_image(path) if channels == 3 else load_image(path).convert("L")
        pixels = np.asarray(image, dtype=np.float64).reshape(-1, channels) / 255.0
        sums += pixels.mean(axis=0), (pixels**2).mean(axis=0)
    mean, square = sums / len(paths)
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    if not std.all():
        raise UserError(f"the images of {images.root} are all of one level: there is nothing to tell apart")
    return tuple(np.round(mean, 6).tolist()), tuple(np.round(std, 6).tolist())  # rounded: the same on any machine


def _measure_once(images: ImageFolder, channels: int, say: Say) -> tuple[Numbers, Numbers]:
    path = cache_path(images.root, "mean", images.fingerprint(), channels)
    kept = _kept(path)
    if kept is not None:
        return tuple(kept["mean"].tolist()), tuple(kept["std"].tolist())
    mean, std = measure(images, channels)
    words = [" ".join(f"{value:.4f}" for value in values) for values in (mean, std)]
    say(f"images of {images.root}: mean {words[0]}, standard deviation {words[1]}, measured")
    _keep(path, {"mean": np.array(mean), "std": np.array(std)}, say)
    return mean, std


def load_image(path: str | Path) -> Image.Image:
    """An image as RGB with 8 bits, whatever it was: grey, CMYK, with a palette, or grey with 16 bits.

    Raises:
        UserError: it cannot be read, is of another format, or has pixels of an unknown range.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return _as_rgb(image)
    except UnidentifiedImageError:
        reason = f"no {', '.join(FORMATS)}"
    except Exception as error:  # whatever a damaged file makes Pillow's readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(f"cannot read the image {path} ({reason}): replace it or take it out")


def _as_rgb(image: Image.Image) -> Image.Image:
    """Pixels of 16 bits by their range: Pillow itself would cut off all that is above 255."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # of those, 0..65535
        raise ValueError("its pixels are numbers of an unknown range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels = (np.asarray(image).astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF
        image = Image.fromarray(pixels.astype(np.uint8))
    return image.convert("RGB")


def normalise(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    """PIL image -> float32 [C, H, W], normalised; C is as many as there are means, 3 or 1."""
    grey = [v2.Grayscale()] if len(mean) == 1 else []
    return [*grey, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def evaluation_transform(
    resize: int,
    crop: int,
    mean: Sequence[float] = KNOWN["imagenet"][0],
    std: Sequence[float] = KNOWN["imagenet"][1],
    interpolation: str = "bilinear",
) -> v2.Compose:
    """PIL image -> float32 [C, crop, crop]: the shorter side resized, the centre cropped, then `normalise`."""
    fit = [v2.Resize(resize, v2.InterpolationMode(interpolation)), v2.CenterCrop(crop)]
    return v2.Compose([*fit, *normalise(mean, std)])

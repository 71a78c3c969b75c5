"""Folders of images, one folder a class, or shards of them: how they are listed, divided, normalised and read.

`args` has the fields of `options.add_loading_arguments` and `add_folder_arguments`.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import os
import time
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from full_spike.utils.data.options import KNOWN, MEASURED
from full_spike.utils.data.shards import FORMATS, Index, known_format, list_shards
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError, escaped, warn
from full_spike.utils.files import IMAGE_SUFFIXES, cache_home, is_hidden, is_image, passed_over, replacing
from full_spike.utils.log import RunLog

if TYPE_CHECKING:
    from full_spike.models import Pretrained

Numbers = tuple[float, ...]  # one for each channel
Say = Callable[[str], None]

warnings.filterwarnings("ignore", module=r"PIL\.")  # of oddities beside the pixels, such as damaged EXIF data


def read_file(root: Path, index: Index, i: int) -> bytes:
    """What is in the file of image i."""
    with open(os.path.join(root, os.fsdecode(index["paths"][i])), "rb") as file:
        return file.read()


class ImageFolder(Dataset):
    """The images `root/<class>/**`, each with the number of its class, in the order of torchvision's `ImageFolder`.

    That one takes hidden files (`._x.JPEG`) for images, and keeps a list of tuples, which every loading process copies
    as it reads them (pytorch#13246): hence arrays.

    Args:
        root: the folder.
        index: what it holds, if it has been listed already.
        transform: of a PIL image.
        read: (root, index, number of an image) -> the bytes of its file; other than by default for shards.
    """

    def __init__(
        self,
        root: Path,
        index: Index | None = None,
        transform: Callable | None = None,
        read: Callable[[Path, Index, int], bytes] = read_file,
    ) -> None:
        self.root = root
        self.index = list_images(root) if index is None else index
        self.classes = tuple(self.index["classes"].tolist())
        self.transform = transform
        self.load: Callable[[str, bytes], Any] = load_image
        self._read = read

    def __len__(self) -> int:
        return len(self.index["paths"])

    def name_of(self, i: int) -> str:
        """The image's path."""
        return os.path.join(self.root, os.fsdecode(self.index["paths"][i]))

    def read(self, i: int) -> bytes:
        """The image's file."""
        return self._read(self.root, self.index, i)

    def image(self, i: int) -> Image.Image:
        """The image as RGB; see `load_image`."""
        return load_image(self.name_of(i), self.read(i))

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image = self.load(self.name_of(i), self.read(i))
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
        return self.only(~aside), self.only(aside)

    def only(self, chosen: np.ndarray) -> ImageFolder:
        """Some of the images, by a mask of them."""
        each = {"paths", "targets", "sizes", "offsets"} & self.index.keys()
        return self._with(**{name: self.index[name][chosen] for name in each})

    def present(self) -> set[str]:
        """The classes that have images."""
        return {self.classes[k] for k in np.unique(self.index["targets"])}

    def numbered(self, classes: Sequence[str]) -> ImageFolder:
        """The same images with the numbers that these classes have."""
        if wrong := sorted(self.present() - {*classes}):
            raise UserError(
                f"{self.root} holds {', '.join(wrong[:3])}, which train/ does not: make the classes the same"
            )
        number = {name: k for k, name in enumerate(classes)}
        numbers = np.array([number.get(name, -1) for name in self.classes])
        return self._with(classes=np.array(classes), targets=numbers[self.index["targets"]])

    def _with(self, **changed: np.ndarray) -> ImageFolder:
        found = copy.copy(self)
        found.index = {**self.index, **changed}
        found.classes = tuple(found.index["classes"].tolist())
        return found

    def evenly(self, most: int) -> Iterator[Image.Image]:
        """At most so many images, evenly over all, read as they are asked for."""
        count = min(most, len(self))
        return (self.image(i * len(self) // count) for i in range(count))


Walked = tuple[str, int, list[tuple[str, int]], list[str]]


def _walk(folder: str) -> Iterator[Walked]:
    """(a folder, when it was changed, its images with their sizes, what is passed over) of it and of all below."""
    changed = os.stat(folder).st_mtime_ns  # before it is listed: what comes in between makes the list out of date
    below, images, passed = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir() and not is_hidden(entry.name):
                below.append(entry.path)
            elif is_image(entry.name):
                images.append((entry.path, entry.stat().st_size))
            else:
                passed.append(entry.path)
    yield folder, changed, sorted(images), passed
    for path in below:
        yield from _walk(path)


def list_images(root: Path, say: Say = warn) -> Index:
    """The images `root/<class>/**/<image>`, told by their suffixes. What else is there is counted in one line.

    Returns:
        classes: their names, sorted; some may have no image.
        paths, targets, sizes: of each image the path relative to the root, the class, and the bytes.
        folders, times: every folder, and when it was changed last [ns]: the list holds until one is.

    Raises:
        UserError: the folder is missing, or holds no class or no image.
        OSError: a folder or an image may not be looked at.
    """
    expected = f"images are expected as {root}/<class>/<image>"
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: {expected}")
    changed = root.stat().st_mtime_ns
    entries = sorted(root.iterdir())
    classes = [path.name for path in entries if path.is_dir() and not is_hidden(path.name)]
    if not classes:
        raise UserError(f"there is no class folder in {root}: {expected}")
    # a network file system takes a while for each answer, and gives many at a time
    with ThreadPoolExecutor(16) as pool:
        by_class = list(pool.map(lambda name: sorted(_walk(os.path.join(root, name))), classes))
    counts = [sum(len(images) for _, _, images, _ in folders) for folders in by_class]
    if not any(counts):
        raise UserError(f"there is no image in {root}: {expected}, named {', '.join(IMAGE_SUFFIXES)}")
    outside = [str(path) for path in entries if path.name not in classes]
    folders: list[Walked] = [(str(root), changed, [], outside), *(folder for found in by_class for folder in found)]
    images = [image for _, _, found, _ in folders for image in found]
    start = len(os.path.join(root, ""))
    if passed := [path[start:] for *_, found in folders for path in found]:
        say(passed_over(root, passed))
    return {
        "classes": np.array(classes),
        "paths": np.array([os.fsencode(path[start:]) for path, _ in images]),
        "targets": np.repeat(np.arange(len(classes)), counts),
        "sizes": np.array([size for _, size in images]),
        "folders": np.array([os.fsencode(folder[start:]) for folder, *_ in folders]),
        "times": np.array([changed for _, changed, *_ in folders]),
    }


def list_images_once(root: Path, say: Say, make: Callable[[Path, Say], Index] = list_images, what: str = "") -> Index:
    """`list_images`, kept for later runs: listing the 1.28 million of ImageNet takes minutes on a cold disk.

    Args:
        make: lists them, in another way for shards.
        what: of the root, in words, if not all.
    """
    try:
        key = os.fsencode(root.resolve()) + f"{what}{IMAGE_SUFFIXES}".encode()
        path = cache_home() / f"list-{hashlib.sha256(key).hexdigest()[:16]}.npz"
    except UserError as error:
        say(f"warning: {error}")
        return make(root, say)
    with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile):  # not kept yet, damaged, a folder gone
        with np.load(path, allow_pickle=False) as arrays:
            index = dict(arrays)
        now = [os.stat(os.path.join(root, os.fsdecode(folder))).st_mtime_ns for folder in index["folders"]]
        if now == index["times"].tolist():
            say(f"{len(index['paths'])} images of {what or root} from the list {path}")
            return index
    began = time.monotonic()
    index = make(root, say)
    say(f"{len(index['paths'])} images of {what or root} listed in {time.monotonic() - began:.1f} s")
    with replacing(path, contended=True) as partial, open(partial, "wb") as file:
        np.savez(file, **index)  # type: ignore[arg-type]  # none of them is called allow_pickle
    return index


def open_images(root: Path, split: str, how: str, say: Say, *, keep: bool = False) -> ImageFolder | None:
    """The images of "train", "val" or "test" below a folder, or None if it has no such part.

    Args:
        how: "folder", or one of `FORMATS`.
        keep: the list of a folder's images for later runs; that of shards always is.
    """
    if how == "folder":
        listing = list_images_once if keep else list_images
        return ImageFolder(root / split, listing(root / split, say)) if (root / split).is_dir() else None
    files = FORMATS[how].find(root, split)
    if not files:
        return None
    index = list_images_once(root, say, partial(list_shards, FORMATS[how], files), f"{split} of {root} ({how})")
    return ImageFolder(root, index, read=FORMATS[how].read)


def load_folder(
    args: Namespace, world: World, *, tests: Sequence[str], default: str, weights: Pretrained | None = None
) -> tuple[ImageFolder, ImageFolder, Numbers, Numbers]:
    """(training images, test images, mean, standard deviation) of --data-path, the same in all processes.

    Args:
        world: the processes, all of which call this; the main one looks.
        tests: names that the folder to test on may have; the first one that there is counts.
        default: the known data set as which colours are normalised unless --mean says otherwise; grey is measured.
        weights: that are to be tested: what classes they keep counts.

    Raises:
        UserError: a folder is not as expected, or the classes differ, or there is only one.
        UsageError: options that do not go together.
    """
    found = None
    with world.main_only(f"listing the images of {args.data_path}") as main:
        if main:
            log = RunLog(world)
            train, test = _splits(Path(args.data_path), args, tests, weights, log.say)
            if args.check_data:
                _check_images([train, test], log)
            found = (train, test, *_normalisation(train if len(train) else test, args, default))
    return world.share(found)  # type: ignore[return-value]


def _splits(
    root: Path, args: Namespace, tests: Sequence[str], weights: Pretrained | None, say: Say
) -> tuple[ImageFolder, ImageFolder]:
    """The training and the test images, numbered alike: by the names of their classes. To test, the latter will do."""
    how = args.data_format or known_format(root)

    def part(split: str) -> ImageFolder | None:
        return open_images(root, split, how, say, keep=args.cache_dataset)

    testing = "test_only" in args and args.test_only
    train = part("train")
    if train is None and not testing:
        raise UserError(f"there is no folder {root}/train: images are expected as {root}/train/<class>/<image>")
    if train is not None and how == "folder" and len(train.present()) < len(train.classes):
        empty, names = min({*train.classes} - train.present()), ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"no image in the class {empty} of {train.root}: put some there, named {names}")
    if train is not None and len(train.classes) == 1:
        raise UserError(f"{root}/train holds one class alone, {train.classes[0]}: add another to tell it from")
    there, test = next(((name, found) for name in tests if (found := part(name)) is not None), ("", None))
    if test is not None and args.split is not None:
        raise UsageError(f"--split {args.split:g} divides train/ and {root} has {there}/ to test on: leave one out")
    if test is None and train is not None and args.split is not None:
        return train.divide(args.split, args.split_seed)
    if test is None:
        either = " or ".join(str(root / name) for name in tests)
        raise UserError(f"there is no folder {either} to test on: make one, or give --split 0.1")
    # trained weights are scored by the classes that they know, some of which may have no image here
    kept = (weights.metadata.get("classes") or ()) if testing and weights is not None else ()
    own = test.classes if train is None else train.classes
    test = test.numbered(kept if test.present() <= {*kept} else own)
    return train or test.only(np.zeros(len(test), dtype=bool)), test


def _check_images(parts: Sequence[ImageFolder], log: RunLog) -> None:
    """Name every image that cannot be read, before time is spent on the others."""
    total, threads = sum(map(len, parts)), os.cpu_count() or 1

    def damaged(first: int) -> int:
        found = 0
        for images in parts:
            for i in range(first, len(images), threads):
                try:
                    images.image(i)
                except (UserError, OSError) as error:
                    log.warn(escaped(str(error)))
                    found += 1
                progress.advance()
        return found

    with log.progress("checking", total, unit="image") as progress, ThreadPoolExecutor(threads) as pool:
        count = sum(pool.map(damaged, range(threads)))
    if count:
        raise UserError(f"{count} of {total} images cannot be read, see above: replace them or take them out")


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


def load_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """An image as RGB with 8 bits, upright, whatever it was: grey, CMYK, with a palette, or grey with 16 bits.

    Args:
        path: of the file, or what it is called if its content is given.

    Raises:
        UserError: it cannot be read, or has pixels of an unknown range.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            with contextlib.suppress(Exception):  # damaged EXIF data say nothing of how a camera was held
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # of those, 0..65535
                raise ValueError("its pixels are numbers of an unknown range; save it with 8 or 16 bits")
            if image.mode.startswith("I"):  # by their range: Pillow itself would cut off all that is above 255
                pixels = (np.asarray(image).astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF
                return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except Exception as error:  # whatever a damaged file makes Pillow's readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(f"cannot read the image {path} ({reason}): replace it or take it out")


def decode(path: str, content: bytes) -> Image.Image | Tensor:
    """A JPEG as bytes [3, H, W], upright, by torchvision, which is faster; other images as `load_image` has them."""
    if content.startswith(b"\xff\xd8"):
        # damaged, or of a rare kind: Pillow reads it, or says what is wrong; and a later torchvision may lack this
        with contextlib.suppress(RuntimeError, ImportError):
            from torchvision.io import ImageReadMode, decode_jpeg

            encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            return decode_jpeg(encoded, ImageReadMode.RGB, apply_exif_orientation=True)
    return load_image(path, content)

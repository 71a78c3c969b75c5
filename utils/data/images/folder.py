"""Folders of images, one folder a class."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_spike.utils.data.images.index import share_index
from full_spike.utils.data.images.listing import ImageIndex
from full_spike.utils.data.images.options import KNOWN
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import open_regular
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset
from torchvision.transforms import v2

# what Pillow may take a file for, whatever its name; for others, such as EPS, it would start another program
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")

# What Pillow and its libtiff have to say of a damaged image is raised as well.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
with contextlib.suppress(OSError, AttributeError):  # of a Pillow without it
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def load_image(path: str | Path) -> Image.Image:
    """An image as RGB with 8 bits, whatever it was: grey, CMYK, with a palette, or grey with 16 bits.

    Raises:
        UserError: it cannot be read, is of another format, or has pixels of an unknown range.
    """
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of oddities beside the pixels
            with Image.open(file, formats=FORMATS) as image:
                return _as_rgb(image)
    except UserError:
        raise
    except UnidentifiedImageError:
        reason = f"no {', '.join(FORMATS)}"
    except Exception as error:  # whatever a damaged file makes Pillow's readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(f"cannot read the image {path} ({reason}): replace it or take it out")


def _as_rgb(image: Image.Image) -> Image.Image:
    """Pixels of 16 bits by their range: Pillow itself would cut off all that is above 255."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image.convert("RGB")
    pixels = np.asarray(image)
    wide = image.mode == "I" and image.format not in ("PNG", "PPM")  # of those Pillow makes 0..65535
    if image.mode == "F" or wide or pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("its pixels are numbers of an unknown range; save it with 8 or 16 bits")
    return Image.fromarray(((pixels.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)).convert("RGB")


MEAN, STD = KNOWN["imagenet"]


def normalise(mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> list[v2.Transform]:
    """PIL image -> float32 [C, H, W], normalised; C is as many as there are means, 3 or 1."""
    grey = [v2.Grayscale()] if len(mean) == 1 else []
    return [*grey, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def evaluation_transform(
    resize: int, crop: int, *levels: Sequence[float], interpolation: str = "bilinear"
) -> v2.Compose:
    """PIL image -> float32 [C, crop, crop]: the shorter side resized, the centre cropped, then `normalise`."""
    fit = [v2.Resize(resize, v2.InterpolationMode(interpolation)), v2.CenterCrop(crop)]
    return v2.Compose([*fit, *normalise(*levels)])


class ImageFolder(Dataset):
    """Images of an index, each with the number of its class.

    Args:
        index: see `scan` and `share_index`.
        transform: of a PIL image.
    """

    def __init__(self, index: ImageIndex, transform: Callable[[Image.Image], Any]) -> None:
        self.index = index
        self.transform = transform

    @property
    def root(self) -> Path:
        return self.index.root

    @property
    def classes(self) -> list[str]:
        return self.index.classes

    def __len__(self) -> int:
        return len(self.index)

    def name_of(self, i: int) -> str:
        """The image's path."""
        return self.index.path(i)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.transform(load_image(self.index.path(i))), int(self.index.targets[i])


def load_splits(
    root: Path, tests: tuple[str, ...], world: World, *, cache: bool, split: float | None = None, seed: int = 0
) -> tuple[ImageIndex, ImageIndex]:
    """The training and the test images below `root`, with the same classes, since they are numbered by name.

    Args:
        root: the folder, with `train` in it.
        tests: names that the folder to test on may have, the first one that there is counts.
        world: the processes, all of which call this; the main one lists the images.
        cache: keep the list for later starts.
        split, seed: the share of each class of `train` that is put aside to test on, where there is no such folder.

    Raises:
        UserError: a folder is not as expected, or the classes differ, or there is only one.
        UsageError: there is nothing to test on, or a folder as well as a split.
    """
    with world.main_only(f"looking for folders in {root}") as main:
        there = json.dumps([name for name in tests if (root / name).is_dir()] if main else []).encode()
    there = json.loads(world.share(there))
    if there and split is not None:
        raise UsageError(f"--split {split:g} divides train/ and {root} has {there[0]}/ to test on: leave one out")
    if split is not None:
        train, test = share_index(root / "train", world, cache=cache).divide(split, seed)
    else:
        if not there and (root / "train").is_dir():
            either = " or ".join(str(root / name) for name in tests)
            raise UserError(f"there is no folder {either} to test on: make one, or give --split 0.1")
        train, test = (share_index(root / name, world, cache=cache) for name in ("train", (*there, tests[0])[0]))
    only = {f.root: sorted(set(f.classes) - set(g.classes)) for f, g in ((train, test), (test, train))}
    if any(only.values()):
        parts = "; ".join(f"only in {folder}: {', '.join(names[:3])}" for folder, names in only.items() if names)
        raise UserError(f"the classes of {train.root} and {test.root} differ ({parts}): make them the same")
    if len(train.classes) == 1:
        raise UserError(f"{train.root} holds one class alone, {train.classes[0]}: add another to tell it from")
    return train, test

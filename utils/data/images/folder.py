"""Folders of images, one folder a class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

from utils.data.images.index import index_images
from utils.runtime.errors import UserError


def load_image(path: str | Path) -> Image.Image:
    """An image as RGB, whatever it was (grey, CMYK, palette).

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the image {path} ({error}): replace it or take it out") from None


# ImageNet's channel means and standard deviations, as torchvision's reference training normalises
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise() -> list[v2.Transform]:
    """PIL image -> float32 [3, H, W], normalised."""
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def evaluation_transform(resize: int, crop: int) -> v2.Compose:
    """PIL image -> float32 [3, crop, crop]: the shorter side resized, the centre cropped, normalised."""
    return v2.Compose([v2.Resize(resize), v2.CenterCrop(crop), *normalise()])


class ImageFolder(Dataset):
    """Images below `root/<class>/`, at any depth, in sorted order; classes are numbered in sorted order.

    Args:
        root: the folder.
        transform: of a PIL image.
        cache, say: see `index_images`.

    Raises:
        UserError: the folder is missing, holds no class, or a class holds no image.
    """

    def __init__(
        self,
        root: Path,
        transform: Callable[[Image.Image], Any],
        *,
        cache: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.index = index_images(root, cache=cache, say=say)
        self.transform = transform

    @property
    def root(self) -> Path:
        return self.index.root

    @property
    def classes(self) -> list[str]:
        return self.index.classes

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.transform(load_image(self.index.path(i))), int(self.index.targets[i])


def load_splits(
    root: Path,
    splits: tuple[str, str],
    transforms: tuple[Callable, Callable],
    *,
    cache: bool,
    say: Callable[[str], None],
) -> tuple[ImageFolder, ImageFolder]:
    """The training and the test folder below `root`, with the same classes, since they are numbered by name.

    Raises:
        UserError: a folder is not as expected, or the classes differ.
    """
    train, test = (
        ImageFolder(root / split, transform, cache=cache, say=say)
        for split, transform in zip(splits, transforms, strict=True)
    )
    only = {f.root: sorted(set(f.classes) - set(g.classes)) for f, g in ((train, test), (test, train))}
    if any(only.values()):
        parts = "; ".join(f"only in {folder}: {', '.join(names[:3])}" for folder, names in only.items() if names)
        raise UserError(f"the classes of {train.root} and {test.root} differ ({parts}): make them the same")
    return train, test

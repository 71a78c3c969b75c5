"""Folders of images, one folder a class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from .errors import UserError


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


class ImageFolder(Dataset):
    """Images below `root/<class>/`, at any depth, in sorted order; classes are numbered in sorted order.

    Raises:
        UserError: the folder is missing, holds no class, or a class holds no image.
    """

    def __init__(self, root: Path, transform: Callable[[Image.Image], Any]) -> None:
        self.root = root
        self.transform = transform
        if not root.is_dir():
            raise UserError(f"there is no folder {root}: images are expected as {root}/<class>/<image>")
        try:
            self.classes, numbers = find_classes(str(root))
            self.samples = make_dataset(str(root), numbers, extensions=IMG_EXTENSIONS)
        except FileNotFoundError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"{reason}: images are expected as {root}/<class>/<image>") from None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, number = self.samples[index]
        return self.transform(load_image(path)), number


def same_classes(train: ImageFolder, test: ImageFolder) -> None:
    """Check that both folders have the same classes, since they are numbered by name.

    Raises:
        UserError: they don't.
    """
    only_train = sorted(set(train.classes) - set(test.classes))
    only_test = sorted(set(test.classes) - set(train.classes))
    if only_train or only_test:
        parts = [f"only in {f.root}: {', '.join(c[:3])}" for f, c in ((train, only_train), (test, only_test)) if c]
        raise UserError(f"the classes of {train.root} and {test.root} differ ({'; '.join(parts)}): make them the same")

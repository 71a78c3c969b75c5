"""Small images: scikit-learn's digits, CIFAR-10 and CIFAR-100, or any folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from cifar.options import DATASETS, ImageOptions
from utils.data.dataset import Datasets
from utils.data.digits import load_digits
from utils.data.images.options import KNOWN
from utils.runtime.distributed import World
from utils.runtime.errors import UsageError, UserError
from utils.runtime.memory import require

if TYPE_CHECKING:
    from torchvision.transforms import v2

DIGITS = 1797  # of scikit-learn

Levels = tuple[Sequence[float], Sequence[float]]  # channel means and standard deviations


def augment(size: int, *, flip: bool) -> list[v2.Transform]:
    """The usual for small images: a crop after padding by an eighth of the side (4 of 32), perhaps a flip."""
    from torchvision.transforms import v2  # here and below: seconds to import, and digits need none of it

    return [v2.RandomCrop(size, padding=size // 8), *([v2.RandomHorizontalFlip()] if flip else [])]


def transforms(size: int, mean: tuple, std: tuple, *, train: bool, resize: bool = False) -> v2.Compose:
    """PIL image -> normalised [C, size, size]."""
    from torchvision.transforms import v2

    fit = [v2.Resize(size), v2.CenterCrop(size)] if resize else []
    grey = [v2.Grayscale()] if len(mean) == 1 else []
    return v2.Compose(
        [
            *grey,
            v2.ToImage(),
            *fit,
            *(augment(size, flip=True) if train else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )


class Digits(Dataset):
    """scikit-learn's 1,797 scanned digits at size x size; see `load_digits`."""

    mean, std = 0.3054, 0.3761  # of the 8x8 training images, in [0, 1]

    def __init__(self, *, train: bool, size: int = 32) -> None:
        images, classes = load_digits(train=train)
        scans = torch.from_numpy(images).float().unsqueeze(1) / 16.0  # [samples, 1, 8, 8]
        scans = F.interpolate(scans, size=(size, size), mode="bilinear", align_corners=False)
        self.images = (scans - self.mean) / self.std  # [samples, 1, size, size]
        self.classes = torch.from_numpy(classes).long()
        self.padding = size // 8 if train else 0

    def __len__(self) -> int:
        return len(self.classes)

    def name_of(self, index: int) -> str:
        """Which of its part of the digits."""
        return f"digit {index}"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        if self.padding:  # by black, which is not 0 once normalised
            image = padded_crop(image, self.padding, -self.mean / self.std)
        return image, int(self.classes[index])


def padded_crop(image: Tensor, padding: int, fill: float) -> Tensor:
    """A crop of the same size at random after padding, [C, H, W]; it draws as torchvision's `v2.RandomCrop` does."""
    height, width = image.shape[-2:]
    top, left = (int(torch.randint(0, 2 * padding + 1, size=())) for _ in range(2))
    return F.pad(image, [padding] * 4, value=fill)[..., top : top + height, left : left + width]


def load(options: ImageOptions, world: World, _T: int | None = None) -> Datasets:
    """The data set that --dataset names.

    Raises:
        UsageError: the options don't fit together.
        UserError: the data are missing or not what they should be.
    """
    name, size = options.dataset, options.image_size
    if name not in DATASETS:
        raise UsageError(f"--dataset {name!r} is unknown: choose one of {', '.join(DATASETS)}")
    held, channels = (DIGITS, 1) if name == "digits" else (options.batch_size, 3)
    require(4 * held * channels * size**2, torch.device("cpu"), f"--image-size {size}", "take a smaller one")
    if name == "digits":
        if options.data_path is not None:
            raise UsageError(f"--data-path {options.data_path} is not used for digits: choose a --dataset for it")
        train, test = (Digits(train=split, size=size) for split in (True, False))
        return _datasets(options, train, test, tuple(map(str, range(10))), ((Digits.mean,), (Digits.std,)))
    if options.data_path is None:
        raise UsageError(f"--dataset {name} needs --data-path: the folder that holds it")
    load_named = _load_folder if name == "folder" else _load_cifar
    return load_named(options, Path(options.data_path), world)


def _datasets(
    options: ImageOptions, train: Any, test: Any, classes: tuple[str, ...], levels: Levels, **recipe: Any
) -> Datasets:
    size, (mean, std) = options.image_size, map(list, levels)
    words = [options.dataset, *([f"{size}px"] if size != ImageOptions.image_size else []), *options.words()]
    return Datasets(
        train,
        test,
        len(classes),
        len(mean),
        "_".join(words) + "_",
        grey=options.dataset == "folder" and len(mean) == 1 and options.channels is None,
        classes=classes,
        inputs={"channels": len(mean), "resize": size, "crop": size, "mean": mean, "std": std},
        recipe={"dataset": options.dataset, "image_size": size, **recipe},
    )


def _load_folder(options: ImageOptions, root: Path, world: World) -> Datasets:
    from utils.data.images.folder import ImageFolder, load_splits
    from utils.data.images.levels import look_at

    parts = load_splits(
        root, ("test", "val"), world, cache=options.cache_dataset, split=options.split, seed=options.split_seed
    )
    _, levels = look_at(parts[0], options, "cifar10", world)
    train, test = (
        ImageFolder(part, transforms(options.image_size, *levels, train=train, resize=True))
        for part, train in zip(parts, (True, False), strict=True)
    )
    mean, std = map(list, levels)
    files = train.index.fingerprint()
    return _datasets(options, train, test, tuple(train.classes), levels, files=files, mean=mean, std=std)


def _load_cifar(options: ImageOptions, root: Path, world: World) -> Datasets:
    from torchvision import datasets

    name, size = options.dataset, options.image_size
    kind = datasets.CIFAR100 if name == "cifar100" else datasets.CIFAR10
    levels = KNOWN[name]
    if options.download:
        with world.main_only(f"downloading {name}") as main:
            if main:
                _download(kind, root)
    try:
        train, test = (
            kind(str(root), train=split, transform=transforms(size, *levels, train=split, resize=size != 32))
            for split in (True, False)
        )
    except RuntimeError:
        raise UserError(f"{root} does not hold {name}: add --download to fetch it there") from None
    return _datasets(options, train, test, tuple(train.classes), levels)


def _download(kind: type, root: Path) -> None:
    try:
        for train in (True, False):
            kind(str(root), train=train, download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot download to {root} ({reason}): put the data set there by hand") from None

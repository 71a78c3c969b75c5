"""Small images: scikit-learn's digits, CIFAR-10 and CIFAR-100, or any folder of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms import v2

from utils.data.dataset import Datasets
from utils.data.digits import load_digits
from utils.data.images.augment import AugmentOptions
from utils.data.images.folder import load_splits
from utils.runtime.distributed import World
from utils.runtime.errors import UsageError, UserError
from utils.runtime.memory import require
from utils.runtime.options import option, positive_int

DIGITS = 1797  # of scikit-learn
DATASETS = ("digits", "cifar10", "cifar100", "folder")

# Channel means and standard deviations of the training images.
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


@dataclass(frozen=True)
class ImageOptions(AugmentOptions):
    dataset: str = option("digits", ", ".join(DATASETS))
    download: bool = option(False, "fetch CIFAR to --data-path first")
    image_size: int = option(32, "side of the images in pixels", parse=positive_int)
    crop: bool = option(True, "pad training images by an eighth of the side and crop them at random", negatable=True)


def crops(options: ImageOptions) -> list[v2.Transform]:
    """The usual for small images: a crop after padding by an eighth of the side (4 of 32), with black."""
    size = options.image_size
    return [v2.RandomCrop(size, padding=size // 8)] if options.crop else []


def transforms(
    options: ImageOptions, mean: tuple, std: tuple, *, resize: bool = False
) -> tuple[v2.Compose, v2.Compose]:
    """Of training and of test images: PIL image -> normalised [C, size, size]."""
    size = options.image_size
    fit: list[v2.Transform] = [v2.ToImage(), *([v2.Resize(size), v2.CenterCrop(size)] if resize else [])]
    changes = options.changes(flips=options.flips(), fill=mean)
    normalised = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    train = [*fit, *crops(options), *changes, *normalised, *options.erasing()]
    return v2.Compose(train), v2.Compose([*fit, *normalised])


class Digits(Dataset):
    """scikit-learn's 1,797 scanned digits at size x size, normalised; see `load_digits`.

    Args:
        options: what training images go through.
        train: which part.
    """

    mean, std = 0.3054, 0.3761  # of the 8x8 training images, in [0, 1]

    def __init__(self, options: ImageOptions, *, train: bool) -> None:
        images, classes = load_digits(train=train)
        scans = torch.from_numpy(images).float().unsqueeze(1) / 16.0  # [samples, 1, 8, 8]
        size = (options.image_size, options.image_size)
        self.images = F.interpolate(scans, size=size, mode="bilinear", align_corners=False)
        self.classes = torch.from_numpy(classes).long()
        changes = [*crops(options), *options.changes(flips=options.flips(0.0), fill=[0.0])] if train else []
        if train and options.auto_augment is not None:
            changes = [v2.ToDtype(torch.uint8, scale=True), *changes, v2.ToDtype(torch.float32, scale=True)]
        erasing = options.erasing() if train else []
        self.transform = v2.Compose([*changes, v2.Normalize([self.mean], [self.std]), *erasing])

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.classes[index])


def picture(options: ImageOptions, channels: int) -> v2.Compose:
    """PIL image -> what a network reads [channels, size, size]: grey as the digits are, or RGB."""
    if channels == 3:
        return transforms(options, *(CIFAR100 if options.dataset == "cifar100" else CIFAR10), resize=True)[1]
    size = options.image_size
    fit = [v2.Grayscale(), v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()]
    return v2.Compose([*fit, v2.ToDtype(torch.float32, scale=True), v2.Normalize([Digits.mean], [Digits.std])])


def load(options: ImageOptions, world: World, _T: int | None = None) -> Datasets:
    """The data set that --dataset names.

    Raises:
        UsageError: the options don't fit together.
        UserError: the data are missing or not what they should be.
    """
    name, size = options.dataset, options.image_size
    recipe = {"dataset": name, "image_size": size, "crop": options.crop}
    recipe |= options.recipe(options.flips(0.0 if name == "digits" else 0.5))
    if name not in DATASETS:
        raise UsageError(f"--dataset {name!r} is unknown: choose one of {', '.join(DATASETS)}")
    held, channels = (DIGITS, 1) if name == "digits" else (options.batch_size, 3)
    require(4 * held * channels * size**2, torch.device("cpu"), f"--image-size {size}", "take a smaller one")
    if name == "digits":
        if options.data_path is not None:
            raise UsageError(f"--data-path {options.data_path} is not used for digits: choose a --dataset for it")
        train, test = (Digits(options, train=split) for split in (True, False))
        return Datasets(train, test, 10, 1, "digits_", mix=options.mixing(10), recipe=recipe)
    if options.data_path is None:
        raise UsageError(f"--dataset {name} needs --data-path: the folder that holds it")
    root = Path(options.data_path)
    if name == "folder":
        chains = transforms(options, *CIFAR10, resize=True)
        train, test = load_splits(root, ("train", "test"), chains, world, cache=options.cache_dataset)
        classes, recipe = len(train.classes), recipe | {"files": train.index.fingerprint()}
        return Datasets(train, test, classes, 3, "folder_", mix=options.mixing(classes), recipe=recipe)
    kind, (mean, std), classes = {
        "cifar10": (datasets.CIFAR10, CIFAR10, 10),
        "cifar100": (datasets.CIFAR100, CIFAR100, 100),
    }[name]
    if options.download:
        with world.main_only(f"downloading {name}") as main:
            if main:
                _download(kind, root)
    chains = transforms(options, mean, std, resize=size != 32)
    try:
        train, test = (kind(str(root), train=i == 0, transform=chain) for i, chain in enumerate(chains))
    except RuntimeError:
        raise UserError(f"{root} does not hold {name}: add --download to fetch it there") from None
    return Datasets(train, test, classes, 3, f"{name}_", mix=options.mixing(classes), recipe=recipe)


def _download(kind: type, root: Path) -> None:
    try:
        for train in (True, False):
            kind(str(root), train=train, download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot download to {root} ({reason}): put the data set there by hand") from None

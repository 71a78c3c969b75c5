"""Small images: scikit-learn's digits, CIFAR-10 and CIFAR-100, or any folder of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from full_spike.cifar.options import DATASETS, ImageOptions
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.digits import load_digits
from full_spike.utils.data.images.options import KNOWN
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.runtime.memory import require
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from torchvision.transforms import v2

DIGITS = 1797  # of scikit-learn

CIFAR10, CIFAR100 = KNOWN["cifar10"], KNOWN["cifar100"]

Levels = tuple[Sequence[float], Sequence[float]]  # channel means and standard deviations


class PaddedCrop:
    """A crop of [C, H, W] at random after padding with black; it draws as torchvision's `v2.RandomCrop` does."""

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, image: Tensor) -> Tensor:
        if not self.padding:
            return image
        height, width = image.shape[-2:]
        top, left = (int(torch.randint(0, 2 * self.padding + 1, size=())) for _ in range(2))
        return F.pad(image, [self.padding] * 4)[..., top : top + height, left : left + width]


def crops(options: ImageOptions) -> list[Callable]:
    """The usual for small images: a crop after padding by an eighth of the side (4 of 32), with black."""
    return [PaddedCrop(options.image_size // 8)] if options.crop else []


def transforms(
    options: ImageOptions, mean: Sequence[float], std: Sequence[float], *, resize: bool = False
) -> tuple[v2.Compose, v2.Compose]:
    """Of training and of test images: PIL image -> normalised [C, size, size]; one channel if there is one mean."""
    from torchvision.transforms import v2  # seconds to import, and digits need none of it

    size = options.image_size
    grey = [v2.Grayscale()] if len(mean) == 1 else []
    fit: list[Any] = [*grey, v2.ToImage(), *([v2.Resize(size), v2.CenterCrop(size)] if resize else [])]
    changes = options.changes(flips=options.flips(), fill=mean)
    normalised = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
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
            from torchvision.transforms import v2

            changes = [v2.ToDtype(torch.uint8, scale=True), *changes, v2.ToDtype(torch.float32, scale=True)]
        self.transforms = [*changes, self.normalise, *(options.erasing() if train else [])]

    def normalise(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std

    def __len__(self) -> int:
        return len(self.classes)

    def name_of(self, index: int) -> str:
        """Which of its part of the digits."""
        return f"digit {index}"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        for transform in self.transforms:
            image = transform(image)
        return image, int(self.classes[index])


def picture(options: ImageOptions, channels: int) -> v2.Compose:
    """PIL image -> what a network reads [channels, size, size]: as a folder was, or grey as the digits are, or RGB."""
    from torchvision.transforms import v2

    levels = options.numbers()
    if levels is not None and len(levels[0]) == channels:
        return transforms(options, *levels, resize=True)[1]
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
    if name not in DATASETS:
        raise UsageError(f"--dataset {name!r} is unknown: choose one of {', '.join(DATASETS)}")
    held, channels = (DIGITS, 1) if name == "digits" else (options.batch_size, 3)
    require(4 * held * channels * size**2, torch.device("cpu"), f"--image-size {size}", "take a smaller one")
    if name == "digits":
        if options.data_path is not None:
            raise UsageError(f"--data-path {options.data_path} is not used for digits: choose a --dataset for it")
        train, test = (Digits(options, train=split) for split in (True, False))
        return _datasets(options, train, test, tuple(map(str, range(10))), ((Digits.mean,), (Digits.std,)))
    if options.data_path is None:
        raise UsageError(f"--dataset {name} needs --data-path: the folder that holds it")
    load_named = _load_folder if name == "folder" else _load_cifar
    return load_named(options, Path(options.data_path), world)


def _datasets(
    options: ImageOptions, train: Any, test: Any, classes: tuple[str, ...], levels: Levels, **recipe: Any
) -> Datasets:
    size, (mean, std) = options.image_size, map(list, levels)
    name = f"{options.dataset}_" + (f"{size}px_" if size != ImageOptions.image_size else "")
    flips = options.flips(0.0 if options.dataset == "digits" else 0.5)
    return Datasets(
        train,
        test,
        len(classes),
        len(mean),
        name,
        words=options.words("dataset", "image_size"),
        mix=options.mixing(len(classes)),
        grey=options.dataset == "folder" and len(mean) == 1 and options.channels is None,
        classes=classes,
        inputs={"channels": len(mean), "resize": size, "crop": size, "mean": mean, "std": std},
        recipe={
            "dataset": options.dataset,
            "image_size": size,
            "crop": options.crop,
            **options.recipe(flips),
            **recipe,
        },
    )


def _load_folder(options: ImageOptions, root: Path, world: World) -> Datasets:
    from full_spike.utils.data.images.folder import ImageFolder, load_splits
    from full_spike.utils.data.images.levels import look_at

    parts = load_splits(
        root, ("test", "val"), world, cache=options.cache_dataset, split=options.split, seed=options.split_seed
    )
    _, levels = look_at(parts[0], options, "cifar10", world)
    chains = transforms(options, *levels, resize=True)
    train, test = (ImageFolder(part, chain) for part, chain in zip(parts, chains, strict=True))
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
    chains = transforms(options, *levels, resize=size != 32)
    try:
        train, test = (kind(str(root), train=i == 0, transform=chain) for i, chain in enumerate(chains))
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

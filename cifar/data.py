"""Small images: scikit-learn's digits, CIFAR-10 and CIFAR-100, or any folder of images.

`args` has the fields of every group of `utils.data.options` but `add_crop_arguments`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms import v2

from full_spike.models import Pretrained
from full_spike.utils.data import augment
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.digits import load_digits
from full_spike.utils.data.images import given_numbers, load_folder
from full_spike.utils.data.memory import Kept
from full_spike.utils.data.options import KNOWN
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError


def flips(args: Namespace) -> float:
    """How often a training image is flipped left to right; most digits would be none in a mirror."""
    return args.hflip if args.hflip is not None else 0.0 if args.dataset == "digits" else 0.5


def crops(args: Namespace) -> list[Callable]:
    """The usual for small images: a crop after padding by an eighth of the side (4 of 32), with black."""
    return [v2.RandomCrop(args.image_size, padding=args.image_size // 8)] if args.crop else []


def transforms(
    args: Namespace, mean: Sequence[float], std: Sequence[float], *, resize: bool = False
) -> tuple[Callable, Callable]:
    """Of training and of test images: PIL image -> normalised [C, size, size]; one channel if there is one mean."""
    grey = [v2.Grayscale()] if len(mean) == 1 else []
    fit = [*grey, v2.ToImage(), *([v2.Resize(args.image_size), v2.CenterCrop(args.image_size)] if resize else [])]
    return _after(fit, args, mean, std, fill=mean)


def _after(
    fit: list[Callable], args: Namespace, mean: Sequence[float], std: Sequence[float], *, fill: Sequence[float]
) -> tuple[Callable, Callable]:
    """The transforms of training and of test images that begin with `fit`, which makes bytes or floats of them."""
    begin, normalise, numbers = v2.Compose(fit), augment.Normalise(mean, std), len(mean) * args.image_size**2
    erasing = augment.erasing(args)
    then = v2.Compose([*crops(args), *augment.changes(args, flips=flips(args), fill=fill), normalise, *erasing])
    test = Kept(begin, numbers, normalise, normalise)
    if args.auto_augment is not None:  # image by image
        return v2.Compose([begin, then]), test
    padding = args.image_size // 8 if args.crop else 0
    return Kept(begin, numbers, then, normalise, padding, flips(args), *erasing), test


class Digits(Dataset):
    """scikit-learn's 1,797 scanned digits at size x size, normalised; see `load_digits`.

    Args:
        args: what training images go through.
        train: which part.
    """

    mean, std = 0.3054, 0.3761  # of the 8x8 training images, in [0, 1]

    def __init__(self, args: Namespace, *, train: bool) -> None:
        images, classes = load_digits(train=train)
        scans = torch.from_numpy(images).float().unsqueeze(1) / 16.0  # [samples, 1, 8, 8]
        size = (args.image_size, args.image_size)
        self.images = F.interpolate(scans, size=size, mode="bilinear", align_corners=False)
        self.classes = torch.from_numpy(classes).long()
        fit = v2.Identity() if args.auto_augment is None or not train else v2.ToDtype(torch.uint8, scale=True)
        self.transform = _after([fit], args, [self.mean], [self.std], fill=[0.0])[0 if train else 1]

    def __len__(self) -> int:
        return len(self.classes)

    def name_of(self, index: int) -> str:
        """Which of its part of the digits."""
        return f"digit {index}"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.classes[index])


def picture(args: Namespace, channels: int) -> Callable:
    """PIL image -> what a network reads [channels, size, size]: as a folder was, or grey as the digits are, or RGB."""
    numbers = given_numbers(args)
    if numbers is not None and len(numbers[0]) == channels:
        return transforms(args, *numbers, resize=True)[1]
    if channels == 3:
        return transforms(args, *KNOWN["cifar100" if args.dataset == "cifar100" else "cifar10"], resize=True)[1]
    fit = [v2.Grayscale(), v2.Resize(args.image_size), v2.CenterCrop(args.image_size), v2.PILToTensor()]
    return v2.Compose([*fit, v2.ToDtype(torch.float32, scale=True), v2.Normalize([Digits.mean], [Digits.std])])


def load(args: Namespace, world: World, weights: Pretrained | None = None) -> Datasets:
    """The data set that --dataset names.

    Args:
        weights: that are to be tested, if they are known already.

    Raises:
        UsageError: the options don't fit together.
        UserError: the data are missing or not what they should be.
    """
    if args.dataset == "digits" and args.data_path is not None:
        raise UsageError(f"--data-path {args.data_path} is not used for digits: choose a --dataset for it")
    if args.dataset != "digits" and args.data_path is None:
        raise UsageError(f"--dataset {args.dataset} needs --data-path: the folder that holds it")
    for name in ("mean", "std", "split", "channels"):
        if args.dataset != "folder" and getattr(args, name) is not None:
            raise UsageError(f"--{name} is of a folder of images, and --dataset {args.dataset} is none: leave it out")

    of_folder: dict[str, Any] = {}
    train: Any
    test: Any
    mean: Sequence[float]
    std: Sequence[float]
    if args.dataset == "digits":
        train, test = Digits(args, train=True), Digits(args, train=False)
        mean, std, classes = (Digits.mean,), (Digits.std,), tuple(map(str, range(10)))
    elif args.dataset == "folder":
        train, test, mean, std = load_folder(args, world, tests=("test", "val"), default="cifar10", weights=weights)
        train.transform, test.transform = transforms(args, mean, std, resize=True)
        classes = test.classes
        of_folder = {"files": train.fingerprint(), "mean": list(mean), "std": list(std)}
    else:
        train, test = _load_cifar(args, world)
        mean, std = KNOWN[args.dataset]
        classes = tuple(train.classes)
    size = args.image_size
    return Datasets(
        train,
        test,
        len(classes),
        len(mean),
        f"{args.dataset}_" + (f"{size}px_" if size != 32 else ""),
        mix=augment.mixing(args, len(classes)),
        classes=classes,
        inputs={"channels": len(mean), "resize": size, "crop": size, "mean": list(mean), "std": list(std)},
        recipe={
            "dataset": args.dataset,
            "image_size": size,
            "crop": args.crop,
            **augment.recipe(args, flips(args)),
            **of_folder,
        },
    )


def _load_cifar(args: Namespace, world: World) -> tuple[Any, Any]:
    kind = datasets.CIFAR100 if args.dataset == "cifar100" else datasets.CIFAR10
    root = str(args.data_path)
    with world.main_only(f"downloading {args.dataset}") as main:
        try:
            if main and args.download:
                kind(root, download=True)  # both parts are in one archive
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot download to {root} ({reason}): put the data set there by hand") from None
    of_train, of_test = transforms(args, *KNOWN[args.dataset], resize=args.image_size != 32)
    try:
        return kind(root, train=True, transform=of_train), kind(root, train=False, transform=of_test)
    except RuntimeError:
        raise UserError(f"{root} does not hold {args.dataset}: add --download to fetch it there") from None

"""ImageNet: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from full_spike.imagenet.options import Options
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.images.folder import MEAN, STD, ImageFolder, evaluation_transform, load_splits, normalise
from full_spike.utils.data.images.levels import look_at
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError
from full_spike.utils.runtime.memory import require
from torchvision.transforms import v2


def picture(options: Options, channels: int) -> v2.Compose:
    """PIL image -> what a network of these options reads: [channels, crop, crop]."""
    levels = options.numbers() or (MEAN, STD)
    if channels != len(levels[0]):
        raise UsageError(f"a network of ImageNet reads 3 channels, and this one {channels}: use another --data-set")
    sizes = (options.val_resize_size, options.val_crop_size)
    return evaluation_transform(*sizes, *levels, interpolation=options.interpolation)


def transforms(
    options: Options, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> tuple[v2.Compose, v2.Compose]:
    """Training: a random crop of random size and shape, and random changes. Test: the shorter side resized, the centre.

    Both: PIL image -> float32 [C, crop, crop], normalised (see `normalise`).
    """
    crop = v2.RandomResizedCrop(
        options.train_crop_size,
        scale=(options.train_crop_scale, 1.0),
        interpolation=v2.InterpolationMode(options.interpolation),
    )
    changes = options.changes(flips=options.flips(), fill=mean if len(mean) == 3 else [*mean] * 3)
    train = v2.Compose([crop, *changes, *normalise(mean, std), *options.erasing()])
    sizes = (options.val_resize_size, options.val_crop_size)
    return train, evaluation_transform(*sizes, mean, std, interpolation=options.interpolation)


def load(options: Options, world: World, _T: int | None = None) -> Datasets:
    """The data set at --data-path.

    Raises:
        UsageError: no path is given.
        UserError: the folder is not laid out as it should be.
    """
    if options.data_path is None:
        raise UsageError("ImageNet needs --data-path: the folder with train/<wnid>/ and val/<wnid>/")
    crop, resize = options.val_crop_size, options.val_resize_size
    if crop > resize:
        raise UsageError(f"--val-crop-size {crop} is above --val-resize-size {resize}: resize to as much at least")
    largest = max(options.train_crop_size, resize)
    need = 4 * options.batch_size * 3 * largest**2
    require(need, torch.device("cpu"), f"a batch of images of {largest} pixels", "take a smaller size")
    parts = load_splits(
        Path(options.data_path), ("val", "test"), world, cache=options.cache_dataset, split=options.split,
        seed=options.split_seed,
    )  # fmt: skip
    channels, levels = look_at(parts[0], options, "imagenet", world)
    chains = transforms(options, *levels)
    train, test = (ImageFolder(part, chain) for part, chain in zip(parts, chains, strict=True))
    sizes = ("train_crop_size", "train_crop_scale", "val_resize_size", "val_crop_size", "interpolation")
    recipe = {name: getattr(options, name) for name in sizes} | options.recipe(options.flips())
    mean, std = map(list, levels)
    return Datasets(
        train,
        test,
        len(train.classes),
        channels,
        words=options.words(),
        grey=channels == 1 and options.channels is None,
        mix=options.mixing(len(train.classes)),
        classes=tuple(train.classes),
        inputs={"channels": channels, "resize": resize, "crop": crop, "mean": mean, "std": std},
        recipe=recipe | {"files": train.index.fingerprint(), "mean": mean, "std": std},
    )

"""ImageNet: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.transforms import v2

from utils.data.dataset import Datasets
from utils.data.images.augment import AugmentOptions
from utils.data.images.folder import MEAN, evaluation_transform, load_splits, normalise
from utils.runtime.distributed import World
from utils.runtime.errors import UsageError
from utils.runtime.memory import require
from utils.runtime.options import above, option, positive_int, probability


def _share(text: str) -> float:
    probability(text)
    return above(0.0)(text)


def picture(options: Options, channels: int) -> v2.Compose:
    """PIL image -> what a network of these options reads: [3, crop, crop]."""
    if channels != 3:
        raise UsageError(f"a network of ImageNet reads 3 channels, and this one {channels}: use another --data-set")
    return evaluation_transform(options.val_resize_size, options.val_crop_size)


@dataclass(frozen=True)
class Options(AugmentOptions):
    train_crop_size: int = option(224, "side in pixels", parse=positive_int)
    train_crop_scale: float = option(0.08, "least share of an image's area that a training crop takes", parse=_share)
    val_resize_size: int = option(256, "shorter side before cropping, in pixels", parse=positive_int)
    val_crop_size: int = option(224, "side in pixels", parse=positive_int)
    interpolation: str = option("bilinear", "how images are resized", choices=("bilinear", "bicubic"))


def transforms(options: Options) -> tuple[v2.Compose, v2.Compose]:
    """Training: a random crop of random size and shape, and random changes. Test: the shorter side resized, the centre.

    Both: PIL image -> normalised float32 [3, crop, crop].
    """
    crop = v2.RandomResizedCrop(
        options.train_crop_size,
        scale=(options.train_crop_scale, 1.0),
        interpolation=v2.InterpolationMode(options.interpolation),
    )
    changes = options.changes(flips=options.flips(), fill=MEAN)
    train = v2.Compose([crop, *changes, *normalise(), *options.erasing()])
    return train, evaluation_transform(options.val_resize_size, options.val_crop_size, options.interpolation)


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
    chains = transforms(options)
    train, test = load_splits(Path(options.data_path), ("train", "val"), chains, world, cache=options.cache_dataset)
    sizes = ("train_crop_size", "train_crop_scale", "val_resize_size", "val_crop_size", "interpolation")
    recipe = {name: getattr(options, name) for name in sizes} | options.recipe(options.flips())
    recipe |= {"files": train.index.fingerprint()}
    classes = len(train.classes)
    return Datasets(train, test, classes, mix=options.mixing(classes), recipe=recipe)

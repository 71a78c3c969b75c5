"""ImageNet: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG."""

from __future__ import annotations

import argparse
from pathlib import Path

from torchvision.transforms import v2

from utils.data.images.folder import evaluation_transform, load_splits, normalise
from utils.launch import Datasets
from utils.runtime.distributed import World
from utils.runtime.errors import UsageError
from utils.runtime.log import RunLog


def transforms(train_crop: int, val_resize: int, val_crop: int) -> tuple[v2.Compose, v2.Compose]:
    """Training: a random crop of random size and shape, flipped half the time. Test: the shorter side resized, centre.

    Both: PIL image -> normalised float32 [3, crop, crop].
    """
    train = v2.Compose([v2.RandomResizedCrop(train_crop), v2.RandomHorizontalFlip(), *normalise()])
    return train, evaluation_transform(val_resize, val_crop)


def load(args: argparse.Namespace, world: World) -> Datasets:
    """The data set at --data-path.

    Raises:
        UsageError: no path is given.
        UserError: the folder is not laid out as it should be.
    """
    if args.data_path is None:
        raise UsageError("ImageNet needs --data-path: the folder with train/<wnid>/ and val/<wnid>/")
    chains = transforms(args.train_crop_size, args.val_resize_size, args.val_crop_size)
    train, test = load_splits(
        Path(args.data_path), ("train", "val"), chains, cache=args.cache_dataset, say=RunLog(world).say
    )
    return Datasets(train, test, len(train.classes))

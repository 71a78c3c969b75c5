"""ImageNet: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.transforms import v2

from imagenet.options import Options
from utils.data.dataset import Datasets
from utils.data.images.folder import ImageFolder, evaluation_transform, load_splits, normalise
from utils.data.images.levels import look_at
from utils.runtime.distributed import World
from utils.runtime.errors import UsageError
from utils.runtime.memory import require


def transforms(
    train_crop: int, val_resize: int, val_crop: int, *levels: Sequence[float]
) -> tuple[v2.Compose, v2.Compose]:
    """Training: a random crop of random size and shape, flipped half the time. Test: the shorter side resized, centre.

    Both: PIL image -> float32 [C, crop, crop], normalised by `levels` (see `normalise`).
    """
    train = v2.Compose([v2.RandomResizedCrop(train_crop), v2.RandomHorizontalFlip(), *normalise(*levels)])
    return train, evaluation_transform(val_resize, val_crop, *levels)


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
    chains = transforms(options.train_crop_size, resize, crop, *levels)
    train, test = (ImageFolder(part, chain) for part, chain in zip(parts, chains, strict=True))
    usual = Options()
    sizes = {name: getattr(options, name) for name in ("train_crop_size", "val_resize_size", "val_crop_size")}
    parts_of_name = [f"{name[:-5].replace('_', '')}{n}" for name, n in sizes.items() if n != getattr(usual, name)]
    mean, std = map(list, levels)
    return Datasets(
        train,
        test,
        len(train.classes),
        channels,
        "".join(f"{part}_" for part in (*parts_of_name, *options.words())),
        grey=channels == 1 and options.channels is None,
        classes=tuple(train.classes),
        inputs={"channels": channels, "resize": resize, "crop": crop, "mean": mean, "std": std},
        recipe=sizes | {"files": train.index.fingerprint(), "mean": mean, "std": std},
    )

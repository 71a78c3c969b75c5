"""ImageNet: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or shards of it. Any folder of images will do.

`args` has the fields of every group of `utils.data.options` but `add_small_image_arguments`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from torchvision.transforms import v2

from full_spike.models import Pretrained
from full_spike.utils.data import augment
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.images import decode, given_numbers, load_folder
from full_spike.utils.data.options import KNOWN
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError


def flips(args: Namespace) -> float:
    """How often a training image is flipped left to right."""
    return 0.5 if args.hflip is None else args.hflip


def transforms(args: Namespace, mean: Sequence[float], std: Sequence[float]) -> tuple[augment.Halves, augment.Halves]:
    """Training: a random crop of random size and shape, and random changes. Test: the shorter side resized, the centre.

    Both: PIL image, or bytes [3, H, W] -> float32 [C, crop, crop], normalised; one channel if there is one mean.
    """
    how = v2.InterpolationMode(args.interpolation)
    crop = v2.RandomResizedCrop(args.train_crop_size, scale=(args.train_crop_scale, 1.0), interpolation=how)
    changes = augment.changes(args, flips=flips(args), fill=mean if len(mean) == 3 else [*mean] * 3)
    if args.auto_augment is not None:
        changes.insert(0, v2.ToPILImage())  # whose changes are twice as fast as those of tensors
    to_bytes = [*([v2.Grayscale()] if len(mean) == 1 else []), v2.PILToTensor()]
    erasing = augment.erasing(args, [round(255 * x) for x in mean])
    train = v2.Compose([crop, *changes, *to_bytes, *erasing])
    test = v2.Compose([v2.Resize(args.val_resize_size, how), v2.CenterCrop(args.val_crop_size), *to_bytes])
    normalise = augment.Normalise(mean, std)
    return augment.Halves(train, normalise), augment.Halves(test, normalise)


def picture(args: Namespace, channels: int) -> augment.Halves:
    """PIL image -> what a network of these options reads: [channels, crop, crop]."""
    mean, std = given_numbers(args) or KNOWN["imagenet"]
    if channels != len(mean):
        raise UsageError(f"a network of ImageNet reads 3 channels, and this one {channels}: use another --data-set")
    return transforms(args, mean, std)[1]


def load(args: Namespace, world: World, weights: Pretrained | None = None) -> Datasets:
    """The data set at --data-path.

    Args:
        weights: that are to be tested, if they are known already.

    Raises:
        UsageError: no path is given, or options that do not go together.
        UserError: the folder is not laid out as it should be.
    """
    if args.data_path is None:
        raise UsageError("ImageNet needs --data-path: the folder with train/<wnid>/ and val/<wnid>/, or with shards")
    resize, crop = args.val_resize_size, args.val_crop_size
    if crop > resize:
        raise UsageError(f"--val-crop-size {crop} is above --val-resize-size {resize}: resize to as much at least")
    train, test, mean, std = load_folder(args, world, tests=("val", "test"), default="imagenet", weights=weights)
    train.transform, test.transform = transforms(args, mean, std)
    if args.loader == "torchvision":
        train.load = test.load = decode
    sizes = ("train_crop_size", "train_crop_scale", "val_resize_size", "val_crop_size", "interpolation", "loader")
    return Datasets(
        train,
        test,
        len(test.classes),
        len(mean),
        mix=augment.mixing(args, len(test.classes)),
        classes=test.classes,
        inputs={"channels": len(mean), "resize": resize, "crop": crop, "mean": list(mean), "std": list(std)},
        recipe={
            **{name: getattr(args, name) for name in sizes},
            **augment.recipe(args, flips(args)),
            "files": train.fingerprint(),
            "mean": list(mean),
            "std": list(std),
        },
    )

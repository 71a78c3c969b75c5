"""Made trees of real image files, and the arguments to load them by."""

from argparse import Namespace

import torch
from PIL import Image

from full_spike.utils.data.options import (
    add_augment_arguments,
    add_crop_arguments,
    add_folder_arguments,
    add_loading_arguments,
    add_small_image_arguments,
)
from full_spike.utils.options import Parser


def image_tree(root, classes=("cat", "dog"), splits=("train", "test"), count=3, size=(8, 8), suffix="jpg"):
    """`root/<split>/<class>/<i>.<suffix>`, noise; `count` images of each class in each split."""
    generator = torch.Generator().manual_seed(0)
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(root / split / name / f"{i}.{suffix}")
    return root


def imagenet_tree(root, count=10):
    """Three classes of ImageNet's names with `count` training and validation images each."""
    wnids = ("n01440764", "n01443537", "n01484850")
    return image_tree(root, wnids, ("train", "val"), count, size=(20, 24), suffix="JPEG")


def image_args(data_set, options="", **given):
    """The arguments of `cifar` or `imagenet` for a command line, and others by name."""
    parser = Parser()
    for add in (add_loading_arguments, add_folder_arguments, add_augment_arguments):
        add(parser)
    {"cifar": add_small_image_arguments, "imagenet": add_crop_arguments}[data_set](parser)
    args = parser.parse_args(options.split())
    assert given.keys() <= vars(args).keys()
    return Namespace(**{**vars(args), **given})

"""Options of the data, one function a group. Read for --help, so nothing here imports torch."""

from __future__ import annotations

import argparse

from full_spike.utils.options import (
    Parser,
    add_flags,
    finite,
    fraction,
    natural,
    non_negative,
    positive_int,
    probability,
    seed,
)

# channel means and standard deviations of training images; ImageNet's are those of torchvision's reference training
KNOWN = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
MEASURED = "measured"
DIGITS = "digits-dvs"  # digits as events, made here
AUTO_AUGMENT = ("randaugment", "trivialaugment", "autoaugment-imagenet", "autoaugment-cifar10", "autoaugment-svhn")
MAGNITUDES = 31  # of RandAugment, torchvision's default


def add_loading_arguments(parser: Parser) -> None:
    """Of every data set."""
    add = parser.add_argument_group("data").add_argument
    add("--data-path", metavar="FOLDER", help="folder of the data set")
    add("-b", "--batch-size", type=positive_int, default=32, help="samples of each process in a step")
    add("-j", "--workers", type=natural, help="loading processes of each process; default: its cores")
    add("--cache-dataset", action="store_true", help="keep the list of a folder's images for later runs")


def add_folder_arguments(parser: Parser) -> None:
    """How a folder of images is divided, and its images normalised."""
    add = parser.add_argument_group("a folder of images").add_argument
    add("--mean", type=_numbers, metavar="X,X,X", help=f"subtracted from pixels of 0 to 1: 0.5,0.5,0.5, or that of "
        f"{', '.join(KNOWN)}, or {MEASURED} (on the training images)")  # fmt: skip
    add("--std", type=_numbers, metavar="X,X,X", help="what they are divided by after that; as --mean")
    add("--split", type=fraction, help="with train/ alone: this share of each class is put aside to test on, e.g. 0.1")
    add("--split-seed", type=seed, default=0, help="with --split: which images")
    add("--channels", type=int, choices=(1, 3), help="1 or 3; default: 1 if the images are grey")
    add("--data-format", choices=("folder", "wds", "parquet", "imagenet"),
        help="files, WebDataset, Parquet or ImageNet's archives; default: what --data-path looks like")  # fmt: skip
    add("--check-data", action="store_true", help="read all images first, and name the damaged ones")


def add_augment_arguments(parser: Parser) -> None:
    """What training images go through besides crops, in this order."""
    add = parser.add_argument_group("augmentation of images").add_argument
    add("--hflip", type=probability, help="how often an image is flipped left to right; default: 0.5, digits never")
    add("--auto-augment", "--aa", choices=AUTO_AUGMENT, help="changes of colour and shape at random")
    add("--ra-ops", type=positive_int, default=2, help="of randaugment: changes to each image")
    add("--ra-magnitude", type=int, choices=range(MAGNITUDES), default=9, metavar="N",
        help=f"of randaugment: how strong, of 0..{MAGNITUDES - 1}; timm's m9 of 10 is 27")  # fmt: skip
    add("--random-erase", "--reprob", type=probability, default=0.0,
        help="how often a rectangle of an image is set to the mean colour")  # fmt: skip
    add("--mixup", "--mixup-alpha", type=non_negative, default=0.0,
        help="alpha of mixup, which adds up pairs of a batch; 0: none")  # fmt: skip
    add("--cutmix", "--cutmix-alpha", type=non_negative, default=0.0,
        help="alpha of CutMix, which swaps rectangles of pairs; with both, each has half of the batches; 0: none",
    )  # fmt: skip
    add("--mixup-off-epoch", type=natural, default=0,
        help="number of the first epoch without mixup and CutMix; 0: none")  # fmt: skip


def add_small_image_arguments(parser: Parser) -> None:
    """Of cifar/: which images, how large, and whether they are cropped."""
    add = parser.add_argument_group("small images").add_argument
    add("--dataset", choices=("digits", "cifar10", "cifar100", "folder"), default="digits", help="which")
    add("--download", action="store_true", help="fetch CIFAR to --data-path first")
    add("--image-size", type=positive_int, default=32, help="side of the images in pixels")
    add("--crop", action=argparse.BooleanOptionalAction, default=True,
        help="pad training images by an eighth of the side and crop them at random")  # fmt: skip


def add_crop_arguments(parser: Parser) -> None:
    """Of imagenet/: how photographs are resized and cropped."""
    add = parser.add_argument_group("crops").add_argument
    add("--train-crop-size", type=positive_int, default=224, help="side in pixels")
    add("--train-crop-scale", type=probability, default=0.08,
        help="least share of an image's area that a training crop takes")  # fmt: skip
    add("--val-resize-size", type=positive_int, default=256, help="shorter side before cropping, in pixels")
    add("--val-crop-size", type=positive_int, default=224, help="side in pixels")
    add("--loader", choices=("torchvision", "pil"), default="torchvision",
        help="what decodes and resizes JPEGs; pil: as released, at half the speed")  # fmt: skip
    add("--interpolation", choices=("bilinear", "bicubic"), default="bilinear", help="how images are resized")


def add_event_arguments(parser: Parser, name: str, side: int = 128) -> None:
    """Of data sets of events.

    Args:
        name: of the data set.
        side: height of its camera's sensor, in pixels.
    """
    group = parser.add_argument_group("events")
    group.add_argument("--dataset", metavar="NAME", default=DIGITS,
        help=f"{name}, or {DIGITS}: made here, no download")  # fmt: skip
    group.add_argument("--frames-path", metavar="FOLDER",
        help="where frames are made, and looked for first (default: --data-path)")  # fmt: skip
    add_flags(group, "--T-train", "--T_train", type=positive_int, metavar="N",
        help="train on N of a sample's T frames, drawn anew each time and kept in order; default: as the published "
        "recipe of the data set does")  # fmt: skip
    group.add_argument("--frame-size", type=positive_int, metavar="PIXELS", default=side,
        help=f"height of the frames; below {side} pixels are summed, as on a coarser sensor",
    )  # fmt: skip
    group.add_argument("--augment", metavar="NAMES", default="",
        help="change training samples at random: flip, roll, rotate, cutout, shear, nda; several with commas between "
        "them")  # fmt: skip


def _numbers(text: str) -> str:
    """A name, or numbers, which stay a text as in config.yaml; see `images.given_numbers`."""
    if text in (*KNOWN, MEASURED):
        return text
    try:
        values = [finite(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        names = ", ".join((*KNOWN, MEASURED))
        raise argparse.ArgumentTypeError(f"{text!r} is neither one finite number, nor three, nor one of {names}")
    return text

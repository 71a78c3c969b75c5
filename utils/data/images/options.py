"""What a folder of images is asked for: how it is divided, its images' channels, how these are normalised."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from dataclasses import dataclass

from full_spike.utils.data.dataset import DataOptions
from full_spike.utils.data.images.augment import AugmentOptions
from full_spike.utils.errors import UsageError
from full_spike.utils.runtime.options import option, seed

# channel means and standard deviations of training images; ImageNet's are those of torchvision's reference training
KNOWN = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
MEASURED = "measured"


def _levels(text: str) -> str:
    if text in (*KNOWN, MEASURED):
        return text
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        names = ", ".join((*KNOWN, MEASURED))
        raise argparse.ArgumentTypeError(f"{text!r} is neither numbers as 0.5,0.5,0.5 nor one of {names}") from None
    if len(values) not in (1, 3) or not all(math.isfinite(value) for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is neither one finite number nor three")
    return text


def _deviations(text: str) -> str:
    if _levels(text) not in (*KNOWN, MEASURED) and any(float(part) <= 0.0 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return text


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def _channels(text: str) -> int:
    if text not in ("1", "3"):
        raise argparse.ArgumentTypeError(f"{text} is neither 1 (grey) nor 3 (colours)")
    return int(text)


@dataclass(frozen=True)
class FolderOptions(AugmentOptions):
    """Of a folder of images."""

    mean: str | None = option(
        None, f"subtracted from pixels of 0 to 1: 0.5,0.5,0.5, or that of {', '.join(KNOWN)}, or {MEASURED} (once, on "
        "the training images)", parse=_levels, metavar="X,X,X",
    )  # fmt: skip
    std: str | None = option(
        None, "what they are divided by after that; named as --mean", parse=_deviations, metavar="X,X,X"
    )
    split: float | None = option(
        None, "with train/ alone: this share of each class is put aside to test on, e.g. 0.1", parse=_share
    )
    split_seed: int = option(0, "with --split: which images", parse=seed)
    channels: int | None = option(None, "1 or 3; default: 1 if the images are grey", parse=_channels)

    def __post_init__(self) -> None:
        named = [value for value in (self.mean, self.std) if value in (*KNOWN, MEASURED)]
        if len(set(named)) > 1 or (named and {self.mean, self.std} - {None, named[0]}):
            raise UsageError(
                f"--mean {self.mean} and --std {self.std} are of two kinds: give one name, or numbers for both"
            )
        if not named and (self.mean is None) != (self.std is None):
            given, missing = ("--std", "--mean") if self.mean is None else ("--mean", "--std")
            raise UsageError(f"{given} is given and {missing} is not: give both, or one name for both")

    def numbers(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Means and standard deviations, where they are given as numbers."""
        if self.mean is None or self.std is None or {self.mean, self.std} & {*KNOWN, MEASURED}:
            return None
        mean, std = (tuple(float(part) for part in text.split(",")) for text in (self.mean, self.std))
        return mean, std

    def words(self, *left_out: str) -> list[str]:
        """What differs from the defaults of the class, for the name of a run's folder; some options are left out."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        reading = {field.name for field in dataclasses.fields(DataOptions)} | {"channels", "download", *left_out}
        found = []
        for name, value in vars(self).items():
            if name not in reading and value != usual[name]:
                text = "" if value is True else "no" if value is False else re.sub(r"[^\w.+=-]", "-", str(value))
                found.append(f"{text}{name.replace('_', '')}" if text == "no" else f"{name.replace('_', '')}{text}")
        return found

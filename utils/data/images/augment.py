"""Random changes to training images, all of them torchvision's, and the options that choose them.

Changes to one image draw from the stream of its sample, mixing from that of its batch: see `utils.data.loading`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from full_spike.utils.data.dataset import DataOptions
from full_spike.utils.runtime.deferred import Deferred
from full_spike.utils.runtime.options import natural, non_negative, option, positive_int, probability

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.transforms import v2
else:  # the options are read for --help, and most runs change no images: torchvision takes seconds to import
    v2 = Deferred("torchvision.transforms.v2")

MAGNITUDES = 31  # of RandAugment, torchvision's default


def _magnitude(text: str) -> int:
    value = natural(text)
    if value >= MAGNITUDES:
        raise argparse.ArgumentTypeError(f"{value} is outside 0..{MAGNITUDES - 1}")
    return value


# name -> (options, how shifted and turned images are filled and interpolated) -> the change
AUTO_AUGMENT: dict[str, Callable[[AugmentOptions, dict[str, Any]], v2.Transform]] = {
    "randaugment": lambda o, how: v2.RandAugment(o.ra_ops, o.ra_magnitude, MAGNITUDES, **how),  # arXiv:1909.13719
    "trivialaugment": lambda o, how: v2.TrivialAugmentWide(**how),  # arXiv:2103.10158
    # arXiv:1805.09501, the policies found for three data sets
    "autoaugment-imagenet": lambda o, how: v2.AutoAugment(v2.AutoAugmentPolicy("imagenet"), **how),
    "autoaugment-cifar10": lambda o, how: v2.AutoAugment(v2.AutoAugmentPolicy("cifar10"), **how),
    "autoaugment-svhn": lambda o, how: v2.AutoAugment(v2.AutoAugmentPolicy("svhn"), **how),
}


@dataclass(frozen=True)
class AugmentOptions(DataOptions):
    """What training images go through besides crops, in this order."""

    hflip: float | None = option(
        None, "how often an image is flipped left to right; default: 0.5, digits never", parse=probability
    )
    auto_augment: str | None = option(
        None, "changes of colour and shape at random", "--auto-augment", "--aa", choices=tuple(AUTO_AUGMENT)
    )
    ra_ops: int = option(2, "of randaugment: changes to each image", parse=positive_int)
    ra_magnitude: int = option(
        9, f"of randaugment: how strong, of 0..{MAGNITUDES - 1}; timm's m9 of 10 is 27", parse=_magnitude
    )
    random_erase: float = option(
        0.0, "how often a rectangle of an image is set to the mean colour", "--random-erase", "--reprob",
        parse=probability,
    )  # fmt: skip
    mixup: float = option(
        0.0, "alpha of mixup, which adds up pairs of a batch; 0: none", "--mixup", "--mixup-alpha", parse=non_negative
    )
    cutmix: float = option(
        0.0, "alpha of CutMix, which swaps rectangles of pairs; with both, each has half of the batches; 0: none",
        "--cutmix", "--cutmix-alpha", parse=non_negative,
    )  # fmt: skip
    mixup_off_epoch: int = option(0, "number of the first epoch without mixup and CutMix; 0: none", parse=natural)

    def flips(self, usual: float = 0.5) -> float:
        """How often an image is flipped."""
        return usual if self.hflip is None else self.hflip

    def changes(self, *, flips: float, fill: Sequence[float]) -> list[v2.Transform]:
        """Of an image of 8 bits (PIL or a tensor), cropped, not normalised yet.

        Args:
            flips: see above.
            fill: the colour of what is outside of an image that was shifted or turned, in [0, 1].
        """
        found: list[v2.Transform] = [v2.RandomHorizontalFlip(flips)] if flips else []
        if self.auto_augment is not None:
            how = {"fill": [round(255 * x) for x in fill], "interpolation": v2.InterpolationMode("bilinear")}
            found.append(AUTO_AUGMENT[self.auto_augment](self, how))
        return found

    def erasing(self) -> list[v2.Transform]:
        """Of a normalised image, where 0 is the mean colour (arXiv:1708.04896)."""
        return [v2.RandomErasing(self.random_erase)] if self.random_erase else []

    def mixing(self, num_classes: int) -> Mixing | None:
        return Mixing(self, num_classes) if self.mixup or self.cutmix else None

    def recipe(self, flips: float) -> dict[str, Any]:
        """What of this must not change inside a run."""
        names = ("auto_augment", "ra_ops", "ra_magnitude", "random_erase", "mixup", "cutmix", "mixup_off_epoch")
        return {"hflip": flips, **{name: getattr(self, name) for name in names}}


class Mixing:
    """mixup (arXiv:1710.09412) or CutMix (arXiv:1905.04899) of a batch, one share for all of its pairs.

    Each image is mixed with the one before it in the batch, which is one at random, since batches are.
    """

    def __init__(self, options: AugmentOptions, num_classes: int) -> None:
        kinds = ((v2.MixUp, options.mixup), (v2.CutMix, options.cutmix))
        self.mix = v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha])
        self.off_epoch = options.mixup_off_epoch

    def __call__(self, images: Tensor, classes: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """(images [N, C, H, W], classes [N]) -> (images, the share that each class has in each [N, num_classes]).

        From the epoch on that is the first without, they stay as they are.
        """
        if self.off_epoch and epoch >= self.off_epoch:
            return images, classes
        return self.mix(images, classes)

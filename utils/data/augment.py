"""Random changes to training images, all of them torchvision's.

Changes to one image draw from the stream of its sample, mixing from that of its batch: see `utils.data.loading`.
`args` has the fields of `options.add_augment_arguments`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from full_spike.utils.data.options import MAGNITUDES


def changes(args: Namespace, *, flips: float, fill: Sequence[float]) -> list[v2.Transform]:
    """Of an image of 8 bits (PIL or a tensor), cropped, not normalised yet.

    Args:
        flips: how often it is flipped left to right.
        fill: the colour of what is outside of an image that was shifted or turned, in [0, 1].
    """
    found: list[v2.Transform] = [v2.RandomHorizontalFlip(flips)] if flips else []
    how: dict[str, Any] = {"fill": [round(255 * x) for x in fill], "interpolation": v2.InterpolationMode.BILINEAR}
    if args.auto_augment == "randaugment":  # arXiv:1909.13719
        found.append(v2.RandAugment(args.ra_ops, args.ra_magnitude, MAGNITUDES, **how))
    elif args.auto_augment == "trivialaugment":  # arXiv:2103.10158
        found.append(v2.TrivialAugmentWide(**how))
    elif args.auto_augment is not None:  # arXiv:1805.09501
        policy = v2.AutoAugmentPolicy(args.auto_augment.removeprefix("autoaugment-"))
        found.append(v2.AutoAugment(policy, **how))
    return found


def erasing(args: Namespace, colour: Sequence[float] = (0.0,)) -> list[v2.RandomErasing]:
    """Rectangles of this colour, by default that of 0 in a normalised image: the mean (arXiv:1708.04896)."""
    return [v2.RandomErasing(args.random_erase, value=list(colour))] if args.random_erase else []


class Normalise:
    """Images of bytes, or in [0, 1], -> (x - mean) / std: one [C, H, W] or many, where they are."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, images: Tensor) -> Tensor:
        if images.device != self.mean.device:  # once: a GPU would wait for numbers to come with each batch
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        return v2.functional.to_dtype(images, torch.float32, scale=True).sub(self.mean).div_(self.std)


@dataclass(frozen=True)
class Halves:
    """A transform of images in two parts.

    Attributes:
        alone: of each image, by a loading process: to bytes [C, H, W].
        together: of a batch of them, on the device.
    """

    alone: Callable[[Any], Tensor]
    together: Callable[[Tensor], Tensor]

    def __call__(self, image: Any) -> Tensor:
        return self.together(self.alone(image))


class Mixing:
    """mixup (arXiv:1710.09412) or CutMix (arXiv:1905.04899) of a batch, one share for all of its pairs.

    Each image is mixed with the one before it in the batch, which is one at random, since batches are.
    """

    def __init__(self, args: Namespace, num_classes: int) -> None:
        kinds = ((v2.MixUp, args.mixup), (v2.CutMix, args.cutmix))
        self.mix = v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha])
        self.off_epoch = args.mixup_off_epoch

    def __call__(self, images: Tensor, classes: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """(images [N, C, H, W], classes [N]) -> (images, the share that each class has in each [N, num_classes]).

        From the epoch on that is the first without, they stay as they are.
        """
        if self.off_epoch and epoch >= self.off_epoch:
            return images, classes
        return self.mix(images, classes)


def mixing(args: Namespace, num_classes: int) -> Mixing | None:
    return Mixing(args, num_classes) if args.mixup or args.cutmix else None


def recipe(args: Namespace, flips: float) -> dict[str, Any]:
    """What of this must not change inside a run."""
    names = ("auto_augment", "ra_ops", "ra_magnitude", "random_erase", "mixup", "cutmix", "mixup_off_epoch")
    return {"hflip": flips, **{name: getattr(args, name) for name in names}}

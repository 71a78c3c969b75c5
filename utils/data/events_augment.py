"""Random changes to the frames of a training sample, the same to each of its frames.

"nda" is Neuromorphic Data Augmentation (Li et al., arXiv:2203.06145) for one sample at a time, so without its CutMix.
Extents are those of its released code for CIFAR10-DVS, as fractions of the side: 5 of 48 pixels, 30 degrees.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from full_spike.utils.errors import UsageError

ROLL = 5 / 48
DEGREES = 30.0
CUTOUT = 1 / 4


def _integer(low: int, high: int) -> int:
    """Uniform over low..high, from torch's stream, which is each sample's own."""
    return int(torch.randint(low, high + 1, ()))


def flip(frames: Tensor) -> Tensor:
    """Left to right, half of the time."""
    return frames.flip(-1) if torch.rand(()) < 0.5 else frames


def roll(frames: Tensor) -> Tensor:
    """Shifted, up to a tenth of the side; what leaves on one side comes back on the other."""
    reach = round(ROLL * frames.shape[-1])
    return frames.roll((_integer(-reach, reach), _integer(-reach, reach)), dims=(-2, -1))


def cutout(frames: Tensor) -> Tensor:
    """A square of a quarter of the side without events, its centre anywhere (arXiv:1708.04552)."""
    height, width = frames.shape[-2:]
    half = max(1, round(CUTOUT * width / 2))
    y, x = _integer(0, height - 1), _integer(0, width - 1)
    frames = frames.clone()
    frames[..., max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
    return frames


rotate = v2.RandomRotation(DEGREES)  # both to the nearest neighbours: counts of events stay whole numbers
shear = v2.RandomAffine(0.0, shear=(-DEGREES, DEGREES))


def nda(frames: Tensor) -> Tensor:
    """A flip, then one of roll, rotate, cutout and shear."""
    chosen = (roll, rotate, cutout, shear)[_integer(0, 3)]
    return chosen(flip(frames))


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": flip, "roll": roll, "rotate": rotate, "cutout": cutout, "shear": shear, "nda": nda,
}  # fmt: skip


def make_augmentation(names: str) -> Callable[[Tensor], Tensor] | None:
    """Frames [T, 2, H, W] -> the same shape, by names joined with commas, in this order; None for no name.

    Raises:
        UsageError: a name is unknown.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in AUGMENTATIONS]
    if unknown:
        raise UsageError(f"--augment {unknown[0]!r} is unknown: choose some of {', '.join(AUGMENTATIONS)}")
    return v2.Compose([AUGMENTATIONS[name] for name in chosen]) if chosen else None

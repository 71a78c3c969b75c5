"""What training on ImageNet is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from full_spike.utils.data.images.options import FolderOptions
from full_spike.utils.runtime.options import above, option, positive_int, probability


def _share(text: str) -> float:
    probability(text)
    return above(0.0)(text)


@dataclass(frozen=True)
class Options(FolderOptions):
    train_crop_size: int = option(224, "side in pixels", parse=positive_int)
    train_crop_scale: float = option(0.08, "least share of an image's area that a training crop takes", parse=_share)
    val_resize_size: int = option(256, "shorter side before cropping, in pixels", parse=positive_int)
    val_crop_size: int = option(224, "side in pixels", parse=positive_int)
    interpolation: str = option("bilinear", "how images are resized", choices=("bilinear", "bicubic"))

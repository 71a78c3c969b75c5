"""What training on ImageNet is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from utils.data.images.options import FolderOptions
from utils.runtime.options import option, positive_int


@dataclass(frozen=True)
class Options(FolderOptions):
    train_crop_size: int = option(224, "side in pixels", parse=positive_int)
    val_resize_size: int = option(256, "shorter side before cropping, in pixels", parse=positive_int)
    val_crop_size: int = option(224, "side in pixels", parse=positive_int)

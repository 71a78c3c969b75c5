"""What training on small images is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from full_spike.utils.data.images.options import FolderOptions
from full_spike.utils.errors import UsageError
from full_spike.utils.runtime.options import option, positive_int

DATASETS = ("digits", "cifar10", "cifar100", "folder")


@dataclass(frozen=True)
class ImageOptions(FolderOptions):
    dataset: str = option("digits", ", ".join(DATASETS))
    download: bool = option(False, "fetch CIFAR to --data-path first")
    image_size: int = option(32, "side of the images in pixels", parse=positive_int)
    crop: bool = option(True, "pad training images by an eighth of the side and crop them at random", negatable=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std", "split", "channels"):
            if self.dataset != "folder" and getattr(self, name) is not None:
                raise UsageError(
                    f"--{name} is of a folder of images, and --dataset {self.dataset} is none: leave it out"
                )

"""What data sets of events are asked for on the command line, and what their help tells of the camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from full_spike.utils.data.dataset import DataOptions
from full_spike.utils.options import option, positive_int

DIGITS = "digits-dvs"
SENSOR = 128  # pixels on each side of the DVS128
AUGMENTATIONS = ("flip", "roll", "rotate", "cutout", "shear", "nda")  # see `augment`


@dataclass(frozen=True)
class EventOptions(DataOptions):
    """What all data sets of events are asked for; each has a `dataset` of its own, see `dataset_option`."""

    dataset: str = option(DIGITS, "the data set")
    T_train: int | None = option(
        None, "train on N of a sample's T frames, drawn anew each time and kept in order; default: as the published "
        "recipe of the data set does", "--T-train", "--T_train", parse=positive_int, metavar="N",
    )  # fmt: skip
    frame_size: int = option(
        SENSOR, f"side of the frames; below {SENSOR} pixels are summed, as on a coarser sensor",
        parse=positive_int, metavar="PIXELS",
    )  # fmt: skip
    augment: str = option(
        "", f"change training samples at random: {', '.join(AUGMENTATIONS)}; several with commas between them",
        metavar="NAMES",
    )  # fmt: skip


def dataset_option(name: str) -> Any:
    """The field `dataset` of the options of a data set of this name."""
    return option(DIGITS, f"{name}, or {DIGITS}: made here, no download")

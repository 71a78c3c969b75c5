"""What a data set is to the rest of the project, and the options that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from utils.data.loading import Mix
from utils.runtime.distributed import World
from utils.runtime.options import natural, option, positive_int


@dataclass(frozen=True)
class DataOptions:
    """Which data, and how they are read. A data set with options of its own derives its class from this one."""

    data_path: str | None = option(None, "folder of the data set")
    batch_size: int = option(32, "samples of each process in a step", "-b", "--batch-size", parse=positive_int)
    workers: int = option(16, "loading processes of each process", "-j", "--workers", parse=natural)
    cache_dataset: bool = option(False, "keep the list of a folder's images for later starts")


@dataclass(frozen=True)
class Datasets:
    """Two datasets of (input, class), and what the network and the run must know of them."""

    train: Any
    test: Any
    num_classes: int
    in_channels: int = 3
    name: str = ""  # prefix of the run's folder, for scripts that know several data sets
    collate: Callable | None = None  # see `make_loaders`
    mix: Mix | None = None  # see `make_loaders`
    unit: str = "images"  # what samples are called
    recipe: dict[str, Any] = field(default_factory=dict)  # options of the data that must not change inside a run


# (the data set's options, the processes, how many time steps the network is shown) -> the data sets. Raises UsageError
# if the options don't fit together, UserError if the data are missing or not what they should be.
LoadData = Callable[[Any, World, int | None], Datasets]

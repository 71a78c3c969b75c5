"""What a data set is to the rest of the project, and the options that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from full_spike.utils.runtime.options import natural, option, positive_int

if TYPE_CHECKING:  # what only describes types is not imported: a command line is read without it
    from full_spike.utils.data.loading import Mix
    from full_spike.utils.distributed import World

DATA_SETS = ("cifar", "imagenet", "dvsgesture", "cifar10dvs")  # the folders that come along


@dataclass(frozen=True)
class DataOptions:
    """Which data, and how they are read. A data set with options of its own derives its class from this one."""

    data_path: str | None = option(None, "folder of the data set", metavar="FOLDER")
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
    words: Sequence[str] = ()  # for options that are not the defaults, in the name of the run's folder
    collate: Callable | None = None  # see `make_loaders`
    grey: bool = False  # images are read in one channel because none has colours, and not because that was asked for
    mix: Mix | None = None  # see `make_loaders`
    unit: str = "images"  # what samples are called
    classes: tuple[str, ...] = ()  # their names, in order
    inputs: dict[str, Any] = field(
        default_factory=dict
    )  # how an input is made of a file, for a checkpoint: plain values
    recipe: dict[str, Any] = field(default_factory=dict)  # options of the data that must not change inside a run

    def about(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data besides, for those who use the network: plain values."""
        return {"classes": list(self.classes), "inputs": dict(self.inputs)}


# (the data set's options, the processes, how many time steps the network is shown) -> the data sets. Raises UsageError
# if the options don't fit together, UserError if the data are missing or not what they should be.
LoadData = Callable[[Any, "World", int | None], Datasets]

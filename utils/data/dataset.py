"""What a data set is to the rest of the project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names below are read by commands that do not wait for torch
    from full_spike.utils.data.loading import Mix

DATA_SETS = ("cifar", "imagenet", "dvsgesture", "cifar10dvs")  # packages with `data.load(args, world) -> Datasets`


@dataclass(frozen=True)
class Datasets:
    """Two datasets of (input, class), and what the network and the run must know of them.

    Attributes:
        train, test: map-style datasets; `test.name_of(index)` names a sample where predictions are listed.
        num_classes, in_channels: of the network.
        name: prefix of the run's folder, for scripts that know several data sets.
        collate, mix: see `make_loaders`.
        unit: what samples are called.
        classes: their names, in order.
        inputs: how an input is made of a file, for a checkpoint: plain values.
        recipe: options of the data that must not change inside a run: plain values.
    """

    train: Any
    test: Any
    num_classes: int
    in_channels: int = 3
    name: str = ""
    collate: Callable | None = None
    mix: Mix | None = None
    unit: str = "images"
    classes: tuple[str, ...] = ()
    inputs: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)

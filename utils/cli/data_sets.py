"""The data that a trained network belongs to, for the commands that run it: a data set's own module loads them.

`utils` knows no data set. A command names the folder of one (`--data-set`), or else the checkpoint does; what this says
of its data are the options, and `--data-option` changes them.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from full_spike.utils.checkpoints.weights import data_set_of, settings_of
from full_spike.utils.cli.factory import trained
from full_spike.utils.data.dataset import DATA_SETS, DataOptions, Datasets
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, escaped
from full_spike.utils.runtime.options import options_of
from torch import Tensor
from torch.utils.data import DataLoader, Subset, default_collate


def named_data_set(args: argparse.Namespace) -> str | None:
    """The folder of the data set that the command names, or else the checkpoint."""
    return args.data_set or (data_set_of(trained(args)[1]) if args.checkpoint else None)


def data_module(args: argparse.Namespace) -> Any:
    """The module of the data set that the command names, or else the checkpoint: its `load` loads it.

    Raises:
        UsageError: neither names one, or there is no such module.
    """
    name = named_data_set(args)
    if name is None or (
        args.data_set is None and name not in DATA_SETS
    ):  # what a stranger's file names is not imported
        said = (
            "does not say which data it was trained on" if name is None else f"was trained on data of {escaped(name)}"
        )
        raise UsageError(
            f"{args.checkpoint} {said}: name a data set that reads such by --data-set, e.g. {DATA_SETS[1]}"
        )
    try:
        module = importlib.import_module(f"{name}.data")
    except (ImportError, ValueError, TypeError) as error:
        if isinstance(error, ImportError) and error.name and not f"{name}.data".startswith(error.name):
            raise UsageError(f"--data-set {name}: {name}/data.py needs {error.name}, which is missing") from None
        raise UsageError(f"--data-set {name}: there is no {name}/data.py; run from the project's root") from None
    if not hasattr(module, "load"):
        raise UsageError(f"--data-set {name}: {name}/data.py has no function load: name the folder of a data set")
    return module


def _options_class(module: Any) -> type:
    """The data set's options: of the file `options` beside its data, or else of the data themselves."""
    package = module.__name__.rpartition(".")[0]
    if importlib.util.find_spec(f"{package}.options") is not None:
        module = importlib.import_module(f"{package}.options")
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, DataOptions)]
    return max((v for v in found if v.__module__ == module.__name__), key=lambda v: len(v.__mro__), default=DataOptions)


def data_options(args: argparse.Namespace, module: Any) -> Any:
    """The data set's options: of the checkpoint, then of the command.

    Raises:
        UsageError: an option is unknown or out of range.
    """
    kind, data_set = _options_class(module), module.__name__.rpartition(".")[0]
    known = {option.name: option for option in options_of(kind)}
    recipe = settings_of(*trained(args))[1] if args.checkpoint else {}
    values = {name: recipe[name] for name in known if name in recipe and name not in ("batch_size", "workers")}
    given = dict(item.partition("=")[::2] for item in args.data_option)
    if given.get("dataset", values.get("dataset")) != values.get("dataset"):
        values = {}  # how other data were read
    if args.data is not None:
        given["data_path"] = str(args.data)
        if "dataset" in known and {**values, **given}.get("dataset", "digits") == "digits":
            given["dataset"] = "folder" if data_set == "cifar" else data_set
    values = {**values, **given}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"--data-option {name}={value} is no option of {data_set}: it has {', '.join(known)}")
        try:
            values[name] = None if value is None else known[name].checked(value)
        except ValueError as error:
            raise UsageError(f"--data-option {name}={value}: {error}") from None
    return kind(**{"batch_size": args.batch_size, "workers": 0, **values})


def image_reader(args: argparse.Namespace, channels: int) -> Callable[[Any], Tensor]:
    """PIL image -> input [C, H, W], as the data set of the command, or of the checkpoint, reads its test images.

    Raises:
        UsageError: none is named, it holds no images, or an option is wrong.
    """
    module = data_module(args)
    if not hasattr(module, "picture"):
        name = module.__name__.rpartition(".")[0]
        raise UsageError(f"--data-set {name} does not say how an image is read: use cifar or imagenet")
    return module.picture(data_options(args, module), channels)


def load_data_set(args: argparse.Namespace, model: Any) -> tuple[Datasets, Any]:
    """(the data set, its options) that the arguments and the checkpoint name, for this network.

    Raises:
        UsageError: they do not fit together, or the network reads other inputs.
        UserError: the data are missing or not what they should be.
    """
    module = data_module(args)
    options = data_options(args, module)
    data = module.load(options, World(), model.T)
    for what, wanted in (("in_channels", data.in_channels), ("num_classes", data.num_classes)):
        if model.config.get(what, wanted) != wanted:
            raise UsageError(
                f"the network has {what}={model.config[what]} and the data set {wanted}: name its own by --data-set, "
                "--data and --data-option"
            )
    return data, dataclasses.replace(options)


def batches(data: Any, collate: Any, batch_size: int, count: int | None = None) -> DataLoader:
    """Batches of a data set in its order, or of `count` samples spread evenly over it."""
    chosen = range(len(data))
    if count is not None and count < len(data):
        chosen = [i * len(data) // count for i in range(count)]  # type: ignore[assignment]
    return DataLoader(Subset(data, chosen), batch_size, collate_fn=collate or default_collate)


def inputs_of(loader: DataLoader) -> Iterator[Tensor]:
    """Inputs alone, drawn with random numbers that are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for x, _ in loader:
            yield x

"""Trained networks for the commands that run them: which network, with which weights, on which data.

What a command does not say, the checkpoint does: the network's options, the data set that it was trained on, and how
that reads its samples.
"""

from __future__ import annotations

import argparse
import importlib
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from full_spike.utils.data.dataset import DATA_SETS
from full_spike.utils.errors import UsageError, UserError, as_usage_error, escaped, warn
from full_spike.utils.options import Args, add_flags, natural, parse, positive_int, seed, weights_name

if TYPE_CHECKING:  # the arguments are read without waiting for torch
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from full_spike.models import Pretrained
    from full_spike.utils.data.dataset import Datasets

SAMPLES = 128  # that stand in for a data set which is not at hand
EVENTS_PER_PIXEL = 0.4  # in a random frame, per polarity


def add_network_arguments(parser: argparse.ArgumentParser, *, optional: bool = False, checkpoint: bool = True) -> None:
    """The arguments of `build_network`.

    Args:
        optional: of a command that takes a network only with its checkpoint.
        checkpoint: False for a command that names the checkpoint in its own way.
    """
    says = " (default: what the checkpoint says)" if optional else ""
    parser.add_argument("--model", required=not optional, metavar="NAME", help=f"e.g. dsnn18{says}")
    add_flags(parser, "--connect-f", "--connect_f", metavar="NAME", help="connect function: ADD, AND, IAND, OR or XOR")
    parser.add_argument("--T", type=positive_int, metavar="N", help="time steps that an image is shown for, or frames")
    add_flags(parser, "--num-classes", "--num_classes", type=positive_int, metavar="N", help="classes")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="any other option of the model, e.g. stem=cifar; may be repeated",
    )  # fmt: skip
    if checkpoint:
        parser.add_argument(
            "--checkpoint", type=weights_name, metavar="FILE|NAME",
            help="trained weights, ours or published, or the name of some that come along "
            f"(default: {'no network' if optional else 'random ones'})",
        )  # fmt: skip
    parser.add_argument("--ema", action="store_true", help="the checkpoint's averaged weights (--ema-decay) instead")
    parser.add_argument(
        "--factory", metavar="MODULE:FUNCTION", help="your own network: a function of the options that returns it"
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of random weights and images (default: 0)")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `build_loader`."""
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="images in one folder per class; random inputs without it"
    )
    parser.add_argument(
        "--size", type=positive_int, metavar="PIXELS",
        help="side of an image, if no data set says it (default: 224; random and a CIFAR stem: 32; event frames: 128)",
    )  # fmt: skip
    parser.add_argument(
        "--images",
        type=positive_int,
        metavar="N",
        help="how many images, or samples, to run (default: all, or 2 random)",
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=8, metavar="N", help="images in a batch (default: 8)"
    )
    parser.add_argument(
        "--workers", type=natural, default=0, metavar="N", help="processes that load images (default: 0)"
    )
    _add_reading_arguments(parser, "what the checkpoint says, or as ImageNet's at --size")


def _add_reading_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--data-set", metavar="NAME",
        help=f"whose loading code reads the data: cifar, imagenet, dvsgesture or cifar10dvs (default: {default})",
    )  # fmt: skip
    parser.add_argument(
        "--data-option", action="append", default=[], metavar="NAME=VALUE",
        help="an option of the data set's train.py, e.g. dataset=folder (default: what the checkpoint says)",
    )  # fmt: skip


def add_data_set_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `load_data_set`."""
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="folder of the data set (default: none, as for the digits)"
    )
    _add_reading_arguments(parser, "what the checkpoint says")
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N", help="images at once (default: 64)")


def _pairs(items: list[str], flag: str) -> dict[str, str]:
    pairs = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise UsageError(f"{flag} {item} is not of the form NAME=VALUE")
        pairs[name] = value
    return pairs


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except json.JSONDecodeError:
        return text


def trained(args: argparse.Namespace) -> Pretrained | None:
    """The weights that the arguments name; read once, since checkpoints are large."""
    from full_spike.utils.checkpoint import read_trained

    if args.checkpoint and getattr(args, "read", None) is None:
        args.read = read_trained(args.checkpoint, args.model, averaged=args.ema)
    return getattr(args, "read", None)


def build_network(args: argparse.Namespace) -> Any:
    """The network that the arguments describe, in eval mode on its device, with its weights.

    Raises:
        UsageError: an argument is wrong.
        UserError: the checkpoint cannot be used.
    """
    import torch

    from full_spike.models import create_model
    from full_spike.utils.distributed import named_device

    device = named_device(args.device)
    if args.ema and not args.checkpoint:
        raise UsageError("--ema takes the averaged weights of a checkpoint: name one by --checkpoint")
    weights = trained(args)
    options = {name: getattr(args, name) for name in ("connect_f", "T", "num_classes")}
    options |= {name: _value(text) for name, text in _pairs(args.option, "--option").items()}
    options = {name: value for name, value in options.items() if value is not None}
    name = args.model or (weights.config.get("model") if weights else None)
    torch.manual_seed(args.seed)
    if args.factory is not None:
        return _own_network(args.factory, options, weights).eval().to(device)
    if name is None:
        raise UsageError(f"{args.checkpoint} does not say which network it is of: name it with --model")
    with warnings.catch_warnings(record=True) as caught, as_usage_error():
        warnings.simplefilter("always", UserWarning)
        try:
            model = create_model(name, pretrained=weights, **options)
        except (TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"an option of {name} is of the wrong type or out of range ({reason}): {options}"
            ) from None
    for warning in caught:
        warn(str(warning.message))
    return model.eval().to(device)


def _own_network(factory: str, options: dict[str, Any], weights: Pretrained | None) -> nn.Module:
    module, _, function = factory.partition(":")
    try:
        model = getattr(importlib.import_module(module), function)(**options)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(f"--factory {factory}: {error}; write it as MODULE:FUNCTION, importable from here") from None
    if weights is not None:
        try:
            model.load_state_dict(weights.state.get("model", weights.state))
        except RuntimeError as error:
            raise UserError(f"{weights.path} does not fit: {' '.join(str(error).split())[:200]}") from None
    return model


def takes_frames(model: Any) -> bool:
    """Whether a network is made for frames of event counts."""
    return getattr(model, "event_frames", False)


def random_inputs(model: Any, count: int, size: int | None = None, seed: int = 0) -> Tensor:
    """Normal values [count, in_channels, size, size], by default 224x224, or 32x32 for a CIFAR stem; for a network of
    event frames Poisson counts [T, count, in_channels, size, size], by default 128x128."""
    import torch

    config = getattr(model, "config", {})
    generator = torch.Generator().manual_seed(seed)
    if takes_frames(model):
        size = size or 128
        rates = torch.full((config["T"], count, config["in_channels"], size, size), EVENTS_PER_PIXEL)
        return torch.poisson(rates, generator=generator)
    size = size or (32 if config.get("stem") == "cifar" else 224)
    return torch.randn(count, config.get("in_channels", 3), size, size, generator=generator)


def random_loader(inputs: Tensor, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of (images [N, C, H, W] or frames [T, N, C, H, W], targets [N]); all targets are 0."""
    import torch

    axis = 1 if inputs.ndim == 5 else 0
    return [(batch, torch.zeros(batch.shape[axis], dtype=torch.int64)) for batch in inputs.split(batch_size, axis)]


def set_norms(model: nn.Module, images: Tensor) -> None:
    """Set every batch norm's running statistics to those of these images.

    A network with random weights and unset norms falls silent after a few layers, and silence shows nothing.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from full_spike.models import returning

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over the batches seen: here, this one
        norm.train()
    with torch.no_grad(), returning(model, readout="both"):
        model(images)
    for norm, (training, momentum) in zip(norms, kept, strict=True):
        norm.train(training)
        norm.momentum = momentum


def build_loader(args: argparse.Namespace, model: Any) -> tuple[Iterable[tuple[Tensor, Tensor]], str, bool]:
    """(batches of inputs and targets, what they are in words, whether firing rates will be real).

    Rates are real with a checkpoint and a data set; a warning says when they are not. A model with random weights gets
    its norms set by the first batch.

    Raises:
        UsageError: an argument is out of range.
        UserError: there is no data.
    """
    loader: Iterable[tuple[Tensor, Tensor]]
    if args.data:
        from full_spike.utils.data.images import ImageFolder

        folder = next((below for name in ("val", "test") if (below := args.data / name).is_dir()), args.data)
        images = ImageFolder(folder, transform=_reader(args, model))
        loader = batches(images, None, args.batch_size, args.images, args.workers)
        words = f"images of {args.data}"
    else:
        loader = random_loader(random_inputs(model, args.images or 2, args.size, args.seed), args.batch_size)
        words = "random frames of event counts" if takes_frames(model) else "random images"
    if args.checkpoint:
        words += f", weights of {args.checkpoint}"
    else:
        words += ", random weights"
        try:
            set_norms(model, next(iter(loader))[0].to(args.device))
        except ValueError as error:
            raise UserError(f"{str(error).splitlines()[0]}: give more --images or a larger --size") from None
    real = bool(args.checkpoint and args.data)
    if not real:
        warn("firing rates are not real: give both --checkpoint and --data for real ones")
    return loader, words, real


def _reader(args: argparse.Namespace, model: Any) -> Callable[[Any], Tensor]:
    """How an image becomes an input: as in training where that is known, else as ImageNet's at --size."""
    channels = getattr(model, "config", {}).get("in_channels", 3)
    named = _named_data_set(args)
    if named:
        if args.size is not None:
            raise UsageError(
                f"--size {args.size} is not used, since images are read as those of {escaped(named)}: leave it out, or "
                "change how by --data-option"
            )
        return image_reader(args, channels)
    if channels != 3:
        raise UsageError(f"--data holds images of 3 channels, not {channels}: leave it out for random inputs")
    from full_spike.imagenet.data import picture
    from full_spike.imagenet.train import make_parser

    size = args.size or 224
    options = [f"--val-resize-size={round(size * 256 / 224)}", f"--val-crop-size={size}"]
    return picture(parse(make_parser(), options), 3)


def _named_data_set(args: argparse.Namespace) -> str | None:
    """The data set that the command names, or else the checkpoint."""
    weights = trained(args)
    name = args.data_set or (weights.metadata.get("data_set") if weights else None)
    return name if isinstance(name, str) else None


def _data_set(args: argparse.Namespace) -> tuple[Any, Args]:
    """(the data module of the data set that the command or the checkpoint names, its options).

    Options are those of the checkpoint, then of the command.

    Raises:
        UsageError: neither names one, there is no such package, or an option is unknown or out of range.
    """
    name, weights = _named_data_set(args), trained(args)
    if name is None or (args.data_set is None and name not in DATA_SETS):  # what a file names is not imported
        says = "does not say which data it was trained on" if name is None else f"was trained on {escaped(name)}"
        raise UsageError(f"{args.checkpoint} {says}: name a data set that reads such by --data-set, e.g. imagenet")
    package = f"full_spike.{name}" if name in DATA_SETS else name
    try:
        module, script = (importlib.import_module(f"{package}.{part}") for part in ("data", "train"))
        parser = script.make_parser()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(f"--data-set {name}: {error}; name a folder with data.py and train.py") from None
    recipe = dict(weights.metadata.get("recipe") or {}) if weights else {}
    known = parse(parser, []).of("data")
    saved = {k: v for k, v in recipe.items() if k in known and k not in ("batch_size", "workers")}
    typed = _pairs(args.data_option, "--data-option")
    if typed.get("dataset", saved.get("dataset")) != saved.get("dataset"):
        saved = {}  # how other data were read
    if args.data is not None:
        typed["data_path"] = str(args.data)
        if "dataset" in known and {**saved, **typed}.get("dataset", "digits") == "digits":
            typed["dataset"] = "folder" if name == "cifar" else name
    for option, text in typed.items():
        if option not in known:
            raise UsageError(f"--data-option {option}={text} is no option of {name}: it has {', '.join(known)}")
    typed = {option: _value(text) for option, text in typed.items()} | {"workers": 0, "batch_size": args.batch_size}
    return module, parse(script.make_parser(), [], {**saved, **typed})


def image_reader(args: argparse.Namespace, channels: int) -> Callable[[Any], Tensor]:
    """PIL image -> input [C, H, W], as the data set of the command, or of the checkpoint, reads its test images.

    Raises:
        UsageError: none is named, it holds no images, or an option is wrong.
    """
    module, options = _data_set(args)
    if not hasattr(module, "picture"):
        raise UsageError(f"--data-set {options.data_set} does not say how an image is read: use cifar or imagenet")
    return module.picture(options, channels)


def load_data_set(args: argparse.Namespace, model: Any) -> tuple[Datasets, Args]:
    """(the data set, its options) that the arguments and the checkpoint name, for this network.

    Raises:
        UsageError: they do not fit together, or the network reads other inputs.
        UserError: the data are missing or not what they should be.
    """
    from full_spike.utils.distributed import World

    module, options = _data_set(args)
    options.T = model.T
    data = module.load(options, World())
    for what, wanted in (("in_channels", data.in_channels), ("num_classes", data.num_classes)):
        if model.config.get(what, wanted) != wanted:
            raise UsageError(
                f"the network has {what}={model.config[what]} and the data set {wanted}: name its own by --data-set, "
                "--data and --data-option"
            )
    return data, options


def data_or_samples(args: argparse.Namespace, model: Any) -> tuple[Datasets, str]:
    """(the data set that the arguments and the checkpoint name, ""), or where it is not at hand and nothing was said
    about it, (samples like its inputs, of no meaningful class, what they are in words)."""
    from full_spike.utils.data.dataset import Datasets
    from full_spike.utils.data.events import time_first

    try:
        return load_data_set(args, model)[0], ""
    except UserError:
        if args.data or args.data_set or args.data_option:
            raise
    weights: Any = trained(args)
    inputs = weights.metadata.get("inputs") or {}
    if "mean" in inputs:
        samples, words = photographs(inputs, SAMPLES), "pieces of scikit-learn's two photographs"
    else:
        x = random_inputs(model, SAMPLES, inputs.get("frame_size"), args.seed)
        samples, words = list(x.unbind(x.ndim - 4)), "random inputs"
    pairs, tests = [(x, 0) for x in samples], SAMPLES // 4
    collate = time_first if samples[0].ndim == 4 else None
    return Datasets(pairs[tests:], pairs[:tests], model.config["num_classes"], collate=collate), words


def photographs(inputs: dict[str, Any], count: int) -> list[Tensor]:
    """Pieces of different sizes of scikit-learn's two photographs, read as a checkpoint says: [C, crop, crop]."""
    import torch
    from sklearn.datasets import load_sample_images
    from torchvision.transforms import v2

    channels, generator = len(inputs["mean"]), torch.Generator().manual_seed(0)
    read = v2.Compose(
        [
            v2.Grayscale(channels), v2.Resize(inputs["resize"]), v2.CenterCrop(inputs["crop"]),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(inputs["mean"], inputs["std"]),
        ][channels == 3 :]
    )  # fmt: skip
    photos = [torch.from_numpy(photo).permute(2, 0, 1) for photo in load_sample_images().images]
    found = []
    for i in range(count):
        scale, down, along = torch.rand(3, generator=generator).tolist()
        _, height, width = photos[i % 2].shape
        side = int(height * (0.2 + 0.8 * scale))
        top, left = int(down * (height - side)), int(along * (width - side))
        found.append(read(photos[i % 2][:, top : top + side, left : left + side]))
    return found


def batches(data: Any, collate: Any, batch_size: int, count: int | None = None, workers: int = 0) -> DataLoader:
    """Batches of a data set in its order, or of `count` samples spread evenly over it."""
    from torch.utils.data import DataLoader, Subset, default_collate

    chosen = range(len(data))
    if count is not None and count < len(data):
        chosen = [i * len(data) // count for i in range(count)]  # type: ignore[assignment]
    return DataLoader(Subset(data, chosen), batch_size, collate_fn=collate or default_collate, num_workers=workers)

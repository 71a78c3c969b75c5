"""What a network is counted on: images of a folder, or random inputs, with norms that let random weights spike."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from full_spike.utils.cli.data_sets import image_reader, named_data_set
from full_spike.utils.data.images.folder import ImageFolder, evaluation_transform
from full_spike.utils.data.images.listing import scan
from full_spike.utils.errors import UsageError, UserError, escaped, warn
from full_spike.utils.measure.layers import NORMS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

EVENTS_PER_PIXEL = 0.4  # in a random frame, per polarity


def takes_frames(model: nn.Module) -> bool:
    """Whether it is made for frames of event counts: it says so by an attribute `event_frames`."""
    return getattr(model, "event_frames", False)


def random_inputs(model: Any, count: int, size: int | None = None, seed: int = 0) -> Tensor:
    """Normal values [count, in_channels, size, size], by default 224x224, or 32x32 for a CIFAR stem; for a network of
    event frames Poisson counts [T, count, in_channels, size, size], by default 128x128."""
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
    axis = 1 if inputs.ndim == 5 else 0
    return [(batch, torch.zeros(batch.shape[axis], dtype=torch.int64)) for batch in inputs.split(batch_size, axis)]


def folder_loader(
    folder: Path, read: Callable[[Any], Tensor], batch_size: int, images: int | None = None, workers: int = 0
) -> DataLoader:
    """Batches of (images [N, C, H, W], classes [N]).

    Args:
        folder: holds a folder per class, or such folders below `val` or `test`.
        read: makes of a PIL image an input [C, H, W].
        images: only so many, evenly spread over the classes; all by default.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    folder = next((below for name in ("val", "test") if (below := folder / name).is_dir()), folder)
    dataset = ImageFolder(scan(folder), read)
    chosen = list(range(len(dataset)))
    if images is not None and images < len(dataset):
        chosen = [i * len(dataset) // images for i in range(images)]
    return DataLoader(Subset(dataset, chosen), batch_size, num_workers=workers)


@torch.no_grad()
def set_norms(model: nn.Module, images: Tensor) -> None:
    """Set every batch norm's running statistics to those of these images.

    A network with random weights and unset norms falls silent after a few layers, and silence shows nothing.
    """
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    kept = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over the batches seen: here, this one
        norm.train()
    model(images)
    for norm, (training, momentum) in zip(norms, kept, strict=True):
        norm.train(training)
        norm.momentum = momentum


def _reader(args: argparse.Namespace, model: nn.Module) -> Callable[[Any], Tensor]:
    """How an image becomes an input: as in training where that is known, else as ImageNet's at --size."""
    channels = getattr(model, "config", {}).get("in_channels", 3)
    named = named_data_set(args)
    if named:
        if args.size is not None:
            raise UsageError(
                f"--size {args.size} is not used, since images are read as those of {escaped(named)}: leave it out, or "
                "change how by --data-option"
            )
        return image_reader(args, channels)
    if channels != 3:
        raise UsageError(
            f"--data holds images of 3 channels, not {channels}: leave it out for random inputs, or count a trained "
            "network by its training script, with --test-only --synops"
        )
    size = args.size or 224
    return evaluation_transform(round(size * 256 / 224), size)


def build_loader(args: argparse.Namespace, model: nn.Module) -> tuple[Iterable[tuple[Tensor, Tensor]], str, bool]:
    """(batches of inputs and targets, what they are in words, whether firing rates will be real).

    Rates are real with a checkpoint and a data set; a warning says when they are not. A model with random weights gets
    its norms set by the first batch.

    Raises:
        UsageError: an argument is out of range.
        UserError: there is no data.
    """
    for name, lowest in {"size": 1, "images": 1, "batch_size": 1, "workers": 0}.items():
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise UsageError(f"--{name.replace('_', '-')} {value} is out of range: it must be at least {lowest}")
    loader: Iterable[tuple[Tensor, Tensor]]
    if args.data:
        loader = folder_loader(args.data, _reader(args, model), args.batch_size, args.images, args.workers)
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

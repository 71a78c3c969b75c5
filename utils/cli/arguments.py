"""Arguments that several commands share; what they mean is done by `factory` and `sample_data`."""

from __future__ import annotations

import argparse
from pathlib import Path

from full_spike.utils.runtime.options import add_flags, positive_int, seed


def add_network_arguments(parser: argparse.ArgumentParser, *, optional: bool = False, checkpoint: bool = True) -> None:
    """The arguments of `factory.build_network`.

    Args:
        optional: of a command that takes a network only with its checkpoint.
        checkpoint: False for a command that names the checkpoint in its own way.
    """
    parser.add_argument(
        "--model",
        required=not optional,
        metavar="NAME",
        help="a name that the factory lists, e.g. dsnn18" + (" (default: what the checkpoint says)" * optional),
    )
    add_flags(
        parser, "--connect-f", "--connect_f", metavar="NAME", help="the connect function: ADD, AND, IAND, OR or XOR"
    )
    parser.add_argument("--T", type=positive_int, metavar="N", help="time steps that an image is shown for, or frames")
    add_flags(parser, "--num-classes", "--num_classes", type=positive_int, metavar="N", help="classes")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of the model, e.g. stem=cifar; may be repeated",
    )
    without = "no network" if optional else "random ones"
    if checkpoint:
        parser.add_argument(
            "--checkpoint",
            type=Path,
            metavar="FILE|NAME",
            help=f"trained weights, ours or published, or the name of some that come along; {without} without it",
        )
    parser.add_argument("--ema", action="store_true", help="the checkpoint's averaged weights (--ema-decay) instead")
    parser.add_argument(
        "--factory",
        default="full_spike.models",
        metavar="MODULE",
        help="module that builds the networks (default: models)",
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of random weights and images (default: 0)")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sample_data.build_loader`."""
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="images in one folder per class; random inputs without it"
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="side of an image, if no data set says it (default: 224; random and a CIFAR stem: 32; event frames: 128)",
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="how many images, or samples, to run (default: all, or 2 random)"
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images in a batch (default: 8)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that load images (default: 0)")
    _add_reading_arguments(parser, "what the checkpoint says, or as ImageNet's at --size")


def _add_reading_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """The arguments of `data_sets.data_options` besides --data."""
    parser.add_argument(
        "--data-set",
        metavar="NAME",
        help=f"whose loading code reads the data: cifar, imagenet, dvsgesture or cifar10dvs (default: {default})",
    )
    parser.add_argument(
        "--data-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the data set's train.py, e.g. dataset=folder; default: what the checkpoint says",
    )


def add_data_set_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `data_sets.load_data_set`."""
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="folder of the data set (default: none, as for the digits)"
    )
    _add_reading_arguments(parser, "what the checkpoint says")
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N", help="images at once (default: 64)")

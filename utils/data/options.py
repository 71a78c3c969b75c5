"""Options of data sets, without torch."""

from __future__ import annotations

import argparse

from full_spike.utils.options import add_flags, positive_int

DIGITS = "digits-dvs"


def add_event_arguments(parser: argparse.ArgumentParser, name: str, side: int = 128) -> None:
    """What data sets of events are asked for.

    Args:
        name: of the data set.
        side: height of its camera's sensor, in pixels.
    """
    group = parser.add_argument_group("events")
    group.add_argument(
        "--dataset", default=DIGITS, metavar="NAME",
        help=f"{name}, or {DIGITS}: made here, no download (default: %(default)s)",
    )  # fmt: skip
    add_flags(
        group, "--T-train", "--T_train", type=positive_int, metavar="N",
        help="train on N of a sample's T frames, drawn anew each time and kept in order; default: as the published "
        "recipe of the data set does",
    )  # fmt: skip
    group.add_argument(
        "--frame-size", default=side, type=positive_int, metavar="PIXELS",
        help=f"height of the frames; below {side} pixels are summed, as on a coarser sensor (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--augment", default="", metavar="NAMES",
        help="change training samples at random: flip, roll, rotate, cutout, shear, nda; several with commas between",
    )  # fmt: skip

"""Options of the data, one function a group. Read for --help, so nothing here imports torch."""

from __future__ import annotations

from full_spike.utils.options import Parser, add_flags, positive_int

DIGITS = "digits-dvs"


def add_event_arguments(parser: Parser, name: str, side: int = 128) -> None:
    """Of data sets of events.

    Args:
        name: of the data set.
        side: height of its camera's sensor, in pixels.
    """
    group = parser.add_argument_group("events")
    group.add_argument("--dataset", metavar="NAME", default=DIGITS,
        help=f"{name}, or {DIGITS}: made here, no download (default: %(default)s)")  # fmt: skip
    add_flags(group, "--T-train", "--T_train", type=positive_int, metavar="N",
        help="train on N of a sample's T frames, drawn anew each time and kept in order; default: as the published "
        "recipe of the data set does")  # fmt: skip
    group.add_argument("--frame-size", type=positive_int, metavar="PIXELS", default=side,
        help=f"height of the frames; below {side} pixels are summed, as on a coarser sensor (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--augment", metavar="NAMES", default="",
        help="change training samples at random: flip, roll, rotate, cutout, shear, nda; several with commas between "
        "them")  # fmt: skip

"""Make the weights that come along of a finished run: networks, integers, and a card of each; every number is computed.

python scripts/ship_weights.py runs/mine --name cifar10 --data-path ~/data/cifar10 --about-data "CIFAR-10 as JPEG files"

The weights are those of the last epoch, so that none is chosen by the test set. Of a run that began with another one's
weights (--initial-checkpoint) the card tells both.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # what is run is a file of this folder, and Python looks no further by itself

from full_spike.utils.errors import UsageError, run_command  # noqa: E402
from full_spike.utils.files import check_output_folder  # noqa: E402
from full_spike.utils.options import Parser, positive_int  # noqa: E402


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
    parser = Parser(__doc__, prog="python scripts/ship_weights.py")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run that has ended")
    parser.add_argument("--name", required=True, help="what the weights are called, e.g. cifar10")
    parser.add_argument("--about-data", required=True, metavar="TEXT", help="what they were trained on, in words")
    parser.add_argument("--data-path", metavar="FOLDER", help="where the data are (default: where they were)")
    parser.add_argument("--output", type=Path, default=ROOT / "weights", metavar="FOLDER", help="default: weights/")
    parser.add_argument(
        "--images", type=positive_int, metavar="N", help="test images to count and certify on (default: all)"
    )
    args = parser.parse_args(argv)
    if not re.fullmatch(r"\w[\w.-]*", args.name):
        raise UsageError(f"--name {args.name} is no folder's name: use letters, digits, - and _")
    if (args.output / args.name).exists():
        raise UsageError(f"{args.output / args.name} is there already: remove it, or choose another --name")
    check_output_folder(args.output, "--output")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from studies.shipping import ship  # torch takes seconds to import

    ship(args.run, args.name, args.output, args.about_data, data_path=args.data_path, images=args.images)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

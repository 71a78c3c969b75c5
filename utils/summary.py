"""What a network is made of: layers, shapes, parameters, operations, and where spikes flow.

    python -m utils.summary --model dsnn34
    python -m utils.summary --model dsnn18 --option stem=cifar --num-classes 10
    python -m utils.summary --checkpoint runs/.../checkpoint_latest.pth

Weights are random unless a checkpoint is given; shapes, parameters and MACs do not depend on them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from full_spike.utils.errors import UsageError, run_command
from full_spike.utils.options import Parser, positive_int
from full_spike.utils.trained import add_network_arguments


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="python -m utils.summary")
    add_network_arguments(parser, optional=True)
    parser.add_argument(
        "--size", type=positive_int, metavar="PIXELS",
        help="side of an image (default: 224; a CIFAR stem: 32; event frames: 128)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.model is None and args.checkpoint is None:
        raise UsageError("there is no network: name one by --model, or a --checkpoint")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from full_spike.utils.measure.summary import summarise, table  # torch takes seconds to import
    from full_spike.utils.trained import build_network, random_inputs, set_norms

    model: Any = build_network(args)
    inputs = random_inputs(model, 1, args.size, args.seed).to(args.device)
    if not args.checkpoint:
        try:
            set_norms(model, inputs)
        except ValueError as error:
            raise UsageError(f"{str(error).splitlines()[0]}: take a larger --size") from None
    config = getattr(model, "config", {"model": type(model).__name__})
    title = " ".join(filter(None, [config["model"], config.get("connect_f")]))
    print(table(title, summarise(model, inputs)))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

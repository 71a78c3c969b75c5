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
from typing import TYPE_CHECKING, Any

from full_spike.utils.cli.arguments import add_network_arguments
from full_spike.utils.errors import UsageError, run_command
from full_spike.utils.runtime.options import Parser, positive_int

if TYPE_CHECKING:
    from full_spike.utils.measure.summary import Summary


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
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


def table(summary: Summary) -> str:
    """The lines of a network for a terminal, and their sums."""
    from full_spike.utils.measure.units import quantity

    head = ["layer", "kind", "output", "parameters", "MACs", "reads", "then"]
    rows = [
        [
            line.name,
            line.kind,
            " x ".join(map(str, line.shape)),
            f"{line.parameters:,}" if line.parameters else "",
            quantity(line.macs) if line.macs else "",
            line.reads,
            ", ".join(line.then),
        ]
        for line in summary.lines
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    right = {"parameters", "MACs"}
    text = [
        "  ".join(c.rjust(w) if h in right else c.ljust(w) for h, c, w in zip(head, row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    text.append(f"\n{summary.title}: {summary.parameters:,} parameters, {quantity(summary.macs())} MACs if dense")
    if len(summary.streams) > 1:
        text.append(
            ", ".join(f"{quantity(summary.macs(stream))} of them in the {stream}" for stream in summary.streams)
        )
    body = [line for line in summary.lines if line.reads in ("spikes", "values")]
    others = [line.name for line in body if line.reads == "values"]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        text.append(f"no spikes enter {', '.join(others[:3])}{more}: it is not full-spike")
    elif body:
        text.append(f"spikes alone enter all {len(body)} weighted layers between the first one and the classifier")
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from full_spike.utils.cli.factory import build_network
    from full_spike.utils.cli.sample_data import random_inputs, set_norms
    from full_spike.utils.measure.summary import summarise

    model: Any = build_network(args)
    inputs = random_inputs(model, 1, args.size, args.seed).to(args.device)
    if not args.checkpoint:
        try:
            set_norms(model, inputs)
        except ValueError as error:
            raise UsageError(f"{str(error).splitlines()[0]}: take a larger --size") from None
    summary = summarise(model, inputs)
    print(table(summary))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

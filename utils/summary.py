"""What a network is made of: layers, shapes, parameters, operations, and where spikes flow.

    python -m utils.summary --model dsnn34
    python -m utils.summary --model dsnn18 --option stem=cifar --num-classes 10 --svg dsnn18.svg
    python -m utils.summary --checkpoint runs/.../checkpoint_latest.pth

Weights are random unless a checkpoint is given; shapes, parameters and MACs do not depend on them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from full_spike.utils.trained import add_network_arguments
from full_spike.utils.errors import UsageError, run_command
from full_spike.utils.files import check_output_folder, write_file
from full_spike.utils.options import Parser, positive_int

if TYPE_CHECKING:
    from full_spike.utils.draw.streams import Box
    from full_spike.utils.measure.summary import Line, Summary


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
    parser = Parser(__doc__, prog="python -m utils.summary")
    add_network_arguments(parser, optional=True)
    parser.add_argument(
        "--size", type=positive_int, metavar="PIXELS",
        help="side of an image (default: 224; a CIFAR stem: 32; event frames: 128)",
    )  # fmt: skip
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the streams of the network as well")
    args = parser.parse_args(argv)
    if args.model is None and args.checkpoint is None:
        raise UsageError("there is no network: name one by --model, or a --checkpoint")
    return args


def table(summary: Summary) -> str:
    """The lines of a network for a terminal, and their sums."""
    from full_spike.utils.measure.html import quantity

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


def boxes(summary: Summary) -> list[Box]:
    """The network as the picture's boxes: a block each, and what is outside of blocks."""
    from full_spike.utils.draw.streams import Box

    crossings = _crossings(summary)
    found = []
    trunk = [line for line in summary.lines if line.stream == "trunk"]
    groups = [list(lines) for _, lines in groupby(trunk, key=lambda line: line.block or line.name)]
    for i, lines in enumerate(groups):
        first, last = lines[0], lines[-1]
        block = first.block
        gives = _gives(groups[i + 1]) if i + 1 < len(groups) else "values"
        kinds = ", ".join(line.kind for line in lines if "downsample" not in line.name)
        shape = " x ".join(map(str, last.shape))
        found.append(Box(f"{block or first.name}: {kinds}", shape, gives, bool(block), crossings.get(block, "")))
    return found


def _gives(lines: list[Line]) -> str:
    """What the lines before these give, told by what these read."""
    return next((line.reads for line in lines if line.reads), "spikes")


def _crossings(summary: Summary) -> dict[str, str]:
    """By block, what the pathway goes through on its way to its spikes."""
    found: dict[str, str] = {}
    block = ""
    for line in summary.lines:
        if line.stream == "trunk":
            block = line.block
        elif line.reads == "sums" and block:
            found[block] = f"{found[block]}, {line.kind}" if block in found else line.kind
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.svg:
        check_output_folder(args.svg.parent, "--svg")
    from full_spike.utils.trained import build_network
    from full_spike.utils.trained import random_inputs, set_norms
    from full_spike.utils.draw.streams import streams_svg  # torch takes seconds to import
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
    if args.svg:
        outputs = ["logits of the FSNN", "logits of the pathway"] if len(summary.streams) > 1 else ["logits"]
        args.svg.parent.mkdir(parents=True, exist_ok=True)
        write_file(args.svg, streams_svg(summary.title, boxes(summary), outputs).encode())
        print(f"wrote {args.svg}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

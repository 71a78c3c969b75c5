"""Weights from one naming to another, and to .safetensors.

    python -m utils.convert_checkpoint published.pth ours.pth --model dsnn18
    python -m utils.convert_checkpoint checkpoint_max_test_acc1.pth for_others.pth --to published
    python -m utils.convert_checkpoint checkpoint_max_test_acc1.pth trained/ --to pretrained

--to: ours (with what it takes to build the network again), published (the names of the authors' release and of
spikingjelly's activation_based), clock_driven (those of spikingjelly before, whose containers add a `module`), or
pretrained (a folder with model.safetensors and config.json). What is read may be any of these.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from full_spike.utils.errors import UsageError, run_command
from full_spike.utils.files import check_output_folder, replacing
from full_spike.utils.options import Parser
from full_spike.utils.trained import add_network_arguments

NAMINGS = ("ours", "published", "clock_driven", "pretrained")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
    parser = Parser(__doc__, prog="python -m utils.convert_checkpoint")
    parser.add_argument(
        "input", type=Path, metavar="IN", help="a checkpoint, ours or published, or a folder or file of .safetensors"
    )
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="the file, or with --to pretrained the folder, to write"
    )
    parser.add_argument("--to", choices=NAMINGS, default="ours", help="what to write (default: ours)")
    add_network_arguments(parser, optional=True, checkpoint=False)
    args = parser.parse_args(argv)
    if args.output.exists():
        raise UsageError(f"{args.output} is there already: name another file, or remove it")
    check_output_folder(args.output.absolute().parent, "OUT")
    args.checkpoint = args.input
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    import torch  # it and what follows takes seconds to import

    from full_spike.utils import checkpoint
    from full_spike.utils.checkpoints.weights import about_of
    from full_spike.utils.trained import build_network, load_factory, trained

    factory: Any = load_factory(args.factory)
    model: Any = build_network(args)
    about = about_of(trained(args)[1])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if args.to == "pretrained":
        with replacing(args.output) as folder:
            factory.save_pretrained(model, folder, about)
    elif args.to == "ours":
        checkpoint.write(args.output, {"config": model.config, "model": model.state_dict(), **about})
    else:
        state = factory.to_published(model, clock_driven=args.to == "clock_driven")
        with replacing(args.output, durable=True) as partial:
            torch.save({"model": state}, partial)
    print(f"{args.input}: {model.config['model']}, {len(model.state_dict())} tensors; wrote {args.output} ({args.to})")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

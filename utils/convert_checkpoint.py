"""Weights from one naming to another, and to .safetensors.

    python -m full_spike.utils.convert_checkpoint published.pth ours.pth --model dsnn18
    python -m full_spike.utils.convert_checkpoint checkpoint_max_test_acc1.pth for_others.pth --to published
    python -m full_spike.utils.convert_checkpoint checkpoint_max_test_acc1.pth trained/ --to pretrained

--to: ours (with what it takes to build the network again), published (the names of the authors' release and of
spikingjelly's activation_based), clock_driven (those of spikingjelly before, whose containers add a `module`), or
pretrained (a folder with model.safetensors and config.json). What is read may be any of these.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from full_spike.utils.errors import UsageError, run_command
from full_spike.utils.files import check_output_folder, replacing
from full_spike.utils.options import Parser
from full_spike.utils.trained import add_network_arguments, build_network, trained


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
    parser = Parser(__doc__, prog="python -m full_spike.utils.convert_checkpoint")
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="IN",
        help="a checkpoint, ours or published, or a folder or file of .safetensors",
    )
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="the file, or with --to pretrained the folder, to write"
    )
    parser.add_argument(
        "--to", choices=("ours", "published", "clock_driven", "pretrained"), default="ours",
        help="what to write (default: ours)",
    )  # fmt: skip
    add_network_arguments(parser, optional=True, checkpoint=False)
    args = parser.parse_args(argv)
    if args.output.exists():
        raise UsageError(f"{args.output} is there already: name another file, or remove it")
    check_output_folder(args.output.absolute().parent, "OUT")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    import torch  # it and what follows takes seconds to import

    from full_spike.models import save_pretrained, to_published
    from full_spike.utils import checkpoint

    model = build_network(args)
    metadata = trained(args).metadata  # type: ignore[union-attr]  # the parser wants a checkpoint
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if args.to == "pretrained":
        save_pretrained(model, args.output, metadata)
    elif args.to == "ours":
        checkpoint.write(args.output, {"config": model.config, "model": model.state_dict(), **metadata})
    else:
        with replacing(args.output, durable=True) as partial:
            torch.save({"model": to_published(model, clock_driven=args.to == "clock_driven")}, partial)
    print(
        f"{args.checkpoint}: {model.config['model']}, {len(model.state_dict())} tensors; "
        f"wrote {args.output} ({args.to})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

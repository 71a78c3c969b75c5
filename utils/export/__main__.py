"""Write a trained network for another runtime, and show that it fires the same spikes there.

    python -m utils.export --checkpoint runs/.../checkpoint_max_test_acc1.pth --to onnx --output exported
    python -m utils.export --checkpoint ... --to c --output exported --bits 4 --finetune 2

The pathway is taken off and batch norms are folded. What was written is run beside PyTorch on the data set's test
images, and compared layer by layer; the comparison is saved with it. --to: integer (a network of whole numbers, run by
torch), onnx (of floats, or with --bits of integers), nir (of floats), c (of integers, without any dependency).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from full_spike.utils.errors import UsageError, run_command
from full_spike.utils.files import check_output_folder
from full_spike.utils.options import Parser, above, natural, positive_int
from full_spike.utils.trained import add_data_set_arguments, add_network_arguments

FORMATS = ("integer", "onnx", "nir", "c")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
    parser = Parser(__doc__, prog="python -m utils.export")
    parser.add_argument("--to", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--output", type=Path, required=True, help="folder to make, with all that is written")
    parser.add_argument("--bits", type=int, choices=(8, 4), help="of integer weights (default: 8; onnx: floats)")
    parser.add_argument(
        "--finetune", type=natural, default=0, metavar="EPOCHS",
        help="train on with rounded weights first, the pathway attached (default: 0)",
    )  # fmt: skip
    parser.add_argument("--lr", type=above(0.0), default=0.01, help="of --finetune (default: 0.01)")
    parser.add_argument("--images", type=positive_int, metavar="N", help="test images to compare on (default: all)")
    parser.add_argument(
        "--calibrate", type=positive_int, default=256, metavar="N", help="training images for scales (default: 256)"
    )
    add_data_set_arguments(parser)
    add_network_arguments(parser, optional=True)
    args = parser.parse_args(argv)
    if args.checkpoint is None:
        raise UsageError("there is no --checkpoint: a network is exported with trained weights")
    if args.device != "cpu":
        raise UsageError(f"--device {args.device}: exports are made and compared on the CPU; leave it out")
    if args.to == "nir" and args.bits:
        raise UsageError(f"--bits {args.bits}: NIR holds floats; leave it out, or use --to integer, onnx or c")
    if args.finetune and not (args.bits or args.to in ("integer", "c")):
        raise UsageError(f"--finetune {args.finetune} is for integer weights: give --bits as well")
    if args.output.exists():
        raise UsageError(f"--output {args.output} is there already: name a new folder, or remove it")
    check_output_folder(args.output.absolute().parent, "--output")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    import torch  # it and all else takes seconds to import

    from full_spike.utils.cli.exporting import export

    torch.manual_seed(args.seed)
    export(args)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

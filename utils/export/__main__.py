"""Write a trained network for another runtime, and show that it fires the same spikes there.

    python -m full_spike.utils.export --checkpoint runs/.../checkpoint_max_test_acc1.pth --to onnx --output exported
    python -m full_spike.utils.export --checkpoint ... --to c --output exported --bits 4 --finetune 2

The pathway is taken off and batch norms are folded. What was written is run beside PyTorch on the data set's test
images, and compared layer by layer; the comparison is saved with it. --to: integer (a network of whole numbers, run by
torch), onnx (of floats, or with --bits of integers), nir (of floats), c (of integers, without any dependency).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from full_spike.utils.errors import UsageError, UserError, run_command
from full_spike.utils.files import check_output_folder, replacing
from full_spike.utils.options import Parser, above, natural, positive_int
from full_spike.utils.trained import add_data_set_arguments, add_network_arguments

FORMATS = ("integer", "onnx", "nir", "c")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
    parser = Parser(__doc__, prog="python -m full_spike.utils.export")
    add = parser.add_argument
    add("--to", required=True, choices=FORMATS, help="what to write")
    add("--output", type=Path, required=True, help="folder to make, with all that is written")
    add("--bits", type=int, choices=(8, 4), help="of integer weights (default: 8; onnx: floats)")
    add("--opset", type=positive_int, metavar="N", help="of ONNX (default: the oldest that suffices)")
    add(
        "--prefix",
        metavar="NAME",
        help="of C's files and names, for several networks in one program (default: classify)",
    )
    add(
        "--finetune", type=natural, default=0, metavar="EPOCHS",
        help="train on with rounded weights first, the pathway attached (default: 0)",
    )  # fmt: skip
    add("--lr", type=above(0.0), default=0.01, help="of --finetune (default: 0.01)")
    add("--images", type=positive_int, metavar="N", help="test images to compare on (default: all)")
    add("--calibrate", type=positive_int, default=256, metavar="N", help="training images for scales (default: 256)")
    add_data_set_arguments(parser)
    add_network_arguments(parser, optional=True)
    args = parser.parse_args(argv)
    if args.checkpoint is None:
        raise UsageError("there is no --checkpoint: a network is exported with trained weights")
    if args.device != "cpu":
        raise UsageError(f"--device {args.device}: exports are made and compared on the CPU; leave it out")
    if args.to == "nir" and args.bits:
        raise UsageError(f"--bits {args.bits}: NIR holds floats; leave it out, or use --to integer, onnx or c")
    for flag, of in (("opset", "onnx"), ("prefix", "c")):
        if args.to != of and getattr(args, flag) is not None:
            raise UsageError(f"--{flag} {getattr(args, flag)} is of --to {of}: leave it out")
    if args.prefix is not None and not re.fullmatch(r"[a-z][a-z0-9_]*", args.prefix):
        raise UsageError(f"--prefix {args.prefix} is no name of C in small letters, digits and _: choose another one")
    if args.to in ("integer", "c"):
        args.bits = args.bits or 8
    if args.finetune and not args.bits:
        raise UsageError(f"--finetune {args.finetune} is for integer weights: give --bits as well")
    if os.path.lexists(args.output):
        raise UsageError(f"--output {args.output} is there already: name a new folder, or remove it")
    check_output_folder(args.output.absolute().parent, "--output")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Write, run, compare; the folder appears whole or not at all."""
    args = parse(argv)
    from full_spike.utils.interrupts import stopping_at_once  # it and all else takes seconds to import

    with stopping_at_once():
        export(args)
    return 0


def export(args: argparse.Namespace) -> None:
    import torch

    from full_spike.models import detach_aap
    from full_spike.utils.export import c, nir, onnx, saved
    from full_spike.utils.export.compare import compare
    from full_spike.utils.export.floats import exact
    from full_spike.utils.export.graph import Fire
    from full_spike.utils.export.integers import finetune, quantize
    from full_spike.utils.trained import batches, build_network, data_or_samples, trained

    require, write, open_runtime = {
        "integer": (lambda: None, saved.write_integer, saved.IntegerRuntime),
        "onnx": (onnx.import_onnx, onnx.write_onnx, onnx.OnnxRuntime),
        "nir": (nir.import_nir, nir.write_nir, nir.NirRuntime),
        "c": (c.compiler, c.write_c, c.CRuntime),
    }[args.to]
    require()
    opset, prefix = ({name: getattr(args, name)} if getattr(args, name) else {} for name in ("opset", "prefix"))

    def detached(model: Any) -> Any:
        return detach_aap(model).eval() if getattr(model, "aap", None) is not None else model.eval()

    torch.manual_seed(args.seed)
    model: Any = build_network(args)
    for name in {"classes", "inputs"} & trained(args).metadata.keys():  # type: ignore[union-attr]
        setattr(model, name, trained(args).metadata[name])  # type: ignore[union-attr]
    data, without = data_or_samples(args, model)
    original = detached(copy.deepcopy(model))
    if args.finetune:
        if without:
            raise UsageError(f"--finetune {args.finetune} needs the training images: say where they are by --data")
        model = finetune(
            model, data, bits=args.bits, epochs=args.finetune, lr=args.lr, batch_size=args.batch_size, seed=args.seed
        )
    with replacing(args.output) as folder:
        folder.mkdir(parents=True)
        try:
            if args.bits:
                torch.manual_seed(args.seed)  # of the training images' augmentation
                images = [x for x, _ in batches(data.train, data.collate, args.batch_size, args.calibrate)]
                runner: Any = quantize(detached(model), images, args.bits)
            else:
                x = data.test[0][0]
                runner = exact(detached(model), x.shape[-2:], frames=x.ndim == 4)
            write(runner.graph, folder, **opset, **prefix)
        except ValueError as error:  # the network cannot become that
            raise UserError(str(error)) from None
        runtime: Any = open_runtime(folder, runner.graph, **prefix)
        found = compare(original, runner, runtime, batches(data.test, data.collate, args.batch_size, args.images))
        files = [file.name for file in sorted(folder.iterdir())]
        found.facts = {name: f"{(folder / name).stat().st_size:,} bytes" for name in files}
        if args.bits:
            fractions = sorted({str(fire.fraction) for fire in runner.graph.of(Fire)})
            found.facts["weights"] = f"{args.bits} bits; membranes with {', '.join(fractions)} fraction bits"
        if args.to == "c":
            found.facts["flash"], found.facts["RAM"] = (f"{size:,} bytes" for size in runtime.memory())
        if without:
            found.facts["compared on"] = f"{without}, for want of --data: their classes and firing rates mean nothing"
        if not found.same:
            print(found.table(runtime.name))
            raise UserError(f"{runtime.name} does not give what PyTorch gives here: nothing was written")
        (folder / "comparison.json").write_text(
            json.dumps({**asdict(found), "same": found.same}, indent=1) + "\n", encoding="utf-8"
        )
    print(found.table(runtime.name))
    print(f"saved {', '.join(str(args.output / name) for name in files)} and comparison.json beside it")


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Count synaptic operations and energy: a network with its AAP, without it, and the plain ResNet of its depth, if any.

    python -m utils.synops --model dsnn18 --connect-f OR --checkpoint dsnn18.pth --data imagenet/val

prints the table and saves synops.json, synops.csv and synops.html. In Python it is `measure.synops.write_report`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from full_spike.utils.trained import add_data_arguments, add_network_arguments
from full_spike.utils.errors import run_command
from full_spike.utils.files import check_output_folder
from full_spike.utils.measure.energy import EnergyModel
from full_spike.utils.options import Parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
    parser = Parser(__doc__, prog="python -m utils.synops")
    add_network_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("runs/synops"), help="where the report goes")
    parser.add_argument("--no-syops", action="store_true", help="leave out the package syops, which is slow")
    model = EnergyModel()
    for name in vars(model):
        parser.add_argument(f"--{name}-pj", type=float, default=getattr(model, name), help="default: %(default)s pJ")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from full_spike.utils.trained import build_network, load_factory  # torch takes seconds to import
    from full_spike.utils.trained import build_loader
    from full_spike.utils.measure.ann import plain_resnet
    from full_spike.utils.measure.synops import write_report

    check_output_folder(args.output, "--output")
    energy = EnergyModel(**{name: getattr(args, f"{name}_pj") for name in vars(EnergyModel())})
    model: Any = build_network(args)
    loader, data, rates_are_real = build_loader(args, model)
    detached = load_factory(args.factory).detach_aap(model) if getattr(model, "aap", None) is not None else None
    write_report(
        model,
        loader,
        args.output,
        detached=detached,
        ann=plain_resnet(model, load_factory(args.factory)),
        device=args.device,
        energy=energy,
        syops=not args.no_syops,
        data=data,
        rates_are_real=rates_are_real,
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

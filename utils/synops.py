"""Count synaptic operations and energy: a network with its AAP, without it, and the plain ResNet of its depth, if any.

    python -m utils.synops --model dsnn18 --connect-f OR --checkpoint dsnn18.pth --data imagenet/val

prints the table and saves synops.json and synops.csv. In Python it is `measure.synops.write_report`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from full_spike.utils.errors import run_command
from full_spike.utils.files import check_output_folder
from full_spike.utils.measure.energy import EnergyModel
from full_spike.utils.options import Parser, non_negative
from full_spike.utils.trained import add_data_arguments, add_network_arguments


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="python -m utils.synops")
    add_network_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("runs/synops"), help="where the report goes")
    parser.add_argument("--no-syops", action="store_true", help="leave out the package syops, which is slow")
    for name, default in vars(EnergyModel()).items():
        parser.add_argument(f"--{name}-pj", type=non_negative, default=default, help="default: %(default)s pJ")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from full_spike.utils.measure.synops import write_report  # torch takes seconds to import
    from full_spike.utils.trained import build_loader, build_network

    check_output_folder(args.output, "--output")
    energy = EnergyModel(args.mac_pj, args.ac_pj, args.update_pj)
    model = build_network(args)
    loader, data, rates_are_real = build_loader(args, model)
    write_report(
        model,
        loader,
        args.output,
        device=args.device,
        energy=energy,
        syops=not args.no_syops,
        data=data,
        rates_are_real=rates_are_real,
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

"""The full-spike certificate: does every weighted layer past the stem read nothing but 0 and 1?

    python -m utils.fullspike --model fsnn18 --checkpoint fsnn18.pth --data imagenet/val

runs the network, checks every batch and exits 0 if so; otherwise it names the first layer that does not, and exits 1.
In Python it is `measure.certificate.certify`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from full_spike.utils.errors import UsageError, run_command
from full_spike.utils.options import Parser
from full_spike.utils.trained import add_data_arguments, add_network_arguments


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="python -m utils.fullspike")
    add_network_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--detach-aap", action="store_true", help="certify the network without its AAP")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from full_spike.models import detach_aap  # torch takes seconds to import
    from full_spike.utils.measure.certificate import certify
    from full_spike.utils.trained import build_loader, build_network

    model = build_network(args)
    loader, data, _ = build_loader(args, model)
    if args.detach_aap:
        try:
            model = detach_aap(model)
        except ValueError as error:
            raise UsageError(f"--detach-aap: {error}") from None
    certificate = certify(model, loader, args.device)
    print(f"{args.model}: {data}")
    print("\n".join(certificate.lines()))
    return 0 if certificate.holds else 1


if __name__ == "__main__":
    sys.exit(run_command(main))

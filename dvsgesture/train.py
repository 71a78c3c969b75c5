"""Train a spiking network on DVS128 Gesture. By default on digits that are made here, so it runs as it is.

python -m dvsgesture.train                                                          # digits, as events
python -m dvsgesture.train --dataset dvsgesture --data-path ~/data/dvsgesture --amp # the recipe of SEW-ResNet
python -m dvsgesture.train --test-only --resume auto                                # evaluate what was trained
"""

import sys

from full_spike.utils.data.options import add_event_arguments, add_loading_arguments
from full_spike.utils.errors import as_usage_error, run_command
from full_spike.utils.options import Parser, parse, training_parser


def make_parser() -> Parser:
    parser = training_parser(__doc__, "dvsgesture")
    add_loading_arguments(parser)
    add_event_arguments(parser, "dvsgesture")
    parser.set_defaults(
        model="dsnn_7b", T=16, batch_size=16, epochs=192, lr=1e-3, lr_scheduler="step", step_size=64,
        gamma=0.1, weight_decay=0.0, output_dir="runs",
    )  # fmt: skip
    return parser


def run(argv: list[str] | None) -> None:
    args = parse(make_parser(), argv)

    from full_spike.dvsgesture.data import load  # from here on what --help need not wait for
    from full_spike.models import create_model, model_options
    from full_spike.utils.engine import find_weights, fit, job, options_of
    from full_spike.utils.losses import make_criterion
    from full_spike.utils.testing import test

    with job(args) as world:
        weights = find_weights(args, world)
        args = parse(make_parser(), argv, options_of(weights, args))
        data = load(args, world)
        with as_usage_error():
            model = create_model(
                args.model,
                pretrained=weights,
                num_classes=data.num_classes,
                in_channels=data.in_channels,
                **args.network(model_options(args.model)),  # --T, --connect_f, --neuron, --tau, --width, ...
            )
        if args.test_only:
            test(model, data, args, world, weights)
        else:
            fit(model, make_criterion(args, model, world), data, args, world, weights)


def main(argv: list[str] | None = None) -> int:
    return run_command(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())

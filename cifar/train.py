"""Train a spiking ResNet on small images. By default on digits that come with scikit-learn, so it runs as it is.

python -m cifar.train                                                    # digits
python -m cifar.train --dataset cifar10 --data-path ~/data --download    # CIFAR-10
python -m cifar.train --test-only --resume auto                          # evaluate what was trained
"""

import sys

from full_spike.utils.data.options import (
    add_augment_arguments,
    add_folder_arguments,
    add_loading_arguments,
    add_small_image_arguments,
)
from full_spike.utils.errors import as_usage_error, run_command
from full_spike.utils.options import Parser, parse, training_parser


def make_parser() -> Parser:
    parser = training_parser(__doc__, "cifar")
    add_loading_arguments(parser)
    add_small_image_arguments(parser)
    add_folder_arguments(parser)
    add_augment_arguments(parser)
    parser.set_defaults(
        model="dsnn18", neuron="LIF", stem="cifar", batch_size=128, epochs=100, lr=0.1, weight_decay=5e-4,
        output_dir="runs",
    )  # fmt: skip
    return parser


def run(argv: list[str] | None) -> None:
    args = parse(make_parser(), argv)

    from full_spike.cifar.data import load  # from here on what --help need not wait for
    from full_spike.models import create_model, model_options
    from full_spike.utils.engine import find_weights, fit, job, options_of
    from full_spike.utils.losses import make_criterion
    from full_spike.utils.testing import test

    with job(args) as world:
        weights = find_weights(args, world)
        args = parse(make_parser(), argv, options_of(weights, args))
        data = load(args, world, weights)
        with as_usage_error():
            model = create_model(
                args.model,
                pretrained=weights,
                num_classes=data.num_classes,
                in_channels=data.in_channels,
                **args.network(model_options(args.model)),  # --T, --connect_f, --neuron, --stem, --width, ...
            )
        if args.test_only:
            test(model, data, args, world, weights)
        else:
            fit(model, make_criterion(args, model, world), data, args, world, weights)


def main(argv: list[str] | None = None) -> int:
    return run_command(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())

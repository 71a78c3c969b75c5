"""Train a spiking ResNet on ImageNet; the defaults are the published recipe, for 8 processes.

torchrun --nproc-per-node=8 -m imagenet.train --data-path /datasets/imagenet --amp --tb --output-dir logs
python -m imagenet.train --data-path /datasets/imagenet --test-only --resume checkpoint.pth
"""

import sys

from full_spike.utils.data.options import (
    add_augment_arguments,
    add_crop_arguments,
    add_folder_arguments,
    add_loading_arguments,
)
from full_spike.utils.errors import as_usage_error, run_command
from full_spike.utils.options import Parser, parse, training_parser


def make_parser() -> Parser:
    parser = training_parser(__doc__, "imagenet")
    add_loading_arguments(parser)
    add_crop_arguments(parser)
    add_folder_arguments(parser)
    add_augment_arguments(parser)
    parser.set_defaults(channels=3, batch_size=64, epochs=320, lr=0.1, weight_decay=1e-5)
    return parser


def run(argv: list[str] | None) -> None:
    args = parse(make_parser(), argv)

    from full_spike.imagenet.data import load  # from here on what --help need not wait for
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

"""Train a spiking network on CIFAR10-DVS. By default on digits that are made here, so it runs as it is.

python -m cifar10dvs.train                                                          # digits, as events
python -m cifar10dvs.train --dataset cifar10dvs --data-path ~/data/cifar10dvs --amp # the recipe of SEW-ResNet
python -m cifar10dvs.train --test-only --resume auto                                # evaluate what was trained
"""

import sys

import models
from cifar10dvs.data import CIFAR10DVS, Options
from utils import launch

parser = launch.make_parser(
    __doc__,
    Options,
    model="dsnn_wide7b",
    T=16,
    batch_size=16,
    workers=4,
    epochs=64,
    lr=0.01,
    weight_decay=0.0,
    output_dir="runs",
)


def main(argv: list[str] | None = None) -> int:
    return launch.main(parser, CIFAR10DVS.load, models, argv)


if __name__ == "__main__":
    sys.exit(main())

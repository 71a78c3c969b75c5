"""Train a spiking network on CIFAR10-DVS. By default on digits that are made here, so it runs as it is.

python -m cifar10dvs.train                                                          # digits, as events
python -m cifar10dvs.train --dataset cifar10dvs --data-path ~/data/cifar10dvs --amp # the recipe of SEW-ResNet
python -m cifar10dvs.train --test-only --resume auto                                # evaluate what was trained
"""

import sys

from full_spike.cifar10dvs.options import Options
from full_spike.utils import launch

# of the default network, for --help
OF_MODEL = {
    "connect_f": "OR", "neuron": "PLIF", "tau": 2.0, "surrogate": "atan", "alpha": 2.0, "width": 64,
    "aux_head": "shared", "aap_pool": "projection",
}  # fmt: skip

parser = launch.make_parser(
    __doc__,
    Options,
    OF_MODEL,
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
    return launch.main(parser, "full_spike.cifar10dvs.data", "full_spike.models", argv)


if __name__ == "__main__":
    sys.exit(main())

"""Train a spiking ResNet on small images. By default on digits that come with scikit-learn, so it runs as it is.

python -m cifar.train                                                    # digits
python -m cifar.train --dataset cifar10 --data-path ~/data --download    # CIFAR-10
python -m cifar.train --test-only --resume auto                          # evaluate what was trained
"""

import sys

from full_spike.cifar.options import ImageOptions
from full_spike.utils import launch

# of the default network, for --help
OF_MODEL = {
    "T": 4, "connect_f": "OR", "tau": 2.0, "surrogate": "sigmoid", "alpha": 4.0, "width": 64, "aux_head": "shared",
}  # fmt: skip

parser = launch.make_parser(
    __doc__,
    ImageOptions,
    OF_MODEL,
    model="dsnn18",
    neuron="LIF",
    stem="cifar",
    batch_size=128,
    workers=2,
    epochs=100,
    lr=0.1,
    weight_decay=5e-4,
    output_dir="runs",
)


def main(argv: list[str] | None = None) -> int:
    return launch.main(parser, "full_spike.cifar.data", "full_spike.models", argv)


if __name__ == "__main__":
    sys.exit(main())

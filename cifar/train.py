"""Train a spiking ResNet on small images. By default on digits that come with scikit-learn, so it runs as it is.

python -m cifar.train                                                    # digits
python -m cifar.train --dataset cifar10 --data-path ~/data --download    # CIFAR-10
python -m cifar.train --test-only --resume auto                          # evaluate what was trained
"""

import sys

import models
from cifar.data import DATASETS, load
from utils import launch
from utils.cli import make_parser, positive_int

parser = make_parser(
    __doc__.splitlines()[0],
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
parser.add_argument("--dataset", default="digits", help=", ".join(DATASETS))
parser.add_argument("--download", action="store_true", help="fetch CIFAR to --data-path first")
parser.add_argument("--image-size", type=positive_int, default=32, help="side of the images in pixels")


def main(argv: list[str] | None = None) -> int:
    return launch.main(parser, load, models, argv)


if __name__ == "__main__":
    sys.exit(main())

"""Train a spiking ResNet on ImageNet; the defaults are the published recipe, for 8 processes.

torchrun --nproc-per-node=8 -m imagenet.train --data-path /datasets/imagenet --amp --tb --output-dir logs
python -m imagenet.train --data-path /datasets/imagenet --test-only --resume checkpoint.pth
"""

import sys

import models
from imagenet.data import load
from utils import launch
from utils.cli import make_parser, positive_int

parser = make_parser(__doc__.splitlines()[0], batch_size=64, epochs=320, cos_lr_T=320, lr=0.1, weight_decay=1e-5)
parser.add_argument("--train-crop-size", type=positive_int, default=224, help="side in pixels")
parser.add_argument("--val-resize-size", type=positive_int, default=256, help="shorter side before cropping, in pixels")
parser.add_argument("--val-crop-size", type=positive_int, default=224, help="side in pixels")


def main(argv: list[str] | None = None) -> int:
    return launch.main(parser, load, models, argv)


if __name__ == "__main__":
    sys.exit(main())

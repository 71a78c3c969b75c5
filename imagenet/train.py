"""Train a spiking ResNet on ImageNet; the defaults are the published recipe, for 8 processes.

torchrun --nproc-per-node=8 -m imagenet.train --data-path /datasets/imagenet --amp --tb --output-dir logs
python -m imagenet.train --data-path /datasets/imagenet --test-only --resume checkpoint.pth
"""

import sys

import models
from imagenet.data import Options, load
from utils import launch

parser = launch.make_parser(__doc__, Options, batch_size=64, epochs=320, cos_lr_T=320, lr=0.1, weight_decay=1e-5)


def main(argv: list[str] | None = None) -> int:
    return launch.main(parser, load, models, argv)


if __name__ == "__main__":
    sys.exit(main())

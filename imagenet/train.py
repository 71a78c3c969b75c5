"""Train a spiking ResNet on ImageNet; the defaults are the published recipe, for 8 processes.

torchrun --nproc-per-node=8 -m imagenet.train --data-path /datasets/imagenet --amp --tb --output-dir logs
python -m imagenet.train --data-path /datasets/imagenet --test-only --resume checkpoint.pth
"""

import sys

from full_spike.imagenet.options import Options
from full_spike.utils import launch

# of the default network, for --help
OF_MODEL = {
    "T": 4, "connect_f": "OR", "neuron": "IF", "tau": 2.0, "surrogate": "sigmoid", "alpha": 4.0, "stem": "imagenet",
    "width": 64, "aux_head": "shared",
}  # fmt: skip

parser = launch.make_parser(
    __doc__,
    Options,
    OF_MODEL,
    channels=3,
    batch_size=64,
    epochs=320,
    lr=0.1,
    weight_decay=1e-5,
)


def main(argv: list[str] | None = None) -> int:
    return launch.main(parser, "full_spike.imagenet.data", "full_spike.models", argv)


if __name__ == "__main__":
    sys.exit(main())

"""Train a spiking network on DVS128 Gesture. By default on digits that are made here, so it runs as it is.

python -m dvsgesture.train                                                          # digits, as events
python -m dvsgesture.train --dataset dvsgesture --data-path ~/data/dvsgesture --amp # the recipe of SEW-ResNet
python -m dvsgesture.train --test-only --resume auto                                # evaluate what was trained
"""

import sys

from full_spike.dvsgesture.options import Options
from full_spike.utils import launch

# of the default network, for --help
OF_MODEL = {
    "connect_f": "OR", "neuron": "PLIF", "tau": 2.0, "surrogate": "atan", "alpha": 2.0, "width": 32,
    "aux_head": "shared", "aap_pool": "projection",
}  # fmt: skip

parser = launch.make_parser(
    __doc__,
    Options,
    OF_MODEL,
    model="dsnn_7b",
    T=16,
    batch_size=16,
    workers=4,
    epochs=192,
    lr=1e-3,
    lr_scheduler="step",
    step_size=64,
    gamma=0.1,
    weight_decay=0.0,
    output_dir="runs",
)


def main(argv: list[str] | None = None) -> int:
    return launch.main(parser, "full_spike.dvsgesture.data", "full_spike.models", argv)


if __name__ == "__main__":
    sys.exit(main())

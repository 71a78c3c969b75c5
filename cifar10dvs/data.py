"""CIFAR10-DVS: images of CIFAR-10 before an event camera. There is no official division."""

from spikingjelly.datasets import CIFAR10DVS as SOURCE
from spikingjelly.datasets.cifar10_dvs import CIFAR10DVS_CLASS_NAMES

from full_spike.utils.data.events import EventDataset

# the first 90 % of each class train, as in SEW-ResNet's code
CIFAR10DVS = EventDataset("cifar10dvs", SOURCE, CIFAR10DVS_CLASS_NAMES, count=10_000, train_share=0.9)
load = CIFAR10DVS.load

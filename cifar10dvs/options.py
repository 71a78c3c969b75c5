"""What training on CIFAR10-DVS is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from full_spike.utils.data.events.options import EventOptions, dataset_option


@dataclass(frozen=True)
class Options(EventOptions):
    dataset: str = dataset_option("cifar10dvs")

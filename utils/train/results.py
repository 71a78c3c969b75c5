"""What an epoch came to, and the forms in which it is told: a line, TensorBoard's tags, an entry of metrics.jsonl."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from full_spike.utils.train import clock
from full_spike.utils.train.metrics import Score

Scores = dict[str, Score]  # by readout; the first one is what a run is judged by


@dataclass(frozen=True)
class EpochResult:
    """An epoch's results.

    epoch: its number, from 0.
    objective: the mean loss that was trained on.
    train, test, averaged: scores; `averaged` are of the averaged weights on the test set, empty without these.
    rates: firing rate by neuron layer on the test set, empty unless asked for.
    lr: the learning rate that it was trained at.
    speed: training samples a second, over all processes; 0 if all of the epoch was trained before a stop.
    left: seconds that the run will still take, as far as that can be told.
    """

    epoch: int
    objective: float
    train: Scores
    test: Scores
    averaged: Scores
    rates: dict[str, float]
    lr: float
    speed: float
    left: float = 0.0

    def line(self, epochs: int, unit: str) -> str:
        """For people: the epoch of so many, and what samples are called."""
        accuracies = _accuracies(self.test)
        if self.averaged:
            accuracies += f"  ema {_accuracies(self.averaged)}"
        speed = f"  {self.speed:.1f} {unit}/s" if self.speed else ""
        left = f"  left {clock.in_words(self.left)}" if self.epoch + 1 < epochs and self.left else ""
        return (
            f"epoch {self.epoch + 1}/{epochs}  loss {self.objective:.4f}  train {_first(self.train).acc1:.2f}  "
            f"test {accuracies}  lr {self.lr:.5g}{speed}{left}"
        )

    def train_tags(self) -> dict[str, float]:
        """For TensorBoard's `train`."""
        tags = {"train_loss": self.objective, "lr": self.lr, "images_per_second": self.speed}
        return tags | _tags("train", self.train, with_loss=False)

    def test_tags(self) -> dict[str, float]:
        """For TensorBoard's `te`."""
        rates = {f"firing_rate/{layer}": rate for layer, rate in self.rates.items()}
        return _tags("test", self.test) | _tags("test_ema", self.averaged) | rates

    def entry(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        return {
            "epoch": self.epoch,
            "train_loss": self.objective,
            "train": _plain(self.train),
            "test": _plain(self.test),
            **({"ema": _plain(self.averaged)} if self.averaged else {}),
            **({"firing_rate": self.rates} if self.rates else {}),
            "lr": self.lr,
            "images_per_second": round(self.speed, 2),
        }


def _first(scores: Scores) -> Score:
    return next(iter(scores.values()))


def _accuracies(scores: Scores) -> str:
    return "  ".join(f"{name} {score.acc1:.2f}" for name, score in scores.items())


def _plain(scores: Scores) -> dict[str, dict[str, float]]:
    return {name: dataclasses.asdict(score) for name, score in scores.items()}


def _tags(prefix: str, scores: Scores, *, with_loss: bool = True) -> dict[str, float]:
    """The release's names for the first readout, and for the others the same with the readout's name after them."""
    tags: dict[str, float] = {}
    for i, (name, score) in enumerate(scores.items()):
        suffix = f"_{name}" if i else ""
        values = {"loss": score.loss, "acc1": score.acc1, "acc5": score.acc5}
        tags |= {f"{prefix}_{key}{suffix}": value for key, value in values.items() if with_loss or key != "loss"}
    return tags

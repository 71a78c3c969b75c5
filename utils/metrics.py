"""Losses and accuracies, summed on the device until somebody reads them, and how an epoch is reported."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from full_spike.utils.distributed import World


@dataclass(frozen=True)
class Score:
    """Means over `count` samples; accuracies in percent."""

    loss: float
    acc1: float
    acc5: float
    count: int


Scores = dict[str, Score]  # by readout; the first one is what a run is judged by


class Meter:
    """Sums of loss, top-1 and top-5 hits for each readout, and of the training objective.

    Sums live in one float64 tensor [1 + readouts, 4] on the device (rows: the objective, then each readout; columns:
    loss, top-1, top-5, samples), so that updating never makes the CPU wait for the device.
    """

    def __init__(self, names: tuple[str, ...], device: torch.device) -> None:
        self.names = names
        self.sums = torch.zeros(1 + len(names), 4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, logits: dict[str, Tensor], target: Tensor, objective: Tensor | None = None) -> None:
        """Add a batch: logits [N, classes] by readout, target [N], and the mean objective that was trained on.

        Targets may also be the shares of classes in mixed samples [N, classes]: losses are then of the shares, and a
        hit is one of the class with the largest share.
        """
        n = len(target)
        self.sums[:, 3] += n
        classes = target if target.ndim == 1 else target.argmax(dim=1)
        if objective is not None:
            self.sums[0, 0] += objective.double() * n
        for row, name in enumerate(self.names, start=1):
            x = logits[name]
            hits = x.topk(min(5, x.shape[1]), dim=1).indices == classes[:, None]  # [N, k]
            self.sums[row, 0] += F.cross_entropy(x, target, reduction="sum")
            self.sums[row, 1] += hits[:, 0].sum()
            self.sums[row, 2] += hits.sum()

    def read(self, world: World) -> tuple[float, Scores]:
        """The mean objective and each readout's score over all processes. Waits for the device."""
        return self.read_sums(world.sum(self.sums))

    def read_sums(self, sums: Tensor) -> tuple[float, Scores]:
        """The mean objective and the scores of these sums; nan where nothing was summed."""
        rows = sums.tolist()
        scores = {}
        for name, (loss, hits1, hits5, n) in zip(self.names, rows[1:], strict=True):
            n = n or math.nan
            scores[name] = Score(loss / n, 100.0 * hits1 / n, 100.0 * hits5 / n, 0 if math.isnan(n) else int(n))
        objective, _, _, n = rows[0]
        return objective / (n or math.nan), scores


@dataclass(frozen=True)
class EpochResult:
    """An epoch's results.

    epoch: its number, from 0.
    objective: the mean loss that was trained on.
    train, test, averaged: scores; `averaged` are of the averaged weights on the test set, empty without these.
    rates: firing rate by neuron layer on the test set, empty unless asked for.
    lr: the learning rate that it was trained at.
    speed: training samples a second, over all processes; 0 if all of the epoch was trained before a stop.
    left: seconds that the run will still take, as far as that is known.
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
        """One line of text: the epoch of so many, and what samples are called."""
        accuracies = _accuracies(self.test)
        if self.averaged:
            accuracies += f"  ema {_accuracies(self.averaged)}"
        speed = f"  {self.speed:.1f} {unit}/s" if self.speed else ""
        left = f"  left {clock_time(self.left)}" if self.epoch + 1 < epochs and self.left else ""
        return (
            f"epoch {self.epoch + 1}/{epochs}  loss {self.objective:.4f}  train {_first(self.train).acc1:.2f}  "
            f"test {accuracies}  lr {self.lr:.5g}{speed}{left}"
        )

    def train_tags(self) -> dict[str, float]:
        """TensorBoard's `train`."""
        tags = {"train_loss": self.objective, "lr": self.lr, "images_per_second": self.speed}
        return tags | _tags("train", self.train, with_loss=False)

    def test_tags(self) -> dict[str, float]:
        """TensorBoard's `te`."""
        rates = {f"firing_rate/{layer}": rate for layer, rate in self.rates.items()}
        return _tags("test", self.test) | _tags("test_ema", self.averaged) | rates

    def entry(self) -> dict[str, Any]:
        """A line of metrics.jsonl."""
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


class Clock:
    """How long a run will still take, from what it has done since it started here.

    Args:
        done: epochs that were trained before, parts of one included.
        end: epochs in all.
    """

    def __init__(self, done: float, end: int) -> None:
        self._start, self._end = done, end
        self._began = time.monotonic()

    def leave_out(self, seconds: float) -> None:
        """Time that is not spent again, such as that of compiling."""
        self._began += seconds

    def left(self, done: float) -> float:
        """Seconds that are left when so many epochs are done; 0 where nothing is known yet."""
        here = done - self._start
        return max(0.0, (time.monotonic() - self._began) / here * (self._end - done)) if here > 0 else 0.0


def clock_time(seconds: float) -> str:
    """1:02:03, as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

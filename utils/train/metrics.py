"""Losses and accuracies, summed on the device until somebody reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from full_spike.utils.distributed import World
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """Means over `count` samples; accuracies in percent."""

    loss: float
    acc1: float
    acc5: float
    count: int


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

    def read(self, world: World) -> tuple[float, dict[str, Score]]:
        """The mean objective and each readout's score over all processes. Waits for the device."""
        return read_sums(world.sum(self.sums), self.names)


def read_sums(sums: Tensor, names: tuple[str, ...]) -> tuple[float, dict[str, Score]]:
    """The mean objective and the scores that a meter's sums hold; nan where nothing was summed."""
    rows = sums.tolist()
    scores = {}
    for name, (loss, hits1, hits5, n) in zip(names, rows[1:], strict=True):
        n = n or float("nan")
        scores[name] = Score(loss / n, 100.0 * hits1 / n, 100.0 * hits5 / n, 0 if math.isnan(n) else int(n))
    objective, _, _, n = rows[0]
    return objective / (n or float("nan")), scores

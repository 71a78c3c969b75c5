"""What a network says of each sample of a test set, as a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch
from full_spike.utils.distributed import World
from full_spike.utils.files import write_file
from full_spike.utils.train.classes import class_names
from torch import Tensor

MOST = 5  # classes that are told of each sample


class Likeliest:
    """The five likeliest classes of each sample by every readout, with their probabilities."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._batches: list[Tensor] = []

    @torch.no_grad()
    def update(self, logits: dict[str, Tensor], target: Tensor) -> None:
        """Add a batch: logits [N, classes] by readout, target [N]."""
        self.names = tuple(logits)
        most = min(MOST, next(iter(logits.values())).shape[1])
        found = [x.double().softmax(dim=1).topk(most, dim=1) for x in logits.values()]
        parts = [torch.stack([top.indices.double(), top.values], dim=2) for top in found]  # [N, most, 2] each
        numbers = torch.stack(parts, dim=1).flatten(1)  # [N, readouts * most * 2]
        self._batches.append(torch.cat([target.double()[:, None], numbers], dim=1).cpu())

    def rows(self, world: World, count: int) -> list[tuple[int, dict[str, list[tuple[int, float]]]]]:
        """(class, readout -> [(class that it says, probability)], likeliest first) of each of `count` samples.

        Processes have taken turns, as `EvaluationSampler` has it; the main one alone gets them.
        """
        mine = torch.cat(self._batches) if self._batches else torch.zeros(0, 1, dtype=torch.float64)
        if world.size > 1:
            wide = max(int(n) for n in world.gather(torch.tensor([mine.shape[1]])))
            padded = torch.zeros(-(-count // world.size), wide, dtype=torch.float64)
            padded[: len(mine), : mine.shape[1]] = mine
            mine = torch.stack(world.gather(padded), dim=1).flatten(0, 1)[:count]
        if not world.is_main:
            return []
        labels = mine[:, 0].long().tolist()
        said = mine[:, 1:].unflatten(1, (len(self.names), -1, 2)).tolist()
        return [
            (label, {name: [(int(i), p) for i, p in row] for name, row in zip(self.names, rows, strict=True)})
            for label, rows in zip(labels, said, strict=True)
        ]


def write_predictions(path: Path, rows: list[tuple[int, dict[str, list[tuple[int, float]]]]], data: Any) -> None:
    """Write a table with a line for each sample and readout: path, class, readout, then classes and probabilities."""
    names = class_names(data)
    most = max((len(said) for _, by_readout in rows for said in by_readout.values()), default=0)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class", "readout", *(f"{word}{i}" for i in range(1, most + 1) for word in ("top", "p"))])
    name_of = getattr(data.test, "name_of", "sample {}".format)
    for i, (label, by_readout) in enumerate(rows):
        for readout, said in by_readout.items():
            cells = [cell for j, p in said for cell in (names[j], f"{p:.6f}")]
            writer.writerow([name_of(i), names[label], readout, *cells])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text.getvalue().encode(errors="surrogateescape"))

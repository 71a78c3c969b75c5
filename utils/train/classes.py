"""Accuracy by class, and which classes are taken for which."""

from __future__ import annotations

from typing import Any

import torch
from full_spike.utils.distributed import World
from torch import Tensor

MOST = 20  # classes that a table shows all of
LOWEST = 10  # classes that it shows of more than that
LONGEST = 24  # letters of a name


class ByClass:
    """Counts samples by their class and the one that each readout says, on the device until they are read."""

    def __init__(self, names: tuple[str, ...], classes: int, device: torch.device) -> None:
        self.names = names
        self.classes = classes
        self.counts = torch.zeros(len(names), classes, classes, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, logits: dict[str, Tensor], target: Tensor) -> None:
        """Add a batch: logits [N, classes] by readout, target [N]."""
        for row, name in enumerate(self.names):
            places = target * self.classes + logits[name].argmax(dim=1)
            self.counts[row] += torch.bincount(places, minlength=self.classes**2).view(self.classes, self.classes)

    def read(self, world: World) -> dict[str, Tensor]:
        """Counts [class, what the readout says] by readout, over all processes."""
        return dict(zip(self.names, world.sum(self.counts).cpu(), strict=True))

    @staticmethod
    def table(counts: dict[str, Tensor], names: tuple[str, ...], unit: str) -> str:
        """Accuracies for a terminal. Of up to 20 classes, beside them, how often the first readout says which class;
        of more, the ten with the lowest accuracies by it, with the class that it says most often instead."""
        first, confusion = next(iter(counts.items()))
        totals = confusion.sum(dim=1)
        accuracy = {name: 100.0 * c.diagonal() / totals for name, c in counts.items()}
        few = len(names) <= MOST
        shown = list(range(len(names)))
        if not few:
            shown = sorted((i for i in shown if totals[i]), key=lambda i: float(accuracy[first][i]))[:LOWEST]
        labels = [_label(i, names[i]) for i in shown]
        wide = max(map(len, [*labels, "class"]))
        each = max(3, len(str(int(confusion.max()))) + 1)
        head = f"{'class':<{wide}}  {unit:>7}  " + "  ".join(f"{name:>6}" for name in counts) + "  | "
        head += (
            "".join(f"{i:>{each}}" for i in shown) + f"  said by {first}" if few else f"most often taken by {first} for"
        )
        lines = [head]
        for label, i in zip(labels, shown, strict=True):
            cells = [f"{float(accuracy[name][i]):6.2f}" if totals[i] else f"{'-':>6}" for name in counts]
            line = f"{label:<{wide}}  {int(totals[i]):>7}  {'  '.join(cells)}  | "
            row = confusion[i].clone()
            if few:
                line += "".join(f"{int(count) or '.':>{each}}" for count in row)
            else:
                row[i] = 0
                most = int(row.argmax())
                line += f"{_label(most, names[most])} ({int(row[most])})" if row[most] else "-"
            lines.append(line)
        if not few:
            lines.append(
                f"the {len(shown)} of {len(names)} classes with the lowest accuracies; --predictions writes all"
            )
        return "\n".join(lines)


def _label(number: int, name: str) -> str:
    name = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    return name if name == str(number) else f"{number} {name}"


def class_names(data: Any) -> tuple[str, ...]:
    """The names of a data set's classes; their numbers where it has none."""
    return tuple(data.classes) or tuple(map(str, range(data.num_classes)))

"""A trained network, evaluated (--test-only): readouts, accuracy by class, predictions, operations."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from full_spike.models import Pretrained, detach_aap, load_pretrained
from full_spike.utils import checkpoint, run_folder
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.loading import make_loaders
from full_spike.utils.distributed import World
from full_spike.utils.engine import describe, evaluate, metadata, place
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import check_output_folder, write_file
from full_spike.utils.log import RunLog, table
from full_spike.utils.losses import Outputs, early_exit, readout_names, readouts
from full_spike.utils.options import Args

TOP = 5  # classes in the table of predictions
SHOWN = 20  # classes that a table shows all of
LOWEST = 10  # classes that it shows of more than that
LONGEST = 24  # characters of a class's name


def test(model: Any, data: Datasets, args: Args, world: World, weights: Pretrained | None) -> None:
    """Evaluate a network on the test set, print what it reaches and write what the options ask for.

    Args:
        weights: that the network has; None for those of the run's folder (--resume auto).

    Raises:
        UserError: there are none, or they do not fit.
    """
    log = RunLog(world)
    folder = run_folder.folder_of(args, model.config, data.name)
    if weights is None:
        weights = _newest(folder, args, world, log)
        try:
            load_pretrained(model, weights)
        except ValueError as error:
            raise UserError(str(error)) from None
    if args.detach:
        try:
            model = detach_aap(model)
        except ValueError as error:
            raise UsageError(f"--detach: {error}") from None
    model = place(model, args, world)
    describe(model, data, args, world)
    if args.predictions is not None:
        check_output_folder(Path(args.predictions).parent, "--predictions")
    loaders = make_loaders(
        data.test, data.test, batch_size=args.batch_size, workers=args.workers, world=world, seed=args.seed,
        collate=data.collate,
    )  # fmt: skip
    by_class = ByClass(readout_names(model), data.num_classes, world.device)
    predictions = Predictions()
    exits = Exits(args.exit_confidence or (), world.device)

    def watch(outputs: Outputs, target: Tensor) -> None:
        logits = readouts(outputs)
        by_class.update(logits, target)
        if args.predictions is not None:
            predictions.update(logits, target)
        if args.exit_confidence:
            exits.update(outputs[0] if isinstance(outputs, tuple) else outputs, target)

    scores = evaluate(model, loaders.test, world, log, by_step=bool(args.exit_confidence), watch=watch)
    names = tuple(data.classes) or tuple(map(str, range(data.num_classes)))
    log.say(f"{model.config['model']}{', averaged weights' if args.ema else ''} from {weights.path}")
    log.say(table(scores, data.unit))
    log.say(f"\n{by_class.table(by_class.read(world), names, data.unit)}")
    if args.exit_confidence:
        log.say(f"\n{exits.table(world)}")
    if args.predictions is not None:
        rows = predictions.rows(world, len(data.test))
        with world.main_only("writing the predictions") as main:
            if main:
                write_predictions(Path(args.predictions), rows, names, data.test)
                log.say(f"wrote {args.predictions}")
    # what is made lies beside a checkpoint, but not in a folder of weights, which may be the one that comes along
    place_of_output = folder if weights.path.suffix == ".safetensors" or weights.path.is_dir() else weights.path.parent
    if args.synops:
        _count(model, loaders.test, place_of_output, weights.path, args, world)
    if args.detach:
        with world.main_only("saving the detached network") as main:
            if main:
                target = place_of_output / "fsnn.pth"
                place_of_output.mkdir(parents=True, exist_ok=True)
                said = {"recipe": dict(data.recipe), **weights.metadata, **metadata(data, args)}
                checkpoint.write(target, {"config": model.config, "model": model.state_dict(), **said})
                log.say(f"without the pathway, saved as {target}")


def _newest(folder: Path, args: Args, world: World, log: RunLog) -> Pretrained:
    found = None
    with world.main_only("reading the weights") as main:
        if main:
            newest = checkpoint.newest_whole(folder, log.say)
            if newest is None:
                raise UserError(
                    f"there is no checkpoint in {folder}{run_folder.other_runs(folder)}: name a run by --name, or a "
                    "checkpoint by --resume"
                )
            found = checkpoint.read_trained(newest[0], averaged=args.ema)._replace(content={})
    return world.share(found)  # type: ignore[return-value]


def _count(model: Any, loader: Any, place: Path, path: Path, args: Args, world: World) -> None:
    """Synaptic operations and energy of the network on its test set."""
    if world.size > 1:
        raise UsageError(f"--synops counts in one process, not in {world.size}: start without torchrun")
    from full_spike.utils.measure.synops import write_report  # the counters are only imported where they are used

    write_report(
        model,
        loader,
        place / "synops",
        device=world.device,
        data=f"the test set, weights of {path}",
        syops=not args.no_syops,
    )


class ByClass:
    """Counts samples by their class and the one that each readout predicts, on the device until they are read."""

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
        """Counts [class, prediction] by readout, over all processes."""
        return dict(zip(self.names, world.sum(self.counts).cpu(), strict=True))

    @staticmethod
    def table(counts: dict[str, Tensor], names: tuple[str, ...], unit: str) -> str:
        """Accuracies for a terminal. Of up to 20 classes, beside them, the first readout's confusions; of more, the ten
        with the lowest accuracies by it, with the class that it predicts most often instead."""
        first, confusion = next(iter(counts.items()))
        totals = confusion.sum(dim=1)
        accuracy = {name: 100.0 * c.diagonal() / totals for name, c in counts.items()}
        few = len(names) <= SHOWN
        shown = list(range(len(names)))
        if not few:
            shown = sorted((i for i in shown if totals[i]), key=lambda i: float(accuracy[first][i]))[:LOWEST]
        labels = [_label(i, names[i]) for i in shown]
        wide = max(map(len, [*labels, "class"]))
        each = max(3, len(str(int(confusion.max()))) + 1)
        head = f"{'class':<{wide}}  {unit:>7}  " + "  ".join(f"{name:>6}" for name in counts) + "  | "
        head += "".join(f"{i:>{each}}" for i in shown) + f"  by {first}" if few else f"{first} mostly predicts instead"
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
            lines.append(f"the {len(shown)} of {len(names)} classes with the lowest accuracies; --predictions has all")
        return "\n".join(lines)


def _label(number: int, name: str) -> str:
    name = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    return name if name == str(number) else f"{number} {name}"


class Exits:
    """Accuracy and time steps of the first readout, if each sample ends as soon as it is sure, see `early_exit`."""

    def __init__(self, confidences: Sequence[float], device: torch.device) -> None:
        self.confidences = (*confidences, math.inf)  # without an end before the last step
        self.sums = torch.zeros(len(self.confidences), 3, dtype=torch.int64, device=device)  # hits, steps, samples

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch: logits [T, N, classes] of each time step, target [N]."""
        if logits.ndim != 3:
            raise UsageError("--exit-confidence needs a network of create_model, whose logits are of each time step")
        for row, confidence in enumerate(self.confidences):
            means, steps = early_exit(logits.float(), confidence)
            hits = (means.argmax(dim=1) == target).sum()
            self.sums[row] += torch.stack([hits, steps.sum(), steps.new_tensor(len(target))])

    def table(self, world: World) -> str:
        """For a terminal; over all processes."""
        lines = ["exit confidence  mean time steps  top-1 %"]
        for confidence, (hits, steps, n) in zip(self.confidences, world.sum(self.sums).tolist(), strict=True):
            label = "none" if math.isinf(confidence) else f"{confidence:g}"
            lines.append(f"{label:>15}  {steps / n:>15.3f}  {100.0 * hits / n:>7.2f}")
        return "\n".join(lines)


class Predictions:
    """The top 5 classes of each sample by every readout, with their probabilities."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._batches: list[Tensor] = []

    @torch.no_grad()
    def update(self, logits: dict[str, Tensor], target: Tensor) -> None:
        """Add a batch: logits [N, classes] by readout, target [N]."""
        self.names = tuple(logits)
        most = min(TOP, next(iter(logits.values())).shape[1])
        found = [x.double().softmax(dim=1).topk(most, dim=1) for x in logits.values()]
        parts = [torch.stack([top.indices.double(), top.values], dim=2) for top in found]  # [N, most, 2] each
        numbers = torch.stack(parts, dim=1).flatten(1)  # [N, readouts * most * 2]
        self._batches.append(torch.cat([target.double()[:, None], numbers], dim=1).cpu())

    def rows(self, world: World, count: int) -> list[tuple[int, dict[str, list[tuple[int, float]]]]]:
        """(class, readout -> [(predicted class, probability)], most probable first) of each of `count` samples.

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
        tops = mine[:, 1:].unflatten(1, (len(self.names), -1, 2)).tolist()
        return [
            (label, {name: [(int(i), p) for i, p in row] for name, row in zip(self.names, rows, strict=True)})
            for label, rows in zip(labels, tops, strict=True)
        ]


def write_predictions(
    path: Path, rows: list[tuple[int, dict[str, list[tuple[int, float]]]]], names: tuple[str, ...], dataset: Any
) -> None:
    """Write a table with a line for each sample and readout: path, class, readout, then classes and probabilities."""
    most = max((len(top) for _, by_readout in rows for top in by_readout.values()), default=0)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class", "readout", *(f"{word}{i}" for i in range(1, most + 1) for word in ("top", "p"))])
    name_of = getattr(dataset, "name_of", "sample {}".format)
    for i, (label, by_readout) in enumerate(rows):
        for readout, top in by_readout.items():
            cells = [cell for j, p in top for cell in (names[j], f"{p:.6f}")]
            writer.writerow([name_of(i), names[label], readout, *cells])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text.getvalue().encode(errors="surrogateescape"))

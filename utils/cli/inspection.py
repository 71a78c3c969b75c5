"""What a trained network does on the test set that it was trained beside: counts by class, and its worst mistakes."""

from __future__ import annotations

import argparse
import heapq
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_spike.utils.cli.factory import build_network
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.loading import make_loaders
from full_spike.utils.distributed import World
from full_spike.utils.draw.frames import PALETTE, colour_indices, common_scale
from full_spike.utils.draw.page import Mistake
from full_spike.utils.draw.spikes import record_spikes
from full_spike.utils.errors import UserError
from full_spike.utils.log import RunLog
from full_spike.utils.train.classes import ByClass, class_names
from full_spike.utils.train.evaluation import evaluate, readout_names
from torch import Tensor

MISTAKES = 8
NEURONS = 10  # of a layer, whose spikes are drawn
SIDE = 96  # pixels of a picture, at least


@dataclass(frozen=True)
class Findings:
    """Counts [class][what the readout says] by readout, the classes' names, and mistakes, the most confident first."""

    counts: dict[str, list[list[int]]]
    classes: tuple[str, ...]
    mistakes: list[Mistake]
    parameters: int


class _Confident:
    """The mistakes that the first readout is surest of: (probability, place in the test set, class said)."""

    def __init__(self) -> None:
        self.found: list[tuple[float, int, int]] = []
        self._seen = 0

    def update(self, logits: dict[str, Tensor], target: Tensor) -> None:
        probabilities, said = next(iter(logits.values())).softmax(dim=1).max(dim=1)
        for i in (said != target).nonzero().flatten().tolist():
            item = (float(probabilities[i]), self._seen + i, int(said[i]))
            (heapq.heappush if len(self.found) < MISTAKES else heapq.heappushpop)(self.found, item)
        self._seen += len(target)


def load_data(script: str, config: Path, data_path: str | None) -> tuple[Datasets, Any]:
    """(the data set, the options) of a run with this config.yaml, as its script loads it.

    Raises:
        UserError: the data or the options are not what they should be.
    """
    options = ["--config", str(config), *(["--data-path", data_path] if data_path else [])]
    parsed = importlib.import_module(script).parser.parse(options)
    load = importlib.import_module(f"{script.rpartition('.')[0]}.data").load
    return load(parsed.data, World(), parsed.network.T), parsed


def inspect(
    script: str,
    config: Path,
    checkpoint: Path,
    *,
    data_path: str | None = None,
    device: str = "cpu",
    factory: str = "full_spike.models",
) -> Findings:
    """Evaluate a checkpoint of a run.

    Args:
        script: the module that trained it, such as cifar.train.
        config: the run's config.yaml.
        data_path: where the data are now, if not where they were.
        factory: the module that builds networks.

    Raises:
        UserError: the checkpoint, the data or the options are not what they should be.
    """
    data, options = load_data(script, config, data_path)
    wanted = dict.fromkeys(("model", "connect_f", "T", "num_classes"))
    model: Any = build_network(
        argparse.Namespace(
            **wanted, option=[], checkpoint=checkpoint, ema=False, factory=factory, device=device, seed=0
        )
    )
    world = World(device=torch.device(device))
    if model.config.get("num_classes") != data.num_classes or model.config.get("in_channels") != data.in_channels:
        raise UserError(f"{checkpoint} is of a network for other data than {config} names: name another run")
    loaders = make_loaders(
        data.train, data.test, batch_size=options.data.batch_size, workers=0, world=world, seed=0, collate=data.collate
    )
    by_class = ByClass(readout_names(model), data.num_classes, world.device)
    confident = _Confident()

    def watch(logits: dict[str, Tensor], target: Tensor) -> None:
        by_class.update(logits, target)
        confident.update(logits, target)

    evaluate(model, loaders.test, world, RunLog(world), title="inspecting", watch=watch)
    names = class_names(data)
    mistakes = [_mistake(model, data, names, *item) for item in sorted(confident.found, reverse=True)]
    counts = {name: matrix.tolist() for name, matrix in by_class.read(world).items()}
    return Findings(counts, names, mistakes, sum(p.numel() for p in model.parameters()))


def _mistake(model: Any, data: Datasets, names: tuple[str, ...], probability: float, place: int, said: int) -> Mistake:
    sample, target = data.test[place]
    x = sample.to(next(model.parameters()).device)
    layers, _ = record_spikes(model, x.unsqueeze(1) if x.ndim == 4 else x.unsqueeze(0))
    shown = [(layer.name, float(layer.rates.mean()), _some(layer.spikes).tolist()) for layer in layers]
    name_of: Callable[[int], str] = getattr(data.test, "name_of", "sample {}".format)
    name = "/".join(Path(name_of(place)).parts[-3:])  # the page may be shown to others: no more of where it lies
    return Mistake(name, names[int(target)], names[said], probability, picture(sample, data.inputs), shown)


def _some(spikes: np.ndarray) -> np.ndarray:
    """Of spikes [T, neurons] those of a few neurons, evenly over all."""
    return spikes[:, np.linspace(0, spikes.shape[1] - 1, min(NEURONS, spikes.shape[1])).astype(int)]


def picture(sample: Tensor, inputs: dict[str, Any]) -> bytes:
    """A PNG of a sample as a network reads it: an image [C, H, W], or frames of events [T, 2, H, W], all together."""
    from PIL import Image

    if sample.ndim == 4:
        counts = sample.sum(dim=0, keepdim=True).numpy()
        pixels = PALETTE[colour_indices(counts, common_scale(counts) if counts.any() else 1)[0]]
    else:
        mean, std = (
            torch.tensor(inputs.get(name, default)).view(-1, 1, 1)
            for name, default in (("mean", [0.0]), ("std", [1.0]))
        )
        levels = ((sample * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        pixels = np.repeat(levels, 3, axis=0).transpose(1, 2, 0) if len(levels) == 1 else levels[:3].transpose(1, 2, 0)
    zoom = max(1, SIDE // max(pixels.shape[:2]))
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)).save(file, "PNG", optimize=True)
    return file.getvalue()

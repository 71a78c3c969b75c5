"""Counting: a network, the same without its AAP, and the plain ResNet of its depth, on the same data."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from full_spike.models import create_model, detach_aap, list_models, model_options
from full_spike.utils.errors import UserError
from full_spike.utils.files import write_file
from full_spike.utils.measure.counter import ExactCounter
from full_spike.utils.measure.energy import EnergyModel, LayerCount, Totals, millijoules, quantity
from full_spike.utils.measure.layers import count_images
from full_spike.utils.measure.syops import SyopsCounter

PARTS = {"stem": "stem", "body": "body", "pathway": "AAP", "head": "head"}


@dataclass(frozen=True)
class NetworkReport:
    """One network's counts, per image. `syops`: the package's counts of the same batches, if it was run."""

    title: str
    images: int
    layers: list[LayerCount]
    energy: EnergyModel
    notes: list[str]
    syops: SyopsCounter | None = None

    @property
    def totals(self) -> Totals:
        return Totals.of(self.layers)

    def part(self, name: str) -> Totals:
        """The totals of `stem`, `body`, `pathway` or `head`."""
        return Totals.of(row for row in self.layers if row.part == name)

    @property
    def energy_mj(self) -> float:
        """ACs and MACs, batch norm folded."""
        return self.energy.operations(self.totals.ac, self.totals.mac)

    @property
    def unfolded_energy_mj(self) -> float:
        """The same with batch norm as written."""
        return self.energy.operations(self.totals.ac, self.totals.mac + self.totals.norm_mac)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        totals = self.totals
        report: dict[str, Any] = {
            "network": self.title,
            "images": self.images,
            "totals": vars(totals),
            "parts": {part: vars(self.part(part)) for part in PARTS},
            "energy_mj": self.energy_mj,
            "unfolded_batch_norm": {"mac": totals.mac + totals.norm_mac, "energy_mj": self.unfolded_energy_mj},
            "not_in_the_total": {"neuron_updates_mj": self.energy.updates(totals.updates)},
            "notes": self.notes,
            "layers": [{**vars(row), "energy_mj": self.energy.operations(row.ac, row.mac)} for row in self.layers],
        }
        if self.syops:
            counts = {"batch_norm_ignored": self.syops.count(), "batch_norm_counted": self.syops.count(batch_norm=True)}
            report["syops"] = {
                name: {**vars(count), "energy_mj": self.energy.operations(count.ac, count.mac)}
                for name, count in counts.items()
            }
        return report


@torch.no_grad()
def count(
    networks: Mapping[str, nn.Module],
    loader: Iterable[tuple[Tensor, Any]],
    *,
    device: torch.device | str = "cpu",
    energy: EnergyModel | None = None,
    syops: bool = True,
) -> list[NetworkReport]:
    """Run every network on the same batches, once, and count.

    Args:
        networks: by title; put into eval mode. One without spiking neurons sees the mean of frames.
        loader: batches (images [N, C, H, W] or frames [T, N, C, H, W], targets [N]).
        syops: count with the package as well. It is slow: it sorts every layer's input.

    Raises:
        UserError: the loader is empty, a batch is inconsistent or a network has a layer that cannot be counted.
    """
    exact = [ExactCounter(model) for model in networks.values()]
    package = [SyopsCounter(model) for model in networks.values()] if syops else []
    with contextlib.ExitStack() as stack:
        for model in networks.values():
            model.to(device).eval()
        for counter in (*exact, *package):
            stack.enter_context(counter)  # type: ignore[arg-type]
        for images, target in loader:
            if len(target) != count_images(images):
                raise UserError(
                    f"a batch of shape {tuple(images.shape)} has {count_images(images)} images and {len(target)} "
                    "targets: give images [N, C, H, W] or frames [T, N, C, H, W]"
                )
            images = images.to(device)
            for counter in exact:
                counter.model(images.mean(0) if images.ndim == 5 and not counter.spiking else images)
    reports = []
    for i, (title, counter) in enumerate(zip(networks, exact, strict=True)):
        layers = counter.rows()
        notes = [f"layer {name} never ran" for name in counter.unused()]
        notes += [row.describe_stem() for row in layers if row.event_ac is not None]
        notes += [f"layer {name} is of an unknown kind without weights: not counted" for name in counter.uncounted]
        beside = package[i] if package else None
        reports.append(NetworkReport(title, counter.images, layers, energy or EnergyModel(), notes, beside))
    return reports


def table(reports: Sequence[NetworkReport]) -> str:
    """The networks side by side, and notes."""
    rows = [["network", "AC", "MAC", *(f"MAC {part}" for part in PARTS.values()), "mJ", "mJ, BN unfolded"]]
    if reports[0].syops:
        rows[0] += ["syops: AC", "MAC", "mJ"]
    for report in reports:
        macs = [report.totals.mac, *(report.part(part).mac for part in PARTS)]
        row = [report.title, quantity(report.totals.ac), *map(quantity, macs)]
        row += [millijoules(report.energy_mj), millijoules(report.unfolded_energy_mj)]
        if report.syops:
            syops = report.syops.count()
            row += [quantity(syops.ac), quantity(syops.mac), millijoules(report.energy.operations(syops.ac, syops.mac))]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in rows]
    lines += [f"note: {report.title}: {note}" for report in reports for note in report.notes]
    return "\n".join(lines)


def _save(reports: Sequence[NetworkReport], folder: Path, *, data: str, rates_are_real: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    networks = [report.as_dict() for report in reports]
    energy = vars(reports[0].energy)
    document = {"data": data, "rates_are_real": rates_are_real, "energy_pj": energy, "networks": networks}
    rows = io.StringIO(newline="")
    writer = csv.DictWriter(rows, ["network", *networks[0]["layers"][0]])
    writer.writeheader()
    for network in networks:
        writer.writerows({"network": network["network"], **layer} for layer in network["layers"])
    write_file(folder / "synops.json", (json.dumps(document, indent=1) + "\n").encode())
    write_file(folder / "synops.csv", rows.getvalue().encode())


def plain_resnet(model: nn.Module) -> nn.Module | None:
    """The ResNet of a spiking one's depth, width, stem and classes, weights random; None where there is none."""
    config: Any = getattr(model, "config", {})
    depth = re.fullmatch(r"(?:[fd]snn|sew_resnet|spiking_resnet)(\d+)", config.get("model", ""))
    if depth is None or f"resnet{depth[1]}" not in list_models():
        return None
    plain = f"resnet{depth[1]}"
    if config.get("width", 64) != 64 or not hasattr(torchvision.models, plain):
        return create_model(plain, **{option: config[option] for option in model_options(plain) if option in config})
    network: Any = getattr(torchvision.models, plain)(num_classes=config.get("num_classes", 1000))
    channels = config.get("in_channels", 3)
    if config.get("stem") == "cifar":
        network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    network.config = {"model": f"ResNet-{depth[1]}"}
    return network


def _name(model: nn.Module) -> str:
    config: Any = getattr(model, "config", {})
    return " ".join(filter(None, [config.get("model", type(model).__name__), config.get("connect_f")]))


def write_report(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Any]],
    output_dir: Path | str,
    *,
    device: torch.device | str = "cpu",
    energy: EnergyModel | None = None,
    syops: bool = True,
    data: str = "data set",
    rates_are_real: bool = True,
) -> list[NetworkReport]:
    """Count a network over a data set, print the table and save synops.json and synops.csv (layer by layer).

    Counted beside it are the network without its AAP, if it has one, and `plain_resnet(model)`, if there is one.

    Args:
        model: not wrapped for distributed training; put into eval mode.
        loader: batches (images [N, C, H, W] or frames [T, N, C, H, W], targets [N]).
        output_dir: made if it is not there.
        data: a description of what the loader holds.
        rates_are_real: False for random weights or images, which synops.json says.

    Raises:
        UserError: see `count`.
    """
    name, ann = _name(model), plain_resnet(model)
    networks = {name: model}
    if getattr(model, "aap", None) is not None:
        networks = {f"{name}, AAP kept": model, f"{name}, AAP detached": detach_aap(model)}
    if ann is not None:
        networks[f"ANN {_name(ann)}"] = ann
    reports = count(networks, loader, device=device, energy=energy, syops=syops)
    if ann is None:
        reports[0].notes.append("no ANN beside it: there is no plain network of this shape to compare with")
    folder = Path(output_dir)
    _save(reports, folder, data=data, rates_are_real=rates_are_real)
    print(table(reports))
    print(f"saved {folder / 'synops.json'} and {folder / 'synops.csv'}")
    return reports

"""Counting: a network, the same without its AAP, and the plain ResNet of its depth, on the same data."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from full_spike.models import detach_aap
from full_spike.utils.errors import UserError
from full_spike.utils.files import write_file
from full_spike.utils.measure.ann import plain_resnet
from full_spike.utils.measure.counter import ExactCounter
from full_spike.utils.measure.energy import EnergyModel
from full_spike.utils.measure.layers import count_images, evaluating
from full_spike.utils.measure.report import PARTS, NetworkReport, columns
from full_spike.utils.measure.syops import SyopsCounter
from full_spike.utils.measure.units import millijoules, quantity


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
        networks: by title; put into eval mode while they are counted, and back. One without spiking neurons sees the
            mean of frames.
        loader: batches (images [N, C, H, W] or frames [T, N, C, H, W], targets [N]).
        syops: count with the package as well. It is slow: it sorts every layer's input.

    Raises:
        UserError: the loader is empty, a batch is inconsistent or a network has a layer that cannot be counted.
    """
    exact = [ExactCounter(model) for model in networks.values()]
    package = [SyopsCounter(model) for model in networks.values()] if syops else []
    with contextlib.ExitStack() as stack:
        for model in networks.values():
            stack.enter_context(evaluating(model.to(device)))
        for counter in (*exact, *package):
            stack.enter_context(counter)
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
    """The networks side by side, why syops counts differently, and notes."""
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
    lines = columns(rows)
    for report in reports:
        if report.differences:
            lines.append(f"\nsyops minus exact, {report.title}:")
            lines += [f"  {quantity(d.ac):>9} AC  {quantity(d.mac):>9} MAC  {d.reason}" for d in report.differences]
        lines += [f"note: {report.title}: {note}" for note in report.notes]
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
        model: not wrapped for distributed training.
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

"""Counting: networks side by side on the same data, as a table, synops.json, synops.csv and a page."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from full_spike.utils.errors import UserError
from full_spike.utils.files import write_file
from full_spike.utils.measure.counter import ExactCounter
from full_spike.utils.measure.energy import EnergyModel
from full_spike.utils.measure.layers import evaluating
from full_spike.utils.measure.report import PARTS, NetworkReport, SyopsReport
from full_spike.utils.measure.syops import SyopsCounter
from full_spike.utils.measure.units import millijoules, quantity
from full_spike.utils.report import synops_page
from torch import Tensor, nn


@dataclass
class Network:
    """A network to count, under a title; `prepare` makes its input from a batch of images."""

    title: str
    model: nn.Module
    prepare: Callable[[Tensor], Tensor] = lambda images: images


def _check_batch(images: Tensor, target: Any) -> None:
    count = images.shape[1] if images.ndim == 5 else images.shape[0]
    if hasattr(target, "__len__") and len(target) != count:
        raise UserError(
            f"a batch of shape {tuple(images.shape)} has {count} images and {len(target)} targets: "
            "give images [N, C, H, W] or frames [T, N, C, H, W]"
        )


@torch.no_grad()
def count(
    networks: Sequence[Network],
    loader: Iterable[tuple[Tensor, Any]],
    *,
    device: torch.device | str = "cpu",
    energy: EnergyModel | None = None,
    syops: bool = True,
) -> list[NetworkReport]:
    """Run every network on the same batches, once, and count.

    Args:
        networks: put into eval mode while they are counted, and back.
        loader: batches (images [N, C, H, W] or frames [T, N, C, H, W], targets [N]).
        syops: count with the package as well. It is slow: it sorts every layer's input.

    Raises:
        UserError: the loader is empty, a batch is inconsistent or a network has a layer that cannot be counted.
    """
    exact = [ExactCounter(network.model) for network in networks]
    package = [SyopsCounter(network.model) for network in networks] if syops else []
    with contextlib.ExitStack() as stack:
        for network, *counters in zip(networks, exact, *([package] if package else []), strict=True):
            stack.enter_context(evaluating(network.model.to(device)))
            for counter in counters:
                stack.enter_context(counter)
        for images, target in loader:
            _check_batch(images, target)
            images = images.to(device)
            for network in networks:
                network.model(network.prepare(images))
    reports = []
    for i, (network, counter) in enumerate(zip(networks, exact, strict=True)):
        layers = counter.rows()
        notes = [f"layer {name} never ran" for name in counter.unused()]
        notes += [row.stem_in_words() for row in layers if row.event_ac is not None]
        notes += [f"layer {name} is of an unknown kind without weights: not counted" for name in counter.uncounted]
        beside = None
        if package:
            p = package[i]
            beside = SyopsReport(p.count(), p.count(batch_norm=True), p.inputs, p.layers)
        reports.append(NetworkReport(network.title, counter.images, layers, energy or EnergyModel(), notes, beside))
    return reports


def table(reports: Sequence[NetworkReport]) -> str:
    """The headline table as text."""
    head = ["network", "AC", "MAC", *(f"MAC {part}" for part in PARTS.values()), "mJ", "mJ, BN unfolded"]
    if any(report.syops for report in reports):
        head += ["syops: AC", "MAC", "mJ"]
    rows = [head]
    for report in reports:
        totals = report.totals
        macs = [quantity(report.part(part).mac) for part in PARTS]
        row = [report.title, quantity(totals.ac), quantity(totals.mac), *macs]
        row += [millijoules(report.energy_mj), millijoules(report.unfolded_energy_mj)]
        if report.syops:
            ac, mac = report.syops.folded.ac, report.syops.folded.mac
            row += [quantity(ac), quantity(mac), millijoules(report.energy.operations(ac, mac))]
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    for report in reports:
        if report.differences:
            lines.append(f"\nsyops minus exact, {report.title}:")
            lines += [f"  {quantity(d.ac):>9} AC  {quantity(d.mac):>9} MAC  {d.reason}" for d in report.differences]
        lines += [f"note: {report.title}: {note}" for note in report.notes]
    return "\n".join(lines)


def save(reports: Sequence[NetworkReport], output_dir: Path | str, *, data: str, rates_are_real: bool) -> Path:
    """Write synops.json, synops.csv and synops.html; returns the page's path."""
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    networks = [report.as_dict() for report in reports]
    document = {
        "data": data,
        "rates_are_real": rates_are_real,
        "energy_pj": vars(reports[0].energy),
        "networks": networks,
    }
    rows = io.StringIO(newline="")
    writer = csv.DictWriter(rows, ["network", *networks[0]["layers"][0]])
    writer.writeheader()
    for network in networks:
        writer.writerows({"network": network["network"], **layer} for layer in network["layers"])
    page = output_dir / "synops.html"
    write_file(output_dir / "synops.json", (json.dumps(document, indent=1) + "\n").encode())
    write_file(output_dir / "synops.csv", rows.getvalue().encode())
    write_file(page, synops_page(document).encode())
    return page


def _name(model: nn.Module) -> str:
    config: Any = getattr(model, "config", {})
    return " ".join(filter(None, [config.get("model", type(model).__name__), config.get("connect_f")]))


def _mean_frame(images: Tensor) -> Tensor:
    """[T, N, C, H, W] -> [N, C, H, W]: a network without time sees the mean frame."""
    return images.mean(0) if images.ndim == 5 else images


def write_report(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Any]],
    output_dir: Path | str,
    *,
    detached: nn.Module | None = None,
    ann: nn.Module | None = None,
    device: torch.device | str = "cpu",
    energy: EnergyModel | None = None,
    syops: bool = True,
    data: str = "data set",
    rates_are_real: bool = True,
) -> list[NetworkReport]:
    """Count a network over a data set, print the table and save synops.json, synops.csv and synops.html.

    Args:
        model: with `aap` if it has one; not wrapped for distributed training.
        loader: batches (images [N, C, H, W] or frames [T, N, C, H, W], targets [N]).
        output_dir: made if it is not there.
        detached: the same model without its pathway (`detach_aap(model)`).
        ann: the plain network to compare with (`measure.ann.plain_resnet(model)`); of frames it sees their mean. None
            where there is none, which the report says.
        data: what the loader holds, in words, for the report.
        rates_are_real: False for random weights or images: the report then says so.

    Raises:
        UserError: see `count`.
    """
    name = _name(model)
    networks = [Network(f"{name}, AAP kept" if detached is not None else name, model)]
    if detached is not None:
        networks.append(Network(f"{name}, AAP detached", detached))
    if ann is not None:
        networks.append(Network(f"ANN {_name(ann)}", ann, _mean_frame))
    reports = count(networks, loader, device=device, energy=energy, syops=syops)
    if ann is None:
        reports[0].notes.append("no ANN beside it: there is no plain network of this shape to compare with")
    page = save(reports, output_dir, data=data, rates_are_real=rates_are_real)
    print(table(reports))
    print(f"saved {page} (and .json, .csv beside it)")
    return reports

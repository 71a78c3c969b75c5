"""What was counted for one network, by both counters, and why they differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from full_spike.utils.measure.energy import EnergyModel, LayerCount, Totals
from full_spike.utils.measure.syops import SyopsCount

PARTS = {"stem": "stem", "body": "body", "pathway": "AAP", "head": "head"}

_MEAN_RATE = "syops: mean firing rate x dense fan-out, padding included; exact: each spike's own fan-out"
_TWO_VALUED = "syops: spikes, since the input has at most two values within [0, 1]; exact: values (MAC)"
_SOME_BATCHES = "syops: values in some batches, spikes in others; exact: one kind for all batches"
_BIAS = "syops: biases, a linear layer's once per batch; exact: an accumulator starts from its bias"
_REASONS = {
    "neuron": "syops: one AC per neuron update; exact: updates apart",
    "max pool": "syops: one operation per input of max pooling, or per spike; exact: gates or comparisons, apart",
    "relu": "syops: one MAC per ReLU; exact: comparisons, apart",
    "avg pool": "syops: one MAC per input of average pooling, or one AC per spike; exact: additions",
    "linear": _BIAS,
    "join": "syops: functional operations are not seen; exact: the joins' additions",
    "matmul": "syops: products of spikes are not seen; exact: additions",
    "accumulate": "syops: functional operations are not seen; exact: the AAP's additions",
    "batch norm": "batch norm after no convolution; exact: cannot be folded",
}
_BATCH = "syops divides by the input's first dimension, T of frames [T, N, ...], instead of by the number of images"


@dataclass(frozen=True)
class Difference:
    """ACs and MACs per image that syops counts above the exact counter, for one reason."""

    reason: str
    ac: float
    mac: float


@dataclass(frozen=True)
class SyopsReport:
    """What syops counts, as it gives it: batch norm ignored, and batch norm counted."""

    folded: SyopsCount
    unfolded: SyopsCount
    inputs: int
    layers: dict[str, SyopsCount] = field(repr=False)


def _reason(rows: list[LayerCount], syops: SyopsCount) -> str:
    kind = rows[0].kind.split()[0] if rows[0].kind.startswith("join") else rows[0].kind
    if kind in ("conv", "linear"):
        exact_ac, exact_mac = sum(r.ac for r in rows), sum(r.mac for r in rows)
        if exact_mac and not syops.mac:
            return _TWO_VALUED
        if exact_mac and (syops.ac or syops.mac < exact_mac):
            return _SOME_BATCHES
        return _MEAN_RATE if exact_ac or syops.ac else _BIAS
    return _REASONS[kind]


def differences(layers: Iterable[LayerCount], syops: SyopsReport, images: int) -> list[Difference]:
    """Why syops (batch norm ignored) counts other ACs and MACs; the parts sum to the whole."""
    by_layer: dict[str, list[LayerCount]] = defaultdict(list)
    for row in layers:
        by_layer[row.name.split(" (call")[0]].append(row)
    per_image = syops.inputs / images
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(reason: str, ac: float, mac: float) -> None:
        sums[reason][0] += ac
        sums[reason][1] += mac

    for name, rows in by_layer.items():
        counted = syops.layers.get(name, SyopsCount(0.0, 0.0, 0.0))
        if rows[0].kind == "batch norm":
            counted = SyopsCount(0.0, 0.0, 0.0)
        scaled = SyopsCount(counted.total * per_image, counted.ac * per_image, counted.mac * per_image)
        add(_reason(rows, scaled), scaled.ac - sum(r.ac for r in rows), scaled.mac - sum(r.mac for r in rows))
    add(_BATCH, syops.folded.ac * (1 - per_image), syops.folded.mac * (1 - per_image))
    return [Difference(reason, ac, mac) for reason, (ac, mac) in sums.items() if abs(ac) >= 0.5 or abs(mac) >= 0.5]


@dataclass(frozen=True)
class NetworkReport:
    """One network's counts, per image."""

    title: str
    images: int
    layers: list[LayerCount]
    energy: EnergyModel
    notes: list[str]
    syops: SyopsReport | None = None

    @property
    def totals(self) -> Totals:
        return Totals.of(self.layers)

    @property
    def differences(self) -> list[Difference]:
        return differences(self.layers, self.syops, self.images) if self.syops else []

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
            "not_in_the_total": {
                "neuron_updates_mj": self.energy.updates(totals.updates),
                "memory_estimate_mj": self.energy.memory(totals.ac, totals.mac),
            },
            "notes": self.notes,
            "layers": [{**vars(row), "energy_mj": self.energy.operations(row.ac, row.mac)} for row in self.layers],
        }
        if self.syops:
            counts = {"batch_norm_ignored": self.syops.folded, "batch_norm_counted": self.syops.unfolded}
            report["syops"] = {
                name: {**vars(count), "energy_mj": self.energy.operations(count.ac, count.mac)}
                for name, count in counts.items()
            }
            report["syops_minus_exact"] = [vars(difference) for difference in self.differences]
        return report

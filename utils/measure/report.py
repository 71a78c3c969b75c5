"""What was counted for one network, by both counters, and why they differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from full_spike.utils.measure.energy import EnergyModel, LayerCount, Totals
from full_spike.utils.measure.syops import SyopsCount, SyopsCounter

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


def _reason(kind: str, exact_ac: float, exact_mac: float, ac: float, mac: float) -> str:
    if kind not in ("conv", "linear"):
        return _REASONS["join" if kind.startswith("join") else kind]
    if exact_mac and not mac:
        return _TWO_VALUED
    if exact_mac and (ac or mac < exact_mac):
        return _SOME_BATCHES
    return _MEAN_RATE if exact_ac or ac else _BIAS


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

    @property
    def differences(self) -> list[Difference]:
        """Why syops (batch norm ignored) counts other ACs and MACs; the parts sum to the whole."""
        if self.syops is None:
            return []
        by_layer: dict[str, list[LayerCount]] = defaultdict(list)
        for row in self.layers:
            by_layer[row.name.split(" (call")[0]].append(row)
        per_image = self.syops.inputs / self.images
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for name, rows in by_layer.items():
            kind = rows[0].kind
            counted = SyopsCount() if kind == "batch norm" else self.syops.layers.get(name, SyopsCount())
            ac, mac = counted.ac * per_image, counted.mac * per_image
            exact_ac, exact_mac = sum(row.ac for row in rows), sum(row.mac for row in rows)
            reason = sums[_reason(kind, exact_ac, exact_mac, ac, mac)]
            reason[0] += ac - exact_ac
            reason[1] += mac - exact_mac
        total = self.syops.count()
        sums[_BATCH] = [total.ac * (1 - per_image), total.mac * (1 - per_image)]
        return [Difference(reason, ac, mac) for reason, (ac, mac) in sums.items() if abs(ac) >= 0.5 or abs(mac) >= 0.5]

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
            counts = {"batch_norm_ignored": self.syops.count(), "batch_norm_counted": self.syops.count(batch_norm=True)}
            report["syops"] = {
                name: {**vars(count), "energy_mj": self.energy.operations(count.ac, count.mac)}
                for name, count in counts.items()
            }
            report["syops_minus_exact"] = [vars(difference) for difference in self.differences]
        return report


def columns(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """The lines of a table, aligned to the right but for the columns `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

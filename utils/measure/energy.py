"""What operations cost by the 45 nm energy model, and numbers for reading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

PJ_TO_MJ = 1e-9


@dataclass(frozen=True)
class EnergyModel:
    """Energy per operation, in pJ, for 32-bit floating point in 45 nm CMOS at 0.9 V.

    mac, ac: a multiplication with its addition (3.7 + 0.9) and an addition, from M. Horowitz, "Computing's energy
        problem (and what we can do about it)", ISSCC 2014; arXiv:2301.11929, section 3.2, uses the same two.
    update: one neuron's update in one time step, taken as a single addition (what syops assumes). Reported apart.
    """

    mac: float = 4.6
    ac: float = 0.9
    update: float = 0.9

    def operations(self, ac: float, mac: float) -> float:
        """mJ of these ACs and MACs: the total that papers report."""
        return (ac * self.ac + mac * self.mac) * PJ_TO_MJ

    def updates(self, updates: float) -> float:
        """mJ of these neuron updates; no part of the total."""
        return updates * self.update * PJ_TO_MJ


@dataclass(frozen=True)
class LayerCount:
    """What one layer does for one image, all time steps together (a mean over the images counted).

    name: the module's name, and which call of it in a forward pass if it runs more than once.
    kind: see `layers.layer_kind`.
    part: `stem` (the first weighted layer: it reads the image), `body`, `pathway` (the AAP's projections) or `head`
        (average pooling and linear layers after the last neuron).
    spikes: whether its input was exactly 0/1 in every batch (None where that means nothing).
    rate: firing rate, spikes per neuron and time step: of a neuron layer's output, of the other layers' input.
    ac, mac: additions alone, and multiplications with their addition.
    logic: one-bit gates of Boolean joins; gates (spikes) or comparisons (values) of max pooling and ReLU.
    updates: neuron updates, one per neuron and time step.
    norm_mac: MACs of a batch norm that are saved by folding it into the convolution before it.
    event_ac: of a spiking network's stem that read event counts (whole numbers >= 0) in every batch: the ACs that it
        takes if it is fed event by event. Beside its MACs, in no total.
    """

    name: str
    kind: str
    part: str = "body"
    spikes: bool | None = None
    rate: float | None = None
    ac: float = 0.0
    mac: float = 0.0
    logic: float = 0.0
    updates: float = 0.0
    norm_mac: float = 0.0
    event_ac: float | None = None

    def describe_stem(self) -> str:
        """How the stem, whose input is not spikes by construction, is counted."""
        if self.event_ac is None:
            return f"stem {self.name} reads values: {self.mac:,.0f} MAC per image"
        by_event = f"{self.event_ac:,.0f} AC if fed event by event"
        return f"stem {self.name} reads whole numbers (event counts): {self.mac:,.0f} MAC per image, or {by_event}"


@dataclass(frozen=True)
class Totals:
    """Sums over layers, per image; fields as in `LayerCount`."""

    ac: float
    mac: float
    logic: float
    updates: float
    norm_mac: float

    @classmethod
    def of(cls, rows: Iterable[LayerCount]) -> Totals:
        rows = list(rows)
        return cls(**{field.name: sum(getattr(row, field.name) for row in rows) for field in fields(cls)})


def quantity(value: float) -> str:
    """An operation count: 1.819 G, 0.118 G, 80.2 M, 25.1 k, 0."""
    if abs(value) >= 0.9995e8:
        return f"{value / 1e9:.3f} G"
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def millijoules(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 or value == 0 else f"{value:.2g}"

"""What operations cost: the 45 nm energy model, and an estimate of memory traffic."""

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
    access: one 32-bit access to an 8 kB SRAM: half of Horowitz's 10 pJ for 64 bits. It enters the memory estimate
        only, which assumes no reuse: an AC reads a weight, reads a partial sum and writes it back; a MAC reads a
        weight and an activation and keeps its partial sum in a register.
    """

    mac: float = 4.6
    ac: float = 0.9
    update: float = 0.9
    access: float = 5.0

    AC_ACCESSES = 3
    MAC_ACCESSES = 2

    def operations(self, ac: float, mac: float) -> float:
        """mJ of these ACs and MACs: the total that papers report."""
        return (ac * self.ac + mac * self.mac) * PJ_TO_MJ

    def updates(self, updates: float) -> float:
        """mJ of these neuron updates; no part of the total."""
        return updates * self.update * PJ_TO_MJ

    def memory(self, ac: float, mac: float) -> float:
        """mJ that on-chip memory would add, an estimate; no part of the total."""
        return (ac * self.AC_ACCESSES + mac * self.MAC_ACCESSES) * self.access * PJ_TO_MJ


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

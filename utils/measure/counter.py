"""Synaptic operations counted exactly: spike by spike, each with the fan-out that it really has.

A spike at one input position of a convolution is added into every output whose window covers it, so

    AC = (out_channels / groups) * sum over positions of spikes(h, w) * reach_h(h) * reach_w(w)

(see `reach`). A layer whose input is not 0/1 multiplies instead, and costs the dense number of MACs, padding included,
as is usual. So does the stem; where it reads counts of events, the sum above (a count c is c events at one position) is
what it costs to add every event by itself, and stands beside. A product [n, k] @ [k, m] whose first matrix is 0/1 adds
a row of the second, m elements, for each 1. Only sums are kept: memory does not depend on how many batches are counted.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from full_spike.models import returning
from full_spike.utils.errors import UserError
from full_spike.utils.measure.energy import LayerCount
from full_spike.utils.measure.layers import CONVOLUTIONS, FREE, count_images, layer_kind, layers, reach, spatial_dims

# what a layer of these kinds costs depends on what it reads, which may be another stream at each call
SEVERAL_INPUTS = ("conv", "linear", "avg pool", "matmul")
JOIN_COSTS = ("logic", "addition")  # of one element


def is_binary(x: Tensor) -> Tensor:
    """Whether every element is exactly 0 or 1: a bool tensor without dimensions, on x's device. NaN and inf are not."""
    return x.ne(0).eq(x).all()


def is_whole(x: Tensor) -> Tensor:
    """Whether every element is a whole number >= 0, as `is_binary`."""
    return (x.ge(0) & x.isfinite() & x.frac().eq(0)).all()


@dataclass
class _Tally:
    """Running sums of one layer's n-th call in a forward pass: a head that serves two streams has two.

    What depends on data stays on the device until it is read.
    """

    layer: str
    turn: int
    kind: str
    last_call: int = -1  # position of its latest call in the forward pass
    elements: int = 0  # neurons or input elements seen
    dense: int = 0  # operations if every element took part
    ones: Tensor | int = 0
    ac: Tensor | int = 0  # operations that 1s in the input cause
    binary: Tensor | bool = True
    whole: Tensor | bool = True  # of the stem: counts, of which each is as many events
    logic: int = 0
    updates: int = 0
    norm: int = 0
    folded: bool = True


class ExactCounter:
    """Counts what a network runs inside a `with` block; `rows()` gives it by layer, per image.

    Args:
        model: called with images [N, C, H, W] or frames [T, N, C, H, W] (N images either way). Layers inside may see
            [N, ...], [T, N, ...] or [T * N, ...]. They are known by class, see `layer_kind`.

    Raises:
        UserError: a layer has weights and is of no kind that is known here, a convolution pads with other values than
            zeros, or a join's cost is unknown. Its name is in the message.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.images = 0
        self.layers: list[tuple[str, nn.Module, str]] = []  # (name, module, kind) of all that are counted
        self.uncounted: list[str] = []  # layers without weights of an unknown kind: "name (class)"
        for name, module in layers(model):
            kind = layer_kind(name, module)
            if kind is not None and kind.startswith("join") and module.cost not in JOIN_COSTS:
                raise UserError(
                    f"{name} joins by {module.name!r}, whose cost {module.cost!r} is not known: "
                    f"use one of {', '.join(JOIN_COSTS)}"
                )
            if kind is not None:
                self.layers.append((name, module, kind))
            elif next(module.children(), None) is None and not isinstance(module, FREE):
                self.uncounted.append(f"{name} ({type(module).__name__})")
        self.spiking = any(kind == "neuron" for _, _, kind in self.layers)
        self._clock = 0
        self._stem: str | None = None
        self._turns: dict[str, int] = {}  # layer -> how often it ran in this forward pass
        self._tallies: dict[tuple[str, int], _Tally] = {}
        self._reaches: dict[tuple[nn.Module, torch.Size, torch.device], list[Tensor]] = {}
        self._last_output: Callable[[], Tensor | None] = lambda: None

    def __enter__(self) -> ExactCounter:
        self._open = contextlib.ExitStack()
        self._open.enter_context(returning(self.model, readout="both"))
        self._open.callback(self.model.register_forward_pre_hook(self._on_start, with_kwargs=True).remove)
        for name, module, kind in self.layers:
            hook = partial(self._on_call, name, kind)
            self._open.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        return self

    def __exit__(self, *_error: object) -> None:
        self._open.close()
        self._last_output = lambda: None

    def _on_start(self, _model: nn.Module, args: tuple, kwargs: dict) -> None:
        self.images += count_images(next(iter((*args, *kwargs.values()))))
        self._clock = 0
        self._turns = {}

    def _reaches_of(self, layer: nn.Module, x: Tensor, output: Tensor) -> list[Tensor]:
        """The layer's reach along its input's spatial axes, float64 on x's device; made once per input size."""
        dims = spatial_dims(layer)
        size = x.shape[x.ndim - dims :]
        key = (layer, size, x.device)
        if key not in self._reaches:
            vectors = reach(layer, size, output.shape[output.ndim - dims :])
            self._reaches[key] = [vector.to(x.device, torch.float64) for vector in vectors]
        return self._reaches[key]

    def _add_spikes(self, tally: _Tally, x: Tensor, reaches: list[Tensor], outputs_each: int) -> None:
        """Add what the 1s of x cause: each reaches its positions in `outputs_each` output channels."""
        others = tuple(range(x.ndim - len(reaches)))
        spikes = x.sum(others, dtype=torch.float64) if others else x.double()  # [*spatial], exact below 2^53
        reached = spikes
        for vector in reversed(reaches):
            reached = reached @ vector
        tally.elements += x.numel()
        tally.ones = tally.ones + spikes.sum().to(torch.int64)
        tally.ac = tally.ac + reached.to(torch.int64) * outputs_each
        tally.binary = is_binary(x) & tally.binary

    def _on_call(self, name: str, kind: str, layer: Any, args: tuple, kwargs: dict, output: Tensor) -> None:
        self._clock += 1
        turn = 1
        if kind in SEVERAL_INPUTS:
            turn = self._turns[name] = self._turns.get(name, 0) + 1
        tally = self._tallies.setdefault((name, turn), _Tally(name, turn, kind))
        tally.last_call = self._clock
        x, *others = (*args, *kwargs.values())
        match kind:
            case "conv" | "linear":
                self._stem = self._stem or name
                if name == self._stem:
                    tally.whole = is_whole(x) & tally.whole
                tally.dense += output.numel() * layer.weight[0].numel()  # in_channels / groups * kernel positions
                conv = isinstance(layer, CONVOLUTIONS)
                outputs_each = layer.out_channels // layer.groups if conv else layer.out_features
                self._add_spikes(tally, x, self._reaches_of(layer, x, output), outputs_each)
                self._last_output = weakref.ref(output)
            case "matmul":
                tally.dense += output.numel() * x.shape[-1]
                self._add_spikes(tally, x, [], others[0].shape[-1])
            case "batch norm":
                # written out, it normalises (one multiplication, one addition) and then scales and shifts (one each)
                tally.norm += x.numel() * (2 if layer.affine else 1)
                tally.folded = tally.folded and x is self._last_output()
            case "neuron":
                tally.updates += x.numel()
                tally.elements += output.numel()
                tally.ones = tally.ones + output.count_nonzero()
            case "max pool":  # a window of n positions takes n - 1 ORs, or comparisons
                tally.logic += self._positions_in_windows(layer, x, output) - output.numel()
            case "avg pool":
                tally.dense += self._positions_in_windows(layer, x, output)
                self._add_spikes(tally, x, self._reaches_of(layer, x, output), 1)
            case "relu":
                tally.logic += output.numel()
            case "accumulate":
                tally.dense += output.numel()
            case _ if layer.cost == "logic":  # a join of two bits
                tally.logic += output.numel()
            case _:  # a join that adds
                tally.dense += output.numel()

    def _positions_in_windows(self, layer: nn.Module, x: Tensor, output: Tensor) -> int:
        """The sum over all windows of the positions inside, which are fewer at a border."""
        reaches = self._reaches_of(layer, x, output)
        planes = x.numel() // math.prod(len(vector) for vector in reaches)
        return planes * math.prod(int(vector.sum()) for vector in reaches)

    def rows(self) -> list[LayerCount]:
        """Every layer's operations per image, in the order in which they ran.

        Raises:
            UserError: nothing was counted.
        """
        if not self.images:
            raise UserError("no image was counted: the data set is empty")
        tallies = sorted(self._tallies.values(), key=lambda tally: tally.last_call)
        last_neuron = max((t.last_call for t in tallies if t.kind == "neuron"), default=-1)
        return [self._row(tally, last_neuron) for tally in tallies]

    def _part(self, tally: _Tally, last_neuron: int) -> str:
        if tally.layer == self._stem:
            return "stem"
        if tally.kind in ("linear", "avg pool") and tally.last_call > last_neuron:
            return "head"
        return "pathway" if tally.layer.split(".")[0] == "aap" else "body"

    def _row(self, tally: _Tally, last_neuron: int) -> LayerCount:
        part = self._part(tally, last_neuron)
        spikes = rate = event_ac = None
        ac, mac, norm = tally.dense, 0, tally.norm
        if tally.kind in SEVERAL_INPUTS:
            spikes = self.spiking and bool(tally.binary)
            if spikes and part in ("body", "head"):  # the image and the pathway are values, whatever they happen to be
                ac = int(tally.ac)
            elif tally.kind != "avg pool":  # which only adds; the layer after it takes in its division
                ac, mac = 0, tally.dense
        if not tally.folded:
            mac, norm = norm, 0
        if part == "stem" and self.spiking and bool(tally.whole):
            event_ac = int(tally.ac) / self.images
        if tally.elements and (spikes or tally.kind == "neuron"):
            rate = int(tally.ones) / tally.elements
        per_image = {"ac": ac, "mac": mac, "logic": tally.logic, "updates": tally.updates, "norm_mac": norm}
        return LayerCount(
            tally.layer if tally.turn == 1 else f"{tally.layer} (call {tally.turn})",
            tally.kind,
            part,
            spikes,
            rate,
            **{field: value / self.images for field, value in per_image.items()},
            event_ac=event_ac,
        )

    def unused(self) -> list[str]:
        """Layers with weights that never ran: they count zero, which the report says."""
        return [name for name, _, kind in self.layers if kind in ("conv", "linear") and (name, 1) not in self._tallies]

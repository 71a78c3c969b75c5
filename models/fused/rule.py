"""What a spiking layer computes, in values: the part of its neuron, and all of it as the kernels are told."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ..connect import ConnectFunction, Join

# what kernels know of it
KINDS = ("IF", "LIF", "PLIF")
SURROGATES = ("sigmoid", "atan")


class NeuronSpec(NamedTuple):
    """What a neuron computes: h_t = charge(v_{t-1}, x_t), s_t = [h_t >= threshold], and then the reset.

    kind: its name in `NEURONS`; for any other class, that class's name.
    tau: membrane time constant in time steps, for PLIF the one it starts from; None where there is none.
    surrogate: its name in `SURROGATES`; for any other class, that class's name.
    alpha: the surrogate's sharpness, if it has one.
    rate: the learned 1/tau, a tensor of one element; None where nothing is learned.
    standard: hard reset to 0 that is detached from the graph, and an input that decays with the membrane.
    threshold: the potential at which it fires.
    gain: what its input is multiplied by.
    """

    kind: str
    tau: float | None
    surrogate: str
    alpha: float | None
    rate: Tensor | None
    standard: bool
    threshold: float = 1.0
    gain: float = 1.0


class Rule(NamedTuple):
    """What one layer computes, but for its tensors."""

    surrogate: str  # "sigmoid" or "atan"
    alpha: float
    tau: float | None = None  # in time steps; None: h = v + x, unless the layer gives its learned 1/tau
    join: Join | None = None
    T: int | None = None  # a static input, of one step, is shown this often
    threshold: float = 1.0
    gain: float = 1.0  # of the input

    def on(self, acts_on: str) -> bool:
        """Whether a shortcut joins the "spikes", or the "current"."""
        return self.join is not None and self.join.acts_on == acts_on


class Operands(NamedTuple):
    """The tensors of a layer; see `fused` for the shapes."""

    x: Tensor
    scale: Tensor | None = None  # [C], c = scale x + shift in one rounding; None: c = x
    shift: Tensor | None = None
    q: Tensor | None = None  # 1/tau where it is learned, one element
    identity: Tensor | None = None  # like x, with T steps
    mean: Tensor | None = None  # [C] of x, with scale


class Grads(NamedTuple):
    """Gradients of a layer, by what it reads."""

    current: Tensor  # dL/dc like x
    identity: Tensor | None = None  # of a join on spikes; that of one on the current is dL/dc
    q: Tensor | None = None  # one element
    sum_c: Tensor | None = None  # [C] of dL/dc and of dL/dc (x - mean), summed for each channel; with scale
    sum_cx: Tensor | None = None


@functools.cache
def coefficients(function: ConnectFunction) -> dict[str, float]:
    """Of 1, s, o and s o in a connect function, by its values for bits: it is linear in each argument."""
    s, o = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    neither, of_s, of_o, of_both = function(identity=o, residual=s).tolist()
    return {"none": neither, "by_s": of_s - neither, "by_o": of_o - neither, "by_both": of_both - of_s - of_o + neither}

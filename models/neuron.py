"""Neurons: spikingjelly's multi-step nodes that start every forward pass from rest.

IF, LIF and PLIF, some that papers compare with, and any that is handed in. The only file that knows which
implementation integrates the membrane. IF, LIF and PLIF have threshold 1 unless a layer asks for another, a hard reset
to 0, and the reset detached from the graph (SEW-ResNet, arXiv:2102.04159, section 4), as in the authors' code.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based import surrogate as sj_surrogate
from spikingjelly.activation_based.base import MemoryModule
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from . import fused
from .choices import require_one_of
from .fused import NeuronSpec

# surrogate name -> (class, default alpha): sigmoid alpha=4 is the released ImageNet code's, atan alpha=2 SEW-ResNet's.
SURROGATES: dict[str, tuple[Callable[..., nn.Module], float]] = {
    "sigmoid": (sj_surrogate.Sigmoid, 4.0),
    "atan": (sj_surrogate.ATan, 2.0),
}

MakeNeuron = Callable[..., Any]  # (threshold=1.0, gain=1.0) -> a neuron layer


class FromRest:
    """Makes a spikingjelly node forget: each forward pass starts at v = 0 and keeps nothing once it returns.

    Shape in and out: [T, N, *]. The membrane is integrated in float32 when the input is bfloat16 or float16, since at
    half precision small inputs would vanish beside it; spikes come back in the input's dtype. With `store_v_seq` the
    membranes after each step are in `v_seq` [T, N, *], for spikingjelly's monitors.
    """

    tau: float | None = None
    gain = 1.0  # of the input: what is integrated is gain * x
    use_fused = False  # set by `use_fused`: compiled layers in place of spikingjelly's code
    carried: list[Any] | None = None  # set by `carrying`: the states to go on from, which it replaces by its own
    surrogate_function: Any
    store_v_seq: bool
    _watchers: Mapping[int, Callable[[Tensor], None]] = MappingProxyType({})

    def watch_spikes(self, see: Callable[[Tensor], None]) -> RemovableHandle:
        """Have `see` called with this neuron's own spikes [T, N, *] at each forward pass, until the handle is removed.

        Unlike a forward hook it leaves fused layers on: those have the spikes, and never the current.
        """
        watchers = vars(self).setdefault("_watchers", OrderedDict())
        handle = RemovableHandle(watchers)
        watchers[handle.id] = see
        return handle

    def fired(self, spikes: Tensor) -> None:
        """Tell those who watch; of a fused layer, in which the neuron itself is not called, the layer does."""
        for see in self._watchers.values():
            see(spikes)

    def multi_step_forward(self, x_seq: Tensor, *args: Tensor, **kwargs: object) -> Tensor:
        spikes = self._spikes(x_seq)
        self.fired(spikes)
        return spikes

    def single_step_forward(self, *_args: Tensor, **_kwargs: object) -> Tensor:
        raise ValueError(ONE_STEP)

    def _spikes(self, x_seq: Tensor) -> Tensor:
        result = fused.layer(x_seq, self)
        if result is not None:
            return result[0]
        dtype, state_dtype = x_seq.dtype, torch.promote_types(x_seq.dtype, torch.float32)
        if self.gain != 1.0:
            x_seq = x_seq * self.gain
        node: Any = super()
        if self.store_v_seq:
            spikes = node.multi_step_forward(x_seq.to(state_dtype))
            v_seq = self.v_seq
            node.reset()
            self.v_seq = v_seq
            return spikes.to(dtype)
        rest = node.materialize_states((x_seq[:1].to(state_dtype),), tuple(self._memories.values()), "m")  # type: ignore[attr-defined]
        (spikes,), states = node.multi_step_functional_forward((x_seq,), tuple(self.carried or rest))
        if self.carried is not None:
            self.carried[:] = states
        return spikes.to(dtype)

    @property
    def rate(self) -> Tensor | None:
        """1/tau as a tensor, where it is learned."""
        return None

    @property
    def spec(self) -> NeuronSpec:
        """What this neuron computes."""
        node, surrogate = type(self), type(self.surrogate_function)
        kinds: dict[Any, str] = {kind: name for name, kind in NEURONS.items()}
        surrogates: dict[Any, str] = {kind: name for name, (kind, _) in SURROGATES.items()}
        alpha = getattr(self.surrogate_function, "alpha", None)
        settings = {"v_reset": 0.0, "detach_reset": True, "decay_input": True}
        return NeuronSpec(
            kind=kinds.get(node, node.__name__),
            tau=self.tau,
            surrogate=surrogates.get(surrogate, surrogate.__name__),
            alpha=None if alpha is None else float(alpha),
            rate=self.rate,
            standard=all(getattr(self, name, value) == value for name, value in settings.items())
            and getattr(self.surrogate_function, "spiking", True)
            and not (self.store_v_seq or self.carried is not None),
            threshold=float(getattr(self, "v_threshold", 1.0)),
            gain=self.gain,
        )

    def firing_current(self) -> float:
        """A constant current at which it fires at every time step: the membrane starts each one from 0.

        The threshold for IF; LIF and PLIF take a share 1/tau of it in, and the margin of 1/64 outlasts rounding to half
        precision.
        """
        spec = self.spec
        current = spec.threshold / spec.gain
        return current if self.tau is None else current * self.tau * (1.0 + 1.0 / 64.0)


class IFNode(FromRest, sj_neuron.IFNode):
    """Integrate-and-fire: h_t = v_{t-1} + x_t."""


class LIFNode(FromRest, sj_neuron.LIFNode):
    """Leaky integrate-and-fire: h_t = v_{t-1} + (x_t - v_{t-1}) / tau."""


class PLIFNode(FromRest, sj_neuron.ParametricLIFNode):
    """LIF with 1/tau = sigmoid(w), w learned, one per layer (arXiv:2007.05785, equation 7)."""

    @property
    def rate(self) -> Tensor:
        return self.w.sigmoid()


class CLIFNode(FromRest, sj_neuron.ComplementaryLIFNode):
    """Complementary LIF, whose reset depends on how it fired before (arXiv:2402.04663)."""


class ILIFNode(FromRest, sj_neuron.ILIFNode):
    """Integer LIF: gives counts of spikes, up to 4, so a network of it is not full-spike (arXiv:2407.20708)."""

    def __init__(self, tau: float, v_threshold: float = 1.0, detach_reset: bool = True, step_mode: str = "m") -> None:
        super().__init__(tau=tau, v_threshold=v_threshold, detach_reset=detach_reset, step_mode=step_mode)


class TernaryLIFNode(FromRest, sj_neuron.TernaryLIFNode):
    """LIF that fires 1 above its threshold and -1 below the negative one, so a network of it is not full-spike."""


# A new neuron is a class like those above and a row here. PSN (arXiv:2304.12760) has no state: it mixes all T steps.
NEURONS: dict[str, type[nn.Module]] = {
    "IF": IFNode, "LIF": LIFNode, "PLIF": PLIFNode, "CLIF": CLIFNode, "ILIF": ILIFNode, "TernaryLIF": TernaryLIFNode,
    "PSN": sj_neuron.PSN,
}  # fmt: skip
ONE_STEP = "neurons here see all time steps in one call: use full_spike.Stream for one step at a time"


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a layer of neurons: one of spikingjelly's, or what `neuron_factory` made."""
    return isinstance(module, sj_neuron.BaseNode) or hasattr(module, "carried")


def _before(node: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Hook of a node that is none of ours: it begins at rest, or at what it is to go on from."""
    if node.step_mode != "m":
        raise ValueError(ONE_STEP)
    node.reset()
    for name, value in zip(node._memories, node.carried or (), strict=False):
        setattr(node, name, value)
    return (inputs[0] * node.gain if node.gain != 1.0 else inputs[0],)


def _after(node: Any, _inputs: tuple[Tensor], _spikes: Tensor) -> None:
    node.detach()  # what it keeps must not keep the graph
    if node.carried is not None:
        node.carried[:] = node._memories.values()


@contextlib.contextmanager
def carrying(model: nn.Module, states: dict[str, list[Any]]) -> Iterator[None]:
    """A block in which neurons go on from `states`, by name, and leave theirs there; from rest where there are none."""
    nodes: dict[str, Any] = {name: module for name, module in model.named_modules() if hasattr(module, "carried")}
    for name, node in nodes.items():
        node.carried = states.setdefault(name, [])
    try:
        yield
    finally:
        for node in nodes.values():
            node.carried = None


def use_fused(model: nn.Module, on: bool = True) -> nn.Module:
    """Choose compiled layers (package `fused`) or spikingjelly's neurons for all of a model, and return the model.

    A compiled layer is the batch norm, the neuron and the connect function after a convolution in one. Same spikes;
    less time and memory once compiled, which takes seconds at the first step. Parameters, state dict and config stay
    as they are. Where the compiler is missing or fails, one warning says so and spikingjelly's run. Fastest with
    `model.to(memory_format=torch.channels_last)`.
    """
    for module in model.modules():
        if isinstance(module, FromRest):
            module.use_fused = on
    return model


def neuron_factory(
    neuron: Any = "IF",
    *,
    tau: float = 2.0,
    surrogate: Any = "sigmoid",
    alpha: float | None = None,
    T: int | None = None,
) -> MakeNeuron:
    """A function that makes one neuron layer at each call; its keywords, threshold and gain (of the input), are 1.0.

    Args:
        neuron: a name in `NEURONS`; or a function that makes a layer of spikingjelly's or of your own, which is left as
            it is: [T, N, *] -> [T, N, *], with `step_mode`, `reset` and memories as spikingjelly's MemoryModule.
        tau: membrane time constant in time steps, > 1; PLIF learns it and starts from here. IF and PSN have none.
        surrogate: sigmoid (alpha * s(alpha x) * (1 - s(alpha x)), s the logistic function) or atan
            ((alpha/2) / (1 + (pi/2 alpha x)^2)), x the distance from the threshold; or one of spikingjelly's, made.
        alpha: its sharpness, > 0; by default 4 for sigmoid and 2 for atan.
        T: time steps, for PSN.

    Raises:
        ValueError: a name or a value is out of range.
    """
    if not callable(neuron):
        require_one_of("neuron", neuron, NEURONS)
    if not 1.0 < tau < math.inf:
        raise ValueError(f"tau={tau} is out of range: a membrane time constant must be above 1 and finite")
    if alpha is not None and not 0.0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha} is out of range: a surrogate's sharpness must be above 0 and finite")
    if not isinstance(surrogate, nn.Module):
        require_one_of("surrogate", surrogate, SURROGATES)
        kind, usual = SURROGATES[surrogate]
        surrogate = kind(alpha=float(usual if alpha is None else alpha))

    def make(*, threshold: float = 1.0, gain: float = 1.0) -> Any:
        if callable(neuron):
            made = neuron()
            if isinstance(made, MemoryModule):
                made.step_mode = "m"
                made.register_forward_pre_hook(_before)
                made.register_forward_hook(_after)
            if threshold != 1.0:
                made.v_threshold *= threshold
        else:
            node: Any = NEURONS[neuron]
            options = {
                "v_threshold": threshold, "v_reset": 0.0, "detach_reset": True, "tau": float(tau),
                "init_tau": float(tau), "surrogate_function": copy.deepcopy(surrogate), "step_mode": "m", "T": T,
            }  # fmt: skip
            takes = inspect.signature(node).parameters
            made = node(**{name: value for name, value in options.items() if name in takes})
            if "init_tau" in takes:
                made.tau = float(tau)
        made.gain, made.carried = gain, None
        return made

    return make

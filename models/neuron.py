"""IF, LIF and PLIF neurons: spikingjelly's multi-step nodes that start every forward pass from rest.

The only file that knows which implementation integrates the membrane. Threshold 1 unless a layer asks for another, hard
reset to 0, and the reset detached from the graph (SEW-ResNet, arXiv:2102.04159, section 4), as in the authors' code.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based import surrogate as sj_surrogate
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from . import fused
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
    half precision small inputs would vanish beside it; spikes come back in the input's dtype.
    """

    tau_option: ClassVar[str | None] = None  # the constructor's name for the membrane time constant
    tau: float | None = None
    gain = 1.0  # of the input: what is integrated is gain * x
    use_fused = False  # set by `use_fused`: fused layers in place of spikingjelly's code
    surrogate_function: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watchers: OrderedDict[int, Callable[[Tensor], None]] = OrderedDict()

    def watch_spikes(self, see: Callable[[Tensor], None]) -> RemovableHandle:
        """Have `see` called with this neuron's own spikes [T, N, *] at each forward pass, until the handle is removed.

        Unlike a forward hook it leaves fused layers on: those have the spikes, and never the current.
        """
        handle = RemovableHandle(self._watchers)
        self._watchers[handle.id] = see
        return handle

    def fired(self, spikes: Tensor) -> None:
        """Tell those who watch; of a fused layer, in which the neuron itself is not called, the layer does."""
        for see in self._watchers.values():
            see(spikes)

    def multi_step_forward(self, x_seq: Tensor, *args: Tensor, **kwargs: object) -> Tensor:
        spikes = self._spikes(x_seq)
        self.fired(spikes)
        return spikes

    def _spikes(self, x_seq: Tensor) -> Tensor:
        result = fused.layer(x_seq, self)
        if result is not None:
            return result[0]
        state_dtype = torch.promote_types(x_seq.dtype, torch.float32)
        rest = torch.zeros(x_seq.shape[1:], dtype=state_dtype, device=x_seq.device)
        if self.gain != 1.0:
            x_seq = x_seq * self.gain
        (spikes,), _ = self.multi_step_functional_forward((x_seq,), (rest,))  # type: ignore[attr-defined]
        return spikes.to(x_seq.dtype)

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
            and getattr(self.surrogate_function, "spiking", True),
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

    tau_option = "tau"


class PLIFNode(FromRest, sj_neuron.ParametricLIFNode):
    """LIF with 1/tau = sigmoid(w), w learned, one per layer (arXiv:2007.05785, equation 7)."""

    tau_option = "init_tau"

    def __init__(self, init_tau: float = 2.0, **options: Any) -> None:
        super().__init__(init_tau, **options)
        self.tau = init_tau

    @property
    def rate(self) -> Tensor:
        return self.w.sigmoid()


# a new neuron is a class like those above and a row here
NEURONS: dict[str, type[nn.Module]] = {"IF": IFNode, "LIF": LIFNode, "PLIF": PLIFNode}


def use_fused(model: nn.Module, on: bool = True) -> nn.Module:
    """Choose fused layers (package `fused`) or spikingjelly's neurons for all of a model, and return the model.

    A fused layer is the batch norm, the neuron and the connect function after a convolution in one. Same spikes, less
    time and memory. Parameters, state dict and config stay as they are. On the CPU it is C, which a C compiler makes
    once, in a second: where there is none, one warning says so and spikingjelly's run. Fastest with
    `model.to(memory_format=torch.channels_last)`.
    """
    for module in model.modules():
        if isinstance(module, FromRest):
            module.use_fused = on
    return model


def neuron_factory(
    neuron: str = "IF", *, tau: float = 2.0, surrogate: str = "sigmoid", alpha: float | None = None
) -> MakeNeuron:
    """A function that makes one neuron layer at each call; its keywords, threshold and gain (of the input), are 1.0.

    Args:
        neuron: IF, LIF or PLIF.
        tau: membrane time constant in time steps, > 1; PLIF learns it and starts from here. IF has none.
        surrogate: sigmoid (alpha * s(alpha x) * (1 - s(alpha x)), s the logistic function) or atan
            ((alpha/2) / (1 + (pi/2 alpha x)^2)), x the distance from the threshold.
        alpha: its sharpness, > 0; by default 4 for sigmoid and 2 for atan.

    Raises:
        ValueError: a name or a value is out of range.
    """
    if neuron not in NEURONS:
        raise ValueError(f"neuron={neuron!r} is unknown: choose one of {', '.join(NEURONS)}")
    if surrogate not in SURROGATES:
        raise ValueError(f"surrogate={surrogate!r} is unknown: choose one of {', '.join(SURROGATES)}")
    if not 1.0 < tau < math.inf:
        raise ValueError(f"tau={tau} is out of range: a membrane time constant must be above 1 and finite")
    make_surrogate, default_alpha = SURROGATES[surrogate]
    alpha = default_alpha if alpha is None else alpha
    if not 0.0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha} is out of range: a surrogate's sharpness must be above 0 and finite")
    node: Any = NEURONS[neuron]
    time_constant = {} if node.tau_option is None else {node.tau_option: float(tau)}

    def make(*, threshold: float = 1.0, gain: float = 1.0) -> Any:
        made = node(
            v_threshold=threshold,
            v_reset=0.0,
            detach_reset=True,
            surrogate_function=make_surrogate(alpha=float(alpha)),
            step_mode="m",
            **time_constant,
        )
        made.gain = gain
        return made

    return make

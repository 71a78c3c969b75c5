"""IF, LIF and PLIF neurons: spikingjelly's multi-step nodes that start every forward pass from rest.

The only file that knows which implementation integrates the membrane. Threshold 1, hard reset to 0, and the reset
detached from the graph (SEW-ResNet, arXiv:2102.04159, section 4), as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based import surrogate as sj_surrogate
from torch import Tensor, nn

from . import fused

# surrogate name -> (class, default alpha): sigmoid alpha=4 is the released ImageNet code's, atan alpha=2 SEW-ResNet's.
SURROGATES: dict[str, tuple[Callable[..., nn.Module], float]] = {
    "sigmoid": (sj_surrogate.Sigmoid, 4.0),
    "atan": (sj_surrogate.ATan, 2.0),
}

MakeNeuron = Callable[[], nn.Module]


class FromRest:
    """Makes a spikingjelly node forget: each forward pass starts at v = 0 and keeps nothing once it returns.

    Shape in and out: [T, N, *]. The membrane is integrated in float32 when the input is bfloat16 or float16, since at
    half precision small inputs would vanish beside it; spikes come back in the input's dtype.
    """

    use_fused = False  # set by `use_fused`: the compiled neuron of fused.py in place of spikingjelly's
    surrogate_function: nn.Module

    def multi_step_forward(self, x_seq: Tensor, *args: Tensor, **kwargs: object) -> Tensor:
        rule = self._rule() if self.use_fused and fused.available() and x_seq.numel() else None
        if rule is not None:
            return fused.spikes(x_seq, rule, self._learned_rate())
        state_dtype = torch.promote_types(x_seq.dtype, torch.float32)
        rest = torch.zeros(x_seq.shape[1:], dtype=state_dtype, device=x_seq.device)
        (spikes,), _ = self.multi_step_functional_forward((x_seq,), (rest,))  # type: ignore[attr-defined]
        return spikes.to(x_seq.dtype)

    def _rule(self) -> fused.Rule | None:
        """What the fused layer is to compute, or None where it knows no such surrogate."""
        for name, (kind, _) in SURROGATES.items():
            if type(self.surrogate_function) is kind:
                alpha = float(self.surrogate_function.alpha)  # type: ignore[arg-type]
                return fused.Rule(name, alpha, getattr(self, "tau", None))
        return None

    def _learned_rate(self) -> Tensor | None:
        """1/tau as a tensor, where it is learned."""
        return None


class IFNode(FromRest, sj_neuron.IFNode):
    """Integrate-and-fire: h_t = v_{t-1} + x_t."""


class LIFNode(FromRest, sj_neuron.LIFNode):
    """Leaky integrate-and-fire: h_t = v_{t-1} + (x_t - v_{t-1}) / tau."""


class PLIFNode(FromRest, sj_neuron.ParametricLIFNode):
    """LIF with 1/tau = sigmoid(w), w learned, one per layer (arXiv:2007.05785, equation 7)."""

    def _learned_rate(self) -> Tensor:
        return self.w.sigmoid()


def use_fused(model: nn.Module, on: bool = True) -> nn.Module:
    """Choose compiled layers (fused.py) or spikingjelly's neurons for all of a model, and return the model.

    A compiled layer is the batch norm, the neuron and the connect function behind a convolution in one. Same spikes;
    less time and memory once compiled, which takes seconds at the first step. Parameters, state dict and config stay
    as they are. Where the compiler is missing or fails, one warning says so and spikingjelly's run. Fastest with
    `model.to(memory_format=torch.channels_last)`.
    """
    for module in model.modules():
        if isinstance(module, FromRest):
            module.use_fused = on
    return model


def _unobserved(module: nn.Module) -> bool:
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return not any(hooks)


def fused_rule(norm: nn.Module, neuron: nn.Module) -> fused.Rule | None:
    """What a fused layer computes in place of norm and neuron; None if it cannot, or if their hooks must see data."""
    if not (isinstance(neuron, FromRest) and neuron.use_fused and fused.available()):
        return None
    if not (_unobserved(norm) and _unobserved(neuron)):
        return None
    if isinstance(norm, nn.BatchNorm2d):
        running = norm.track_running_stats and norm.running_mean is not None
        if (
            type(norm) is not nn.BatchNorm2d
            or not norm.affine
            or norm.momentum is None
            or not (norm.training or running)
        ):
            return None
    elif not isinstance(norm, nn.Identity):
        return None
    return neuron._rule()


NEURONS: dict[str, type[nn.Module]] = {"IF": IFNode, "LIF": LIFNode, "PLIF": PLIFNode}


def neuron_factory(
    neuron: str = "IF", *, tau: float = 2.0, surrogate: str = "sigmoid", alpha: float | None = None
) -> MakeNeuron:
    """A function that makes one neuron layer at each call.

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
    if not tau > 1.0:
        raise ValueError(f"tau={tau} is out of range: a membrane time constant must be above 1")
    make_surrogate, default_alpha = SURROGATES[surrogate]
    alpha = default_alpha if alpha is None else alpha
    if not alpha > 0.0:
        raise ValueError(f"alpha={alpha} is out of range: a surrogate's sharpness must be above 0")
    time_constant = {"IF": {}, "LIF": {"tau": float(tau)}, "PLIF": {"init_tau": float(tau)}}[neuron]

    def make() -> nn.Module:
        return NEURONS[neuron](
            v_threshold=1.0,
            v_reset=0.0,
            detach_reset=True,
            surrogate_function=make_surrogate(alpha=float(alpha)),
            step_mode="m",
            **time_constant,
        )

    return make


def always_fires(neuron: str, tau: float) -> float:
    """A constant current at which a neuron fires at every time step: the membrane starts each one from 0.

    1 for IF; LIF and PLIF take a share 1/tau of it in, and the margin of 1/64 outlasts rounding to half precision.
    """
    return 1.0 if neuron == "IF" else tau * (1.0 + 1.0 / 64.0)

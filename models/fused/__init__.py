"""Spiking layers in one pass over memory each way, behind one door: `layer` gives a layer's result, or None.

None means that the layer's own modules are to run: fusing is not chosen for this neuron, or there are no kernels for
it, or torch.compile or a tracer looks on, or hooks must see what a module reads and gives.

The kernels of a type of device are a module in `autograd.KERNELS`, with functions over the NamedTuples of `rule.py`:

    available(dtype) -> bool
    forward(operands, rule) -> (o, s)                     the output and the own spikes, like x with T steps; s is None
                                                          without a join on spikes
    backward(operands, grad_o, grad_s, rule) -> Grads     grad_s None: nobody used the own spikes
    apply_(g, x, a, b, c)                                 g <- a g + b x + c for each channel, in place; a, b, c [C]

All maps are [T, outer, C, inner] and contiguous: inner is 1 if channels lie last, else H*W; without a norm, C is 1 as
well. A static x is [1, outer, C, inner] and is shown `rule.T` times, and its `Grads.current` is the sum over them.
Vectors [C] are float32, or float64 if x is; half types are integrated in float32. Backward integrates again, from x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..connect import JoinLayer, connect_add
from .autograd import kernels_of, run
from .cpu import available
from .rule import KINDS, SURROGATES, NeuronSpec, Rule

__all__ = ["NeuronSpec", "available", "layer"]


def _observed(module: nn.Module) -> bool:
    # torch has no public question for it
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)


def _knows_neuron(spec: NeuronSpec) -> bool:
    return spec.standard and spec.kind in KINDS and spec.surrogate in SURROGATES


def _knows_norm(norm: nn.Module | None, y: Tensor) -> bool:
    if norm is None or isinstance(norm, nn.Identity):
        return True
    if type(norm) is not nn.BatchNorm2d or not norm.affine or norm.momentum is None or norm.num_features != y.shape[2]:
        return False
    return norm.training or (norm.track_running_stats and norm.running_mean is not None)


def _knows_join(join: JoinLayer | None) -> bool:
    # on the current, kernels add
    return join is None or join.acts_on != "current" or join.join.function is connect_add


def layer(
    y: Tensor,
    neuron: Any,
    norm: nn.Module | None = None,
    join: JoinLayer | None = None,
    identity: Tensor | None = None,
    T: int | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Batch norm, neuron and join of a convolution's output in one, or None.

    Spikes are those of torch's batch norm and spikingjelly's neuron, bit for bit for float32 and float64 on a CPU with
    fused multiply-add; else a membrane within rounding of the threshold may fire differently.

    Args:
        y: [T, N, C, H, W], any floating dtype (half types are integrated in float32); [1, N, C, H, W] for a static
            input that T steps see; any shape [T, *] without a norm.
        neuron: says by `use_fused` whether to fuse, and by `spec` what it computes.
        norm: a BatchNorm2d, or an Identity where it is folded into the convolution; None where the neuron itself asks
            for what it alone computes.
        join: what the shortcut meets.
        identity: the shortcut [T, N, C, H, W], with a join.
        T: how often y, of one time step, is shown.

    Returns:
        (output, own spikes), each [T, N, C, H, W] in y's dtype and memory format: the same tensor without a connect
        function.
    """
    if not (getattr(neuron, "use_fused", False) and y.numel()):
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    passed_over = [module for module in (norm, join) if module is not None]
    if passed_over:
        passed_over.append(neuron)
    if any(_observed(module) for module in passed_over):
        return None
    spec: NeuronSpec | None = getattr(neuron, "spec", None)  # spikingjelly's own neurons have none
    if not (spec is not None and _knows_neuron(spec) and _knows_norm(norm, y) and _knows_join(join)):
        return None
    kernels = kernels_of(y)
    if kernels is None or not kernels.available(y.dtype):
        return None
    joins = join is not None and identity is not None and join.acts_on != "none"
    tau = None if spec.rate is not None else spec.tau
    what = join.join if joins else None  # type: ignore[union-attr]
    rule = Rule(spec.surrogate, spec.alpha, tau, what, T, spec.threshold, spec.gain)  # type: ignore[arg-type]
    batch_norm = norm if isinstance(norm, nn.BatchNorm2d) else None
    return run(y, batch_norm, rule, spec.rate, identity if joins else None)

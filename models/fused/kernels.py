"""A spiking layer in one pass over memory each way, in plain PyTorch that `compilation` compiles at its first use.

The forward pass reads the input of T steps and writes the spikes; the membrane lives in registers:

    c_t = scale x_t + shift            a batch norm's, where the layer has one; gain x_t where the neuron has a gain
    h_t = charge(v_{t-1}, c_t),   s_t = [h_t >= threshold],   v_t = (1 - s_t) h_t,   v_0 = 0
    o_t = g(s_t, identity_t)           where the layer ends a residual block

The backward pass computes all of that again from x, which is all that is saved, in the same loop as the gradients:

    dL/ds_t = dL/do_t dg/ds
    dL/dh_t = dL/ds_t surrogate'(h_t - threshold) + dL/dv_t (1 - s_t)                  (the reset is detached)
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .rule import Operands, Rule

# what the functions below know of `NeuronSpec`
KINDS = ("IF", "LIF", "PLIF")
SURROGATES = ("sigmoid", "atan")


def _per_tau(x: Tensor, rule: Rule) -> Tensor:
    """x / tau; a power of two is divided by without rounding, so the cheaper product is the same."""
    tau: float = rule.tau  # type: ignore[assignment]
    return x * (1.0 / tau) if math.frexp(tau)[0] == 0.5 else x / tau


def _charge(v: Tensor, x: Tensor, q: Tensor | None, rule: Rule) -> Tensor:
    # as spikingjelly writes it, operation by operation: the spikes are the same bit for bit
    if q is not None:
        return v + (x - v) * q
    return v + x if rule.tau is None else v + _per_tau(x - v, rule)


def slope(u: Tensor, rule: Rule, half: bool) -> Tensor:
    """The surrogate's derivative at a distance u from the threshold; half: what rounds to half types will do."""
    if rule.surrogate == "sigmoid" and half:
        # alpha s (1 - s) = (alpha/4) / cosh(y)^2 with y = alpha u / 2, and cosh(y) = 1 + 2 sinh(y/2)^2 by the series of
        # sinh: where bytes are few, an exponential is what would take the time. Off by up to 6e-5 for |alpha u| < 8
        w = u * u * (rule.alpha / 4.0) ** 2
        sinh = 1.0 + w * (1.0 / 6.0 + w * (1.0 / 120.0 + w * (1.0 / 5040.0 + w * (1.0 / 362880.0))))
        cosh = sinh * sinh * (2.0 * w) + 1.0
        return (rule.alpha / 4.0) / (cosh * cosh)
    if rule.surrogate == "sigmoid":
        s = torch.sigmoid(rule.alpha * u)
        return (1.0 - s) * s * rule.alpha
    z = u * (torch.pi / 2.0 * rule.alpha)
    return (rule.alpha / 2.0) / (1.0 + z * z)


def _integrate(operands: Operands, rule: Rule) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(v_{t-1}, c_t, h_t) of each time step, in at least float32."""
    x, scale, shift, q, shortcut, _ = operands
    dtype = torch.promote_types(x.dtype, torch.float32)
    v = torch.zeros_like(x[0], dtype=dtype)
    steps = []
    for t in range(rule.T or x.shape[0]):
        current = x[0 if rule.T else t].to(dtype)
        if scale is not None and shift is not None:
            current = current * scale + shift
        if rule.gain != 1.0:
            current = current * rule.gain
        if rule.on("current"):
            current = current + shortcut[t].to(dtype)  # type: ignore[index]
        h = _charge(v, current, q, rule)
        steps.append((v, current, h))
        v = torch.where(h >= rule.threshold, 0.0, h)
    return steps


def _fired(h: Tensor, rule: Rule) -> Tensor:
    # a choice between two floats: the compiler turns masks into bfloat16 one by one
    return torch.where(h >= rule.threshold, 1.0, 0.0)


def forward(operands: Operands, rule: Rule) -> tuple[Tensor, Tensor | None]:
    """(output, own spikes) [T, *]; without a connect function the output is the spikes, and the second is None."""
    dtype = operands.x.dtype
    spikes = [_fired(h, rule) for _, _, h in _integrate(operands, rule)]
    s = torch.stack([x.to(dtype) for x in spikes])
    if not rule.on("spikes"):
        return s, None
    connect = rule.join.function  # type: ignore[union-attr]
    identity = operands.identity.unbind(0)  # type: ignore[union-attr]
    o = [connect(identity=i.to(x.dtype), residual=x) for i, x in zip(identity, spikes, strict=True)]  # type: ignore[misc]
    return torch.stack([x.to(dtype) for x in o]), s


def backward(
    operands: Operands, grad_output: Tensor, grad_own: Tensor | None, rule: Rule
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(dL/dc like x, dL/didentity, dL/dq of each element) from dL/doutput and dL/d(own spikes), if they were used.

    The elements of dL/dq are summed in a pass of its own, 1/T as long. dL/didentity of a join on the current is dL/dc.
    """
    x, q = operands.x, operands.q
    grad_v = None
    grad_q: Tensor | None = None
    grad_currents = []
    grad_identity = []
    steps = _integrate(operands, rule)
    for t in reversed(range(len(steps))):
        v, current, h = steps[t]
        grad_s = grad_output[t].to(h.dtype)
        if rule.on("spikes"):
            connect = rule.join.function  # type: ignore[union-attr]
            # a connect function is linear in each argument: its slope is its difference between 1 and 0
            identity, s = operands.identity[t].to(h.dtype), _fired(h, rule)  # type: ignore[index]
            one, zero = torch.ones_like(s), torch.zeros_like(s)
            by_identity = connect(identity=one, residual=s) - connect(identity=zero, residual=s)  # type: ignore[misc]
            by_s = connect(identity=identity, residual=one) - connect(identity=identity, residual=zero)  # type: ignore[misc]
            grad_identity.append((grad_s * by_identity).to(x.dtype))
            grad_s = grad_s * by_s
            if grad_own is not None:
                grad_s = grad_s + grad_own[t].to(h.dtype)
        grad_h = grad_s * slope(h - rule.threshold, rule, x.element_size() < 4)
        if grad_v is not None:
            grad_h = grad_h + torch.where(h >= rule.threshold, 0.0, grad_v)
        if q is not None:
            grad_current = grad_h * q
            part = grad_h * (current - v)
            grad_q = part if grad_q is None else grad_q + part
        else:
            grad_current = grad_h if rule.tau is None else _per_tau(grad_h, rule)
        grad_v = grad_h if q is None and rule.tau is None else grad_h - grad_current
        grad_currents.append(grad_current if rule.gain == 1.0 else grad_current * rule.gain)
    if rule.T:
        grad_currents = [functools.reduce(torch.add, grad_currents)]
    grad_x = torch.stack([g.to(x.dtype) for g in grad_currents[::-1]])
    return grad_x, torch.stack(grad_identity[::-1]) if grad_identity else None, grad_q

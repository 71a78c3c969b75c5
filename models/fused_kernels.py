"""A spiking layer in one pass over memory each way, compiled from plain PyTorch when it is first used.

The forward pass reads the input of T steps and writes the spikes; the membrane lives in registers:

    c_t = scale x_t + shift            a batch norm's, where the layer has one
    h_t = charge(v_{t-1}, c_t),   s_t = [h_t >= 1],   v_t = (1 - s_t) h_t,   v_0 = 0
    o_t = g(s_t, identity_t)           where the layer ends a residual block

The backward pass computes all of that again from x, which is all that is saved, in the same loop as the gradients:

    dL/ds_t = dL/do_t dg/ds
    dL/dh_t = dL/ds_t surrogate'(h_t - 1) + dL/dv_t (1 - s_t)                  (the reset is detached)

torch.compile makes C++ of it on the CPU and Triton on CUDA. Nothing of the compiler is imported before the first call.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .connect import CONNECT_FUNCTIONS

# Every layer kind, dtype and T is compiled apart and must not use up the others' recompilations, where torch can tell.
_ISOLATE = "isolate_recompiles" in inspect.signature(torch.compile).parameters
_APART: dict[str, Any] = {"isolate_recompiles": True} if _ISOLATE else {}
_failure: list[str] = []  # why the compiler cannot be used, once that is known

MEMBRANE = "membrane"  # the join that adds the shortcut to the neuron's input


class Rule(NamedTuple):
    """What one layer computes, but for its tensors."""

    surrogate: str  # "sigmoid" or "atan"
    alpha: float
    tau: float | None = None  # in time steps; None: h = v + x, unless the layer gives its learned 1/tau
    join: str | None = None  # a connect function, MEMBRANE, or none
    T: int | None = None  # a static input, of one step, is shown this often


class Operands(NamedTuple):
    """The tensors of a layer: x [T, *], scale and shift that broadcast over it, q = 1/tau, identity like x."""

    x: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None
    q: Tensor | None = None
    identity: Tensor | None = None


def _per_tau(x: Tensor, rule: Rule) -> Tensor:
    """x / tau; a power of two is divided by without rounding, so the cheaper product is the same."""
    tau: float = rule.tau  # type: ignore[assignment]
    return x * (1.0 / tau) if math.frexp(tau)[0] == 0.5 else x / tau


def _charge(v: Tensor, x: Tensor, q: Tensor | None, rule: Rule) -> Tensor:
    # as spikingjelly writes it, operation by operation: the spikes are the same bit for bit
    if q is not None:
        return v + (x - v) * q
    return v + x if rule.tau is None else v + _per_tau(x - v, rule)


def _slope(u: Tensor, rule: Rule, half: bool) -> Tensor:
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


def _integrate(of: Operands, rule: Rule) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(v_{t-1}, c_t, h_t) of each time step, in at least float32."""
    dtype = torch.promote_types(of.x.dtype, torch.float32)
    v = torch.zeros_like(of.x[0], dtype=dtype)
    steps = []
    for t in range(rule.T or of.x.shape[0]):
        current = of.x[0 if rule.T else t].to(dtype)
        if of.scale is not None and of.shift is not None:
            current = current * of.scale + of.shift
        if rule.join == MEMBRANE:
            current = current + of.identity[t].to(dtype)  # type: ignore[index]
        h = _charge(v, current, of.q, rule)
        steps.append((v, current, h))
        v = torch.where(h >= 1.0, 0.0, h)
    return steps


def _fired(h: Tensor) -> Tensor:
    # a choice between two floats: the compiler turns masks into bfloat16 one by one
    return torch.where(h >= 1.0, 1.0, 0.0)


def forward(of: Operands, rule: Rule) -> tuple[Tensor, Tensor | None]:
    """(output, own spikes) [T, *]; without a connect function the output is the spikes, and the second is None."""
    spikes = [_fired(h) for _, _, h in _integrate(of, rule)]
    s = torch.stack([x.to(of.x.dtype) for x in spikes])
    if rule.join in (None, MEMBRANE):
        return s, None
    connect = CONNECT_FUNCTIONS[rule.join]  # type: ignore[index]
    identity = of.identity.unbind(0)  # type: ignore[union-attr]
    o = [connect(identity=i.to(x.dtype), residual=x) for i, x in zip(identity, spikes, strict=True)]
    return torch.stack([x.to(of.x.dtype) for x in o]), s


def backward(
    of: Operands, of_output: Tensor, of_own: Tensor | None, rule: Rule
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(dL/dc like x, dL/didentity, dL/dq of each element) from dL/doutput and dL/d(own spikes), if they were used.

    The elements of dL/dq are summed in a pass of its own, 1/T as long. Those of a MEMBRANE's identity equal dL/dc.
    """
    connect = None if rule.join in (None, MEMBRANE) else CONNECT_FUNCTIONS[rule.join]  # type: ignore[index]
    of_v = None
    of_q: Tensor | None = None
    of_currents = []
    of_identity = []
    steps = _integrate(of, rule)
    for t in reversed(range(len(steps))):
        v, current, h = steps[t]
        of_s = of_output[t].to(h.dtype)
        if connect is not None:
            # a connect function is linear in each argument: its slope is its difference between 1 and 0
            identity, s = of.identity[t].to(h.dtype), _fired(h)  # type: ignore[index]
            one, zero = torch.ones_like(s), torch.zeros_like(s)
            by_identity = connect(identity=one, residual=s) - connect(identity=zero, residual=s)
            by_s = connect(identity=identity, residual=one) - connect(identity=identity, residual=zero)
            of_identity.append((of_s * by_identity).to(of.x.dtype))
            of_s = of_s * by_s
            if of_own is not None:
                of_s = of_s + of_own[t].to(h.dtype)
        of_h = of_s * _slope(h - 1.0, rule, of.x.element_size() < 4)
        if of_v is not None:
            of_h = of_h + torch.where(h >= 1.0, 0.0, of_v)
        if of.q is not None:
            of_current = of_h * of.q
            part = of_h * (current - v)
            of_q = part if of_q is None else of_q + part
        else:
            of_current = of_h if rule.tau is None else _per_tau(of_h, rule)
        of_v = of_h if of.q is None and rule.tau is None else of_h - of_current
        of_currents.append(of_current)
    if rule.T:
        of_currents = [functools.reduce(torch.add, of_currents)]
    of_x = torch.stack([x.to(of.x.dtype) for x in of_currents[::-1]])
    return of_x, torch.stack(of_identity[::-1]) if of_identity else None, of_q


@functools.cache
def _compiled(function: Callable[..., Any], rule: Rule, contract: bool, *_kind: Any) -> Callable[..., Any]:
    def bound(of: Operands, *tensors: Tensor | None) -> Any:
        return function(of, *tensors, rule)

    options: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "fast"} if contract else {}
    if rule.T:  # reading one x, nothing else makes the compiler keep a membrane, and time steps would double its work
        options["realize_opcount_threshold"] = 20
    # dynamic: a new batch or image size is the same loop of another length
    return torch.compile(bound, dynamic=True, fullgraph=True, options=options or None, **_APART)


def call(function: Callable[..., Any], rule: Rule, of: Operands, *others: Tensor | None) -> Any:
    """`function`, compiled; as it stands inside another compilation, and where compiling fails."""
    if torch.compiler.is_compiling() or _failure:
        return function(of, *others, rule)
    # torch's batch norm rounds once, after the multiplication and the addition, spikingjelly's PLIF node twice;
    # half types, integrated in float32, have nothing to equal bit for bit
    contract = of.q is None or of.x.element_size() < 4
    kind = (*(None if x is None else (x.dtype, x.ndim) for x in (*of, *others)), of.x.shape[0], of.x.device.type)
    try:
        return _compiled(function, rule, contract, *kind)(of, *others)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, or one that fails: torch raises many kinds
        _failure.append((str(error).strip() or type(error).__name__).splitlines()[0])
        warnings.warn(f"fused neurons are off, spikingjelly's run instead: {_failure[0]}", stacklevel=2)
        return function(of, *others, rule)


def available() -> bool:
    """False once compiling has failed in this process."""
    return not _failure

"""A multi-step neuron in one pass over memory each way, compiled from plain PyTorch when it is first used.

The forward pass reads x_1 .. x_T and writes s_1 .. s_T; the membrane lives in registers. The backward pass integrates
it again from x, which is all that is saved, and reads the gradients and writes dL/dx in the same loop:

    h_t = charge(v_{t-1}, x_t),   s_t = [h_t >= 1],   v_t = (1 - s_t) h_t,   v_0 = 0
    dL/dh_t = dL/ds_t surrogate'(h_t - 1) + dL/dv_t (1 - s_t)                  (the reset is detached)

torch.compile makes C++ of it on the CPU and Triton on CUDA. Nothing of the compiler is imported before the first call.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Every neuron, dtype and T is compiled apart and must not use up the others' recompilations, where torch can tell.
_ISOLATE = "isolate_recompiles" in inspect.signature(torch.compile).parameters
_APART: dict[str, Any] = {"isolate_recompiles": True} if _ISOLATE else {}
_failure: list[str] = []  # why the compiler cannot be used, once that is known


class Rule(NamedTuple):
    """What one neuron layer computes, but for what it learns."""

    surrogate: str  # "sigmoid" or "atan"
    alpha: float
    tau: float | None = None  # in time steps; None: h = v + x, unless the layer gives its learned 1/tau


def _charge(v: Tensor, x: Tensor, q: Tensor | None, rule: Rule) -> Tensor:
    # as spikingjelly writes it, operation by operation: the spikes are the same bit for bit
    if q is not None:
        return v + (x - v) * q
    return v + x if rule.tau is None else v + (x - v) / rule.tau


def _slope(u: Tensor, rule: Rule) -> Tensor:
    """The surrogate's derivative at a distance u from the threshold."""
    if rule.surrogate == "sigmoid":
        s = torch.sigmoid(rule.alpha * u)
        return (1.0 - s) * s * rule.alpha
    z = u * (torch.pi / 2.0 * rule.alpha)
    return (rule.alpha / 2.0) / (1.0 + z * z)


def _integrate(x: Tensor, q: Tensor | None, rule: Rule) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(v_{t-1}, x_t, h_t) of each time step of x [T, M], in at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    v = torch.zeros_like(x[0], dtype=dtype)
    steps = []
    for x_t in x.unbind(0):
        x_t = x_t.to(dtype)
        h = _charge(v, x_t, q, rule)
        steps.append((v, x_t, h))
        v = torch.where(h >= 1.0, 0.0, h)
    return steps


def _forward(x: Tensor, q: Tensor | None, rule: Rule) -> Tensor:
    return torch.stack([(h >= 1.0).to(x.dtype) for _, _, h in _integrate(x, q, rule)])


def _backward(x: Tensor, q: Tensor | None, gradient: Tensor, rule: Rule) -> tuple[Tensor, Tensor | None]:
    """dL/dx [T, M] from dL/ds [T, M], and dL/dq of each element [M] (their sum is a pass of its own, 1/T as long)."""
    of_v = None
    of_q: Tensor | None = None
    of_x = []
    for (v, x_t, h), of_s in zip(reversed(_integrate(x, q, rule)), reversed(gradient.unbind(0)), strict=True):
        of_h = of_s.to(h.dtype) * _slope(h - 1.0, rule)
        if of_v is not None:
            of_h = of_h + torch.where(h >= 1.0, 0.0, of_v)
        if q is not None:
            of_current = of_h * q
            part = of_h * (x_t - v)
            of_q = part if of_q is None else of_q + part
        else:
            of_current = of_h if rule.tau is None else of_h / rule.tau
        of_v = of_h if q is None and rule.tau is None else of_h - of_current
        of_x.append(of_current.to(x.dtype))
    return torch.stack(of_x[::-1]), of_q


@functools.cache
def _compiled(function: Callable[..., Any], rule: Rule, T: int, dtype: torch.dtype) -> Callable[..., Any]:
    def bound(*tensors: Tensor | None) -> Any:
        return function(*tensors, rule)

    # dynamic: a new batch or image size is the same loop of another length
    return torch.compile(bound, dynamic=True, fullgraph=True, **_APART)


def _call(function: Callable[..., Any], rule: Rule, x: Tensor, *others: Tensor | None) -> Any:
    """`function`, compiled; as it stands inside another compilation, and where compiling fails."""
    if torch.compiler.is_compiling() or _failure:
        return function(x, *others, rule)
    try:
        return _compiled(function, rule, x.shape[0], x.dtype)(x, *others)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, or one that fails: torch raises many kinds
        _failure.append((str(error).strip() or type(error).__name__).splitlines()[0])
        warnings.warn(f"fused neurons are off, spikingjelly's run instead: {_failure[0]}", stacklevel=2)
        return function(x, *others, rule)


class _Neuron(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, q: Tensor | None, rule: Rule) -> Tensor:
        ctx.save_for_backward(x, q)
        ctx.rule = rule
        return _call(_forward, rule, x.detach(), None if q is None else q.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        x, q = ctx.saved_tensors
        of_x, of_q = _call(_backward, ctx.rule, x.detach(), None if q is None else q.detach(), gradient.contiguous())
        return of_x, None if of_q is None else of_q.sum().to(q.dtype), None


def available() -> bool:
    """False once compiling has failed in this process."""
    return not _failure


def spikes(x: Tensor, rule: Rule, q: Tensor | None = None) -> Tensor:
    """Spikes of a neuron layer that starts from rest; threshold 1, hard reset to 0.

    Args:
        x: input current [T, N, *], any floating dtype; half types are integrated in float32.
        rule: the neuron.
        q: 1/tau of a PLIF neuron, a tensor of one element that may need a gradient.

    Returns:
        Spikes 0 and 1, in x's shape, dtype and memory format.
    """
    if x.ndim == 5 and not x[0].is_contiguous() and x[0].is_contiguous(memory_format=torch.channels_last):
        return spikes(x.permute(0, 1, 3, 4, 2), rule, q).permute(0, 1, 4, 2, 3)
    if not x[0].is_contiguous():
        x = x.contiguous()
    return _Neuron.apply(x.flatten(1), q, rule).view(x.shape)  # type: ignore[no-untyped-call]

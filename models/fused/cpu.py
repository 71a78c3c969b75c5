"""The kernels for the CPU: `layer.c`, called with pointers."""

from __future__ import annotations

import ctypes
import functools
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor

from .build import library
from .rule import SURROGATES, Grads, Operands, Rule, coefficients

_BITS = {torch.bfloat16: 16, torch.float32: 32, torch.float64: 64}
_ADD, _MULTIPLY, _DIVIDE, _LEARNED = range(4)
_failure: list[str] = []  # why there are no kernels, once that is known
_JOINS = ("none", "current", "spikes")


class _Layer(ctypes.Structure):
    """As in layer.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "outer", "channels", "inner")),
        *((name, ctypes.c_int32) for name in ("threads", "still", "charge", "join", "surrogate")),
        *((name, ctypes.c_double) for name in ("rate", "threshold", "gain", "alpha", "none", "by_s", "by_o", "by_both")),
        *((name, ctypes.c_void_p) for name in ("x", "identity", "scale", "shift", "mean")),
    )  # fmt: skip


@functools.cache
def kernels(dtype: torch.dtype) -> ctypes.CDLL:
    """Compiled for a dtype; see `library`."""
    return library(Path(__file__).with_name("layer.c"), f"-DBITS={_BITS.get(dtype, 32)}")


def available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether there are kernels, which are compiled now. Failing is one warning for the whole process, and for good."""
    if not _failure:
        try:
            kernels(dtype)
        except OSError as error:
            _failure.append(str(error))
            warnings.warn(f"fused layers are off, spikingjelly's neurons run instead: {error}", stacklevel=2)
    return not _failure


def _pointer(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _charge(rule: Rule, q: Tensor | None) -> tuple[int, float]:
    if q is not None:
        return _LEARNED, q.item()
    if rule.tau is None:
        return _ADD, 1.0
    # a power of two is divided by without rounding, so the cheaper product is the same
    return (_MULTIPLY, 1.0 / rule.tau) if math.frexp(rule.tau)[0] == 0.5 else (_DIVIDE, rule.tau)


def _layer(x: Tensor, **fields: object) -> _Layer:
    """What layer.c is told; tensors must outlive it."""
    _, outer, channels, inner = x.shape
    pointers = {name: _pointer(value) for name, value in fields.items() if value is None or isinstance(value, Tensor)}
    threads = min(torch.get_num_threads(), 1 + x.numel() // 8192)
    shape = {"outer": outer, "channels": channels, "inner": inner, "threads": threads}
    return _Layer(**({"steps": 1, "x": x.data_ptr(), **shape} | fields | pointers))


def _of(operands: Operands, rule: Rule) -> _Layer:
    charge, rate = _charge(rule, operands.q)
    join = "none" if rule.join is None else rule.join.acts_on
    return _layer(
        operands.x,
        steps=rule.T or operands.x.shape[0], still=bool(rule.T),
        charge=charge, rate=rate, threshold=rule.threshold, gain=rule.gain,
        surrogate=SURROGATES.index(rule.surrogate), alpha=rule.alpha,
        join=_JOINS.index(join), **(coefficients(rule.join.function) if join == "spikes" else {}),
        identity=operands.identity, scale=operands.scale, shift=operands.shift, mean=operands.mean,
    )  # fmt: skip


def forward(operands: Operands, rule: Rule) -> tuple[Tensor, Tensor | None]:
    x = operands.x
    layer = _of(operands, rule)
    o = x.new_empty(layer.steps, *x.shape[1:])
    s = torch.empty_like(o) if rule.on("spikes") else None
    kernels(x.dtype).forward(ctypes.byref(layer), _pointer(o), _pointer(s))
    return o, s


def backward(operands: Operands, grad_o: Tensor, grad_s: Tensor | None, rule: Rule) -> Grads:
    x = operands.x
    layer = _of(operands, rule)
    current = torch.empty_like(x)
    identity = torch.empty_like(grad_o) if rule.on("spikes") else None
    sums = _no_sums(layer)
    pointers = [_pointer(tensor) for tensor in (grad_o, grad_s, current, identity, sums)]
    kernels(x.dtype).backward(ctypes.byref(layer), *pointers)
    sum_c, sum_cx, q = _by_channel(sums)
    normed = operands.mean is not None
    return Grads(current, identity, None if operands.q is None else q, *((sum_c, sum_cx) if normed else (None, None)))


def apply_(g: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
    layer = _layer(x.flatten(0, 1)[None], scale=a, shift=b, mean=c)
    kernels(x.dtype).apply(ctypes.byref(layer), _pointer(g))


def statistics(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """In one pass for bfloat16; spikes of wider types depend on torch's rounding."""
    if x.dtype != torch.bfloat16:
        return None
    near = x[0, 0, :, 0].float()  # sums of differences from a value of the channel's own lose nothing
    layer = _layer(x.flatten(0, 1)[None], mean=near)
    sums = _no_sums(layer)
    kernels(x.dtype).statistics(ctypes.byref(layer), _pointer(sums))
    first, second, _ = _by_channel(sums / (x.numel() // x.shape[2]))
    return (near + first).float(), (second - first.square()).float()


def _no_sums(layer: _Layer) -> Tensor:
    return torch.zeros(layer.threads, 2 * layer.channels + 1, dtype=torch.float64)


def _by_channel(sums: Tensor) -> tuple[Tensor, ...]:
    """Those of all threads, in the order of threads."""
    total = sums.sum(0)
    return total.tensor_split((len(total) // 2, len(total) - 1))

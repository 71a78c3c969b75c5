"""The kernels for the CPU: `layer.c`, called with pointers."""

from __future__ import annotations

import ctypes
import functools
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .build import library
from .rule import SURROGATES, Grads, Operands, Rule, coefficients

_BITS = {torch.bfloat16: 16, torch.float16: 32, torch.float32: 32, torch.float64: 64}  # float16 comes as float32
_ADD, _MULTIPLY, _DIVIDE = range(3)
_failure: list[str] = []  # why there are no kernels, once that is known


class _Layer(ctypes.Structure):
    """As in layer.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "outer", "channels", "inner")),
        *((name, ctypes.c_int32) for name in ("threads", "still", "charge", "surrogate", "on_current", "learned")),
        *((name, ctypes.c_double) for name in ("rate", "take", "keep", "threshold", "gain", "alpha")),
        ("join", ctypes.c_double * 4),
        ("maps", ctypes.c_void_p * 6),
        *((name, ctypes.c_void_p) for name in ("scale", "shift", "mean", "sums")),
    )  # fmt: skip


@functools.cache
def _kernels(dtype: torch.dtype) -> ctypes.CDLL:
    return library(Path(__file__).with_name("layer.c"), f"-DBITS={_BITS[dtype]}")


def available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether there are kernels, which are compiled now. Failing is one warning for the whole process, and for good."""
    if not _failure and dtype in _BITS:
        try:
            _kernels(dtype)
        except (OSError, RuntimeError) as error:
            _failure.append(str(error))
            warnings.warn(f"fused layers are off, spikingjelly's neurons run instead: {error}", stacklevel=2)
    return not _failure and dtype in _BITS


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _layer(x: Tensor, *maps: Tensor | None, **fields: Any) -> _Layer:
    """The struct that layer.c reads, of a packed x and other maps; it points to the tensors, which must stay alive."""
    _, outer, channels, inner = x.shape
    threads = min(torch.get_num_threads(), 1 + x.numel() // 8192)
    values = {k: _pointer(v) if v is None or isinstance(v, Tensor) else v for k, v in fields.items()}
    pointers = (ctypes.c_void_p * 6)(*(_pointer(each) for each in (x, *maps)))
    return _Layer(outer=outer, channels=channels, inner=inner, threads=threads, maps=pointers, **values)


def _of(operands: Operands, rule: Rule, *maps: Tensor | None, sums: Tensor | None = None) -> _Layer:
    x, scale, shift, q, identity, mean = operands
    charge, rate = (_ADD, 1.0) if rule.tau is None else (_DIVIDE, rule.tau)
    if q is not None:
        charge, rate = _MULTIPLY, q.item()
    elif charge == _DIVIDE and math.frexp(rate)[0] == 0.5:  # a power of two is divided by without rounding
        charge, rate = _MULTIPLY, 1.0 / rate
    take = 1.0 / rate if charge == _DIVIDE else rate
    join = coefficients(rule.join.function) if rule.on("spikes") else ()  # type: ignore[arg-type, union-attr]
    return _layer(
        x, identity, *maps,
        steps=rule.T or len(x), still=bool(rule.T),
        charge=charge, rate=rate, take=take, keep=1.0 if charge == _ADD else 1.0 - take, learned=q is not None,
        surrogate=SURROGATES.index(rule.surrogate), alpha=rule.alpha, threshold=rule.threshold, gain=rule.gain,
        on_current=rule.on("current"), join=join, scale=scale, shift=shift, mean=mean, sums=sums,
    )  # fmt: skip


def forward(operands: Operands, rule: Rule) -> tuple[Tensor, Tensor | None]:
    x = operands.x
    o = x.new_empty(rule.T or len(x), *x.shape[1:])
    s = torch.empty_like(o) if rule.on("spikes") else None
    _kernels(x.dtype).forward(ctypes.byref(_of(operands, rule, o, s)))
    return o, s


def backward(operands: Operands, grad_o: Tensor, grad_s: Tensor | None, rule: Rule) -> Grads:
    x = operands.x
    grad_c, grad_identity = torch.empty_like(x), torch.empty_like(grad_o) if rule.on("spikes") else None
    channels = x.shape[2]
    sums = torch.zeros(torch.get_num_threads(), 2 * channels + 1, dtype=torch.float64)  # by thread, then in their order
    _kernels(x.dtype).backward(ctypes.byref(_of(operands, rule, grad_o, grad_s, grad_c, grad_identity, sums=sums)))
    sum_c, sum_cx, q = sums.sum(0).split([channels, channels, 1])
    return Grads(grad_c, grad_identity, q, sum_c, sum_cx)


def apply_(g: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
    all_steps = x.flatten(0, 1)[None]
    _kernels(x.dtype).apply(ctypes.byref(_layer(all_steps, None, g, steps=1, scale=a, shift=b, mean=c)))

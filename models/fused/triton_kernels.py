"""The kernels of CUDA, in Triton: the equations of `layer.c`, all T steps in one pass over memory each way.

They are bound by memory: x is read once each way, the membrane stays in registers, and batch norm's two sums are made
where dL/dc is. Bytes for each element and time step in bfloat16 (x and dL/dc of a static image count once in T):

    forward   x 2, spikes 2                                                             4
              with a join on spikes: and the shortcut 2, the output 2                   8
    backward  x 2, dL/do 2, dL/dc 2                                                     6
              with a join on spikes: and the shortcut 2 (not for ADD), its gradient 2,
              dL/d(own spikes) 2 where they are used                                   12
    apply_    dL/dc 2, x 2, dL/dx 2                                                     6

A program takes a tile of neighbours in memory through all T steps, rows (outer and inner positions) times channels.
Sums over rows stay in its registers until its last tile; then each program writes one line, and torch adds up the lines
in an order of its own that is the same every time.

Floating-point contraction is off for every kernel, and batch norm's multiply-add asked for by `fma`: torch's batch norm
rounds c = scale x + shift once, spikingjelly's charge after each operation, and so spikes can be equal bit for bit.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rule import Grads, Operands, Rule, coefficients

THREADS = 128  # of a program
WIDE = 2**31  # from here on offsets take 64 bits
PROGRAMS = 8192  # of a backward pass at most: about a dozen for each that runs at a time on the largest GPUs


class _Formula(NamedTuple):
    """What a kernel is compiled for. A join of spikes s and shortcut o is none + by_s s + by_o o + by_both s o."""

    q: float | None  # 1/tau, unless it is learned
    threshold: float
    gain: float
    sigmoid: bool  # or atan
    alpha: float
    on_spikes: bool
    on_current: bool  # where kernels add
    none: float = 0.0
    by_s: float = 0.0
    by_o: float = 0.0
    by_both: float = 0.0


@functools.cache
def _formula(rule: Rule, dtype: torch.dtype) -> _Formula:
    # on CUDA torch divides by a number so: times its reciprocal, rounded to dtype
    q = None if rule.tau is None else torch.tensor(rule.tau, dtype=dtype).reciprocal().item()
    join = coefficients(rule.join.function) if rule.on("spikes") else ()  # type: ignore[arg-type, union-attr]
    on = rule.on("spikes"), rule.on("current")
    return _Formula(q, rule.threshold, rule.gain, rule.surrogate == "sigmoid", rule.alpha, *on, *join)


@triton.jit
def _place(channel_blocks, WIDE: tl.constexpr, COLS: tl.constexpr):
    """The block of rows that a program is for, and its channels, [1, COLS] or one number."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    channel = program % channel_blocks
    if COLS > 1:
        channel = channel * COLS + tl.arange(0, COLS)[None, :]
    return program // channel_blocks, channel


@triton.jit
def _tile(block, channel, rows, channels, inner, ROWS: tl.constexpr):
    """Offsets within a time step, and whether they exist, [ROWS, COLS]."""
    row = block * ROWS + tl.arange(0, ROWS)[:, None]
    offset = row // inner * (channels * inner) + row % inner + channel * inner
    return offset, (row < rows) & (channel < channels)


@triton.jit
def _vector(pointer, channel, channels):
    return tl.load(pointer + channel, mask=channel < channels, other=0.0)


@triton.jit
def _steps(pointer, offset, exists, step, T: tl.constexpr):
    """Tiles of T steps, all asked for before the first is used: so memory is waited for once."""
    tiles = ()
    for t in tl.static_range(T):
        tiles += (tl.load(pointer + t * step + offset, mask=exists, other=0.0),)  # type: ignore[assignment]
    return tiles


@triton.jit
def _current(x, scale, shift, identity, FORMULA: tl.constexpr, DTYPE: tl.constexpr):
    c = x.to(DTYPE)
    if scale is not None:
        c = tl.fma(c, scale, shift)
    if FORMULA.gain != 1.0:
        c = c * FORMULA.gain
    if FORMULA.on_current:
        c = c + identity.to(DTYPE)
    return c


@triton.jit
def _charge(v, current, q):
    if q is None:
        return v + current
    else:
        return v + (current - v) * q


@triton.jit
def _slope(u, FORMULA: tl.constexpr):
    """The surrogate's derivative at a distance u from the threshold."""
    if FORMULA.sigmoid:  # alpha s (1 - s), s the logistic function of alpha u
        e = tl.exp(-tl.abs(u * FORMULA.alpha))
        return e * FORMULA.alpha / ((e + 1.0) * (e + 1.0))
    else:
        z = u * (1.5707963267948966 * FORMULA.alpha)
        return (0.5 * FORMULA.alpha) / (z * z + 1.0)


@triton.jit
def _forward(
    x, scale, shift, learned_q, identity, o, s, rows, channels, inner, step: tl.int64, channel_blocks,
    FORMULA: tl.constexpr, T: tl.constexpr, STATIC: tl.constexpr, DTYPE: tl.constexpr,
    WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    block, channel = _place(channel_blocks, WIDE, COLS)
    offset, exists = _tile(block, channel, rows, channels, inner, ROWS)
    xs = _steps(x, offset, exists, step, 1 if STATIC else T)
    shortcuts = xs if identity is None else _steps(identity, offset, exists, step, T)
    a = None if scale is None else _vector(scale, channel, channels)
    b = None if shift is None else _vector(shift, channel, channels)
    q = FORMULA.q if learned_q is None else tl.load(learned_q).to(DTYPE)
    v = tl.zeros([ROWS, COLS], DTYPE)
    for t in tl.static_range(T):
        i = shortcuts[0 if identity is None else t]
        h = _charge(v, _current(xs[0 if STATIC else t], a, b, i, FORMULA, DTYPE), q)
        r = tl.where(h >= FORMULA.threshold, 1.0, 0.0)
        v = tl.where(h >= FORMULA.threshold, 0.0, h)
        if FORMULA.on_spikes:
            tl.store(s + t * step + offset, r, mask=exists)
            i = i.to(DTYPE)
            r = FORMULA.none + r * FORMULA.by_s + i * (r * FORMULA.by_both + FORMULA.by_o)
        tl.store(o + t * step + offset, r, mask=exists)


@triton.jit
def _backward(
    x, scale, shift, mean, learned_q, identity, grad_o, grad_s,
    grad_c, grad_identity, sums, sums_q, rows, channels, inner, step: tl.int64, channel_blocks,
    TILES: tl.constexpr, FORMULA: tl.constexpr, T: tl.constexpr, STATIC: tl.constexpr, DTYPE: tl.constexpr,
    WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    line, channel = _place(channel_blocks, WIDE, COLS)
    a = None if scale is None else _vector(scale, channel, channels)
    b = None if shift is None else _vector(shift, channel, channels)
    center = None if mean is None else _vector(mean, channel, channels)
    q = FORMULA.q if learned_q is None else tl.load(learned_q).to(DTYPE)
    zero = tl.zeros([ROWS, COLS], DTYPE)
    sum_c = zero
    sum_cx = zero
    sum_q = zero
    for tile in range(TILES):
        offset, exists = _tile(line * TILES + tile, channel, rows, channels, inner, ROWS)
        xs = _steps(x, offset, exists, step, 1 if STATIC else T)
        grads = _steps(grad_o, offset, exists, step, T)
        shortcuts = xs if identity is None else _steps(identity, offset, exists, step, T)
        own = grads if grad_s is None else _steps(grad_s, offset, exists, step, T)

        hs = ()
        v = zero
        for t in tl.static_range(T):
            i = shortcuts[0 if identity is None else t]
            h = _charge(v, _current(xs[0 if STATIC else t], a, b, i, FORMULA, DTYPE), q)
            hs += (h,)  # type: ignore[assignment]
            v = tl.where(h >= FORMULA.threshold, 0.0, h)

        grad_v = zero
        later = zero
        for t in tl.static_range(T - 1, -1, -1):
            i = shortcuts[0 if identity is None else t]
            fired = hs[t] >= FORMULA.threshold
            g = grads[t].to(DTYPE)
            if FORMULA.on_spikes:
                r = tl.where(fired, 1.0, 0.0)
                tl.store(grad_identity + t * step + offset, g * (r * FORMULA.by_both + FORMULA.by_o), mask=exists)
                g = g * (i.to(DTYPE) * FORMULA.by_both + FORMULA.by_s)
                if grad_s is not None:
                    g = g + own[t].to(DTYPE)
            grad_h = g * _slope(hs[t] - FORMULA.threshold, FORMULA) + tl.where(fired, 0.0, grad_v)
            c = grad_h
            grad_v = grad_h
            if q is not None:
                c = grad_h * q
                grad_v = grad_h - c
            if learned_q is not None:
                v = zero
                if t > 0:
                    v = tl.where(hs[t - 1] >= FORMULA.threshold, 0.0, hs[t - 1])
                sum_q += grad_h * (_current(xs[0 if STATIC else t], a, b, i, FORMULA, DTYPE) - v)
            if FORMULA.gain != 1.0:
                c = c * FORMULA.gain
            if STATIC:
                c += later
                later = c
            if t == 0 or not STATIC:
                tl.store(grad_c + t * step + offset, c, mask=exists)
                if sums is not None:
                    sum_c += c
                    sum_cx += c * (xs[t].to(DTYPE) - center)
    if sums is not None:
        channel += tl.zeros([1, COLS], tl.int32)
        at = sums + line * channels + channel
        tl.store(at, tl.sum(sum_c, 0, keep_dims=True), mask=channel < channels)
        at += tl.num_programs(0) // channel_blocks * channels
        tl.store(at, tl.sum(sum_cx, 0, keep_dims=True), mask=channel < channels)
    if sums_q is not None:
        tl.store(sums_q + tl.program_id(0), tl.sum(tl.sum(sum_q, 0), 0))


@triton.jit
def _apply(
    g, x, a, b, c, rows, channels, inner, step: tl.int64, channel_blocks,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    block, channel = _place(channel_blocks, WIDE, COLS)
    offset, exists = _tile(block, channel, rows, channels, inner, ROWS)
    by_x = tl.load(x + offset, mask=exists).to(DTYPE) * _vector(b, channel, channels) + _vector(c, channel, channels)
    by_g = tl.load(g + offset, mask=exists).to(DTYPE) * _vector(a, channel, channels)
    tl.store(g + offset, by_g + by_x, mask=exists)


def _cut(x: Tensor, elements: int, per_channel: bool = True) -> tuple[int, int, dict[str, Any]]:
    """(blocks of rows, blocks of channels, arguments of the kernel); elements: of a thread, at most."""
    _, outer, channels, inner = x.shape
    step = outer * channels * inner
    if not per_channel:  # one row of neighbours
        outer, channels, inner = 1, step, 1
    size = THREADS * next(n for n in (8, 4, 2, 1) if n <= max(1, elements))  # 8 are 16 bytes of bfloat16, one load
    if inner > 1:  # neighbours are rows
        cols = 1
    else:  # neighbours are channels: 64 are 128 bytes of bfloat16, and most widths are a multiple
        cols = min(64, size, max(16, channels & -channels)) if per_channel else size
    row_blocks, channel_blocks = triton.cdiv(outer * inner, size // cols), triton.cdiv(channels, cols)
    return row_blocks, channel_blocks, {
        "rows": outer * inner, "channels": channels, "inner": inner, "step": step, "channel_blocks": channel_blocks,
        "DTYPE": tl.float64 if x.dtype == torch.float64 else tl.float32, "WIDE": step >= WIDE,
        "ROWS": size // cols, "COLS": cols, "num_warps": THREADS // 32, "enable_fp_fusion": False,
    }  # fmt: skip


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether kernels run here. An element tells: Triton needs a C compiler, and a GPU that it knows."""
    x = torch.ones(1, 1, 1, 1, dtype=dtype, device="cuda" if torch.cuda.is_available() else "cpu")
    try:
        apply_(x.clone(), x, x, x, x)
    except Exception as error:
        warnings.warn(f"fused layers are off, spikingjelly's neurons run instead: {error!r}", stacklevel=2)
        return False
    return True


def forward(operands: Operands, rule: Rule) -> tuple[Tensor, Tensor | None]:
    x, scale, shift, q, identity, _ = operands
    T, dtype = rule.T or len(x), torch.promote_types(x.dtype, torch.float32)
    row_blocks, channel_blocks, options = _cut(x, 32 // T, scale is not None)
    o = x.new_empty(T, *x.shape[1:])
    s = torch.empty_like(o) if rule.on("spikes") else None
    with torch.cuda.device_of(x):
        _forward[(row_blocks * channel_blocks,)](
            x, scale, shift, q, identity, o, s, FORMULA=_formula(rule, dtype), T=T, STATIC=bool(rule.T), **options
        )
    return o, s


def backward(operands: Operands, grad_o: Tensor, grad_s: Tensor | None, rule: Rule) -> Grads:
    x, scale, shift, q, identity, mean = operands
    T, dtype = rule.T or len(x), torch.promote_types(x.dtype, torch.float32)
    formula = _formula(rule, dtype)
    row_blocks, channel_blocks, options = _cut(x, 16 // T, scale is not None)
    tiles = triton.next_power_of_2(triton.cdiv(row_blocks * channel_blocks, PROGRAMS))  # few, as each is compiled
    lines = triton.cdiv(row_blocks, tiles)
    grad_c = torch.empty_like(x)
    grad_identity = torch.empty_like(grad_o, dtype=x.dtype) if formula.on_spikes else None
    sums = None if scale is None else x.new_empty(2, lines, len(scale), dtype=dtype)
    sums_q = None if q is None else x.new_empty(lines * channel_blocks, dtype=dtype)
    if not (formula.on_current or formula.by_both):
        identity = None
    with torch.cuda.device_of(x):
        _backward[(lines * channel_blocks,)](
            x, scale, shift, mean, q, identity, grad_o, grad_s, grad_c, grad_identity, sums, sums_q,
            TILES=tiles, FORMULA=formula, T=T, STATIC=bool(rule.T), **options,
        )  # fmt: skip
    sum_c, sum_cx = (None, None) if sums is None else sums.sum(1)
    return Grads(grad_c, grad_identity, None if sums_q is None else sums_q.sum(), sum_c, sum_cx)


def apply_(g: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
    row_blocks, channel_blocks, options = _cut(x.flatten(0, 1)[None], 8)  # time steps are more positions
    with torch.cuda.device_of(x):
        _apply[(row_blocks * channel_blocks,)](g, x, a, b, c, **options)

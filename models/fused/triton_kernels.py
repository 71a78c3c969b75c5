"""The kernels of CUDA, in Triton: the equations of `kernels`, all T steps in one pass over memory each way.

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
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rule import Grads, Operands, Rule

THREADS = 128  # of a program
PROGRAMS = 8192  # of a backward pass at most: about a dozen for each that runs at a time on the largest GPUs


class _Formula(NamedTuple):
    """What a kernel is compiled for. A join g(residual r, identity i) is constant + by_r r + by_i i + by_both r i."""

    q: float | None  # 1/tau, unless it is learned
    threshold: float
    gain: float
    sigmoid: bool  # or atan
    alpha: float
    on_spikes: bool
    on_current: bool
    constant: float
    by_r: float
    by_i: float
    by_both: float


@functools.cache
def _formula(rule: Rule) -> _Formula:
    # on CUDA torch divides by a number so: times its reciprocal, rounded to float32
    q = None if rule.tau is None else torch.tensor(rule.tau).reciprocal().item()
    g = [0.0, 0.0, 0.0, 0.0]
    if rule.on("spikes"):  # on the current, kernels add
        corners = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
        g = [float(rule.join.function(residual=r, identity=i)) for r, i in corners]  # type: ignore[misc, union-attr]
    return _Formula(
        q, rule.threshold, rule.gain, rule.surrogate == "sigmoid", rule.alpha, rule.on("spikes"), rule.on("current"),
        constant=g[0], by_r=g[1] - g[0], by_i=g[2] - g[0], by_both=g[3] - g[2] - g[1] + g[0],
    )  # fmt: skip


@triton.jit
def _channels(block, COLS: tl.constexpr):
    """Those of a tile, [1, COLS], or one number."""
    if COLS > 1:
        return block * COLS + tl.arange(0, COLS)[None, :]
    else:
        return block


@triton.jit
def _tile(block, channel, rows, channels, inner, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """Offsets within a time step, and whether they exist, [ROWS, COLS]."""
    row = block * ROWS + tl.arange(0, ROWS)[:, None]
    exists = (row < rows) & (channel < channels)
    if WIDE:
        row = row.to(tl.int64)
    return row // inner * (channels * inner) + row % inner + channel * inner, exists


@triton.jit
def _steps(pointer, offset, exists, step, T: tl.constexpr):
    """Tiles of T steps, all asked for before the first is used: so memory is waited for once."""
    tiles = ()
    for t in tl.static_range(T):
        tiles += (tl.load(pointer + t * step + offset, mask=exists, other=0.0),)
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
    channel = _channels(tl.program_id(0) % channel_blocks, COLS)
    offset, exists = _tile(tl.program_id(0) // channel_blocks, channel, rows, channels, inner, WIDE, ROWS)
    xs = _steps(x, offset, exists, step, 1 if STATIC else T)
    shortcuts = xs
    if identity is not None:
        shortcuts = _steps(identity, offset, exists, step, T)
    a = scale
    b = shift
    if scale is not None:
        a = tl.load(scale + channel, mask=channel < channels, other=0.0)
        b = tl.load(shift + channel, mask=channel < channels, other=0.0)
    q = FORMULA.q
    if learned_q is not None:
        q = tl.load(learned_q).to(DTYPE)
    v = tl.zeros([ROWS, COLS], DTYPE)
    for t in tl.static_range(T):
        i = shortcuts[0 if identity is None else t]
        h = _charge(v, _current(xs[0 if STATIC else t], a, b, i, FORMULA, DTYPE), q)
        r = tl.where(h >= FORMULA.threshold, 1.0, 0.0)
        v = tl.where(h >= FORMULA.threshold, 0.0, h)
        if FORMULA.on_spikes:
            tl.store(s + t * step + offset, r, mask=exists)
            i = i.to(DTYPE)
            r = FORMULA.constant + r * FORMULA.by_r + i * (r * FORMULA.by_both + FORMULA.by_i)
        tl.store(o + t * step + offset, r, mask=exists)


@triton.jit
def _backward(
    x, scale, shift, mean, learned_q, identity, grad_o, grad_s,
    grad_c, grad_identity, sums, sums_q, rows, channels, inner, step: tl.int64, channel_blocks,
    TILES: tl.constexpr, FORMULA: tl.constexpr, T: tl.constexpr, STATIC: tl.constexpr, DTYPE: tl.constexpr,
    WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0) // channel_blocks
    channel = _channels(tl.program_id(0) % channel_blocks, COLS)
    a = scale
    b = shift
    center = mean
    if scale is not None:
        a = tl.load(scale + channel, mask=channel < channels, other=0.0)
        b = tl.load(shift + channel, mask=channel < channels, other=0.0)
        center = tl.load(mean + channel, mask=channel < channels, other=0.0)
    q = FORMULA.q
    if learned_q is not None:
        q = tl.load(learned_q).to(DTYPE)
    zero = tl.zeros([ROWS, COLS], DTYPE)
    sum_c = zero
    sum_cx = zero
    sum_q = zero
    for tile in range(TILES):
        offset, exists = _tile(line * TILES + tile, channel, rows, channels, inner, WIDE, ROWS)
        xs = _steps(x, offset, exists, step, 1 if STATIC else T)
        grads = _steps(grad_o, offset, exists, step, T)
        shortcuts = xs
        if identity is not None:
            shortcuts = _steps(identity, offset, exists, step, T)
        own = grads
        if grad_s is not None:
            own = _steps(grad_s, offset, exists, step, T)

        hs = ()
        v = zero
        for t in tl.static_range(T):
            i = shortcuts[0 if identity is None else t]
            h = _charge(v, _current(xs[0 if STATIC else t], a, b, i, FORMULA, DTYPE), q)
            hs += (h,)
            v = tl.where(h >= FORMULA.threshold, 0.0, h)

        grad_v = zero
        total = zero
        for t in tl.static_range(T - 1, -1, -1):
            i = shortcuts[0 if identity is None else t]
            fired = hs[t] >= FORMULA.threshold
            g = grads[t].to(DTYPE)
            if FORMULA.on_spikes:
                r = tl.where(fired, 1.0, 0.0)
                tl.store(grad_identity + t * step + offset, g * (r * FORMULA.by_both + FORMULA.by_i), mask=exists)
                g = g * (i.to(DTYPE) * FORMULA.by_both + FORMULA.by_r)
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
            total += c
            if not STATIC:
                tl.store(grad_c + t * step + offset, c, mask=exists)
                if sums is not None:
                    sum_cx += c * (xs[t].to(DTYPE) - center)
        sum_c += total
        if STATIC:
            tl.store(grad_c + offset, total, mask=exists)
            if sums is not None:
                sum_cx += total * (xs[0].to(DTYPE) - center)
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
    g, x, a, b, c, rows, channels, inner, channel_blocks,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    channel = _channels(tl.program_id(0) % channel_blocks, COLS)
    offset, exists = _tile(tl.program_id(0) // channel_blocks, channel, rows, channels, inner, WIDE, ROWS)
    inside = channel < channels
    value = tl.load(g + offset, mask=exists).to(DTYPE) * tl.load(a + channel, mask=inside)
    value += tl.load(x + offset, mask=exists).to(DTYPE) * tl.load(b + channel, mask=inside)
    tl.store(g + offset, value + tl.load(c + channel, mask=inside), mask=exists)


class _Grid:
    """How the maps of one call are cut into tiles."""

    def __init__(self, x: Tensor, per_channel: bool, elements: int) -> None:
        """x: [T, outer, C, inner]; elements: of a tile, for each thread, at most."""
        _, outer, channels, inner = x.shape
        self.step = outer * channels * inner
        if not per_channel:  # one row of neighbours
            outer, channels, inner = 1, self.step, 1
        self.rows, self.channels, self.inner = outer * inner, channels, inner
        size = THREADS * next(n for n in (8, 4, 2, 1) if n <= max(1, elements))
        cols = 1  # neighbours are the inner positions
        if inner == 1:  # neighbours are the channels: 64 are 128 bytes of bfloat16, and divide most widths
            cols = size if not per_channel else min(64, size, max(16, channels & -channels))
        self.shape = size // cols, cols
        self.channel_blocks = triton.cdiv(channels, cols)
        self.row_blocks = triton.cdiv(self.rows, size // cols)
        self.wide = self.step >= 2**31

    def options(self, **more: Any) -> dict[str, Any]:
        ROWS, COLS = self.shape
        return {
            "rows": self.rows, "channels": self.channels, "inner": self.inner, "channel_blocks": self.channel_blocks,
            "WIDE": self.wide, "ROWS": ROWS, "COLS": COLS,
            "num_warps": THREADS // 32, "enable_fp_fusion": False, **more,
        }  # fmt: skip


def _dtype(x: Tensor) -> Any:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def forward(operands: Operands, rule: Rule) -> tuple[Tensor, Tensor | None]:
    """(output, own spikes) [T, outer, C, inner]; see the package, as for the two functions below."""
    x, scale, shift, q, identity, _ = operands
    T = rule.T or len(x)
    grid = _Grid(x, scale is not None, 32 // T)
    o = x.new_empty(T, *x.shape[1:])
    s = torch.empty_like(o) if rule.on("spikes") else None
    with torch.cuda.device_of(x):
        _forward[(grid.row_blocks * grid.channel_blocks,)](
            x, scale, shift, q, identity, o, s,
            **grid.options(FORMULA=_formula(rule), step=grid.step, T=T, STATIC=bool(rule.T), DTYPE=_dtype(x)),
        )  # fmt: skip
    return o, s


def backward(operands: Operands, grad_o: Tensor, grad_s: Tensor | None, rule: Rule) -> Grads:
    x, scale, shift, q, identity, mean = operands
    T = rule.T or len(x)
    formula = _formula(rule)
    grid = _Grid(x, scale is not None, 16 // T)
    tiles = triton.next_power_of_2(triton.cdiv(grid.row_blocks * grid.channel_blocks, PROGRAMS))  # few, each compiled
    lines = triton.cdiv(grid.row_blocks, tiles)
    programs = lines * grid.channel_blocks
    dtype = torch.promote_types(x.dtype, torch.float32)
    grad_c = torch.empty_like(x)
    grad_identity = x.new_empty(T, *x.shape[1:]) if formula.on_spikes else None
    sums = x.new_empty(2, lines, grid.channels, dtype=dtype) if scale is not None else None
    sums_q = x.new_empty(programs, dtype=dtype) if q is not None else None
    needs_identity = formula.on_current or formula.by_both != 0.0
    with torch.cuda.device_of(x):
        _backward[(programs,)](
            x, scale, shift, mean, q, identity if needs_identity else None, grad_o, grad_s,
            grad_c, grad_identity, sums, sums_q,
            **grid.options(FORMULA=formula, step=grid.step, TILES=tiles, T=T, STATIC=bool(rule.T), DTYPE=_dtype(x)),
        )  # fmt: skip
    sum_c, sum_cx = (None, None) if sums is None else sums.sum(1)
    return Grads(grad_c, grad_identity, None if sums_q is None else sums_q.sum(), sum_c, sum_cx)


def apply_(g: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> None:
    maps = g.view(1, -1, *g.shape[2:])  # time steps are more positions
    grid = _Grid(maps, True, 8)
    with torch.cuda.device_of(x):
        _apply[(grid.row_blocks * grid.channel_blocks,)](g, x, a, b, c, **grid.options(DTYPE=_dtype(x)))

"""The kernels as one differentiable function of [T, N, C, H, W], batch norm included."""

from __future__ import annotations

import importlib
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import cpu
from .rule import Operands, Rule

KERNELS: dict[str, Any] = {"cpu": cpu}  # by type of device; "cuda" at the first tensor there


def kernels_of(x: Tensor) -> Any:
    """The module with the kernels for x's device; None where there are none, which for CUDA is one warning."""
    if x.is_cuda and "cuda" not in KERNELS:
        try:
            KERNELS["cuda"] = importlib.import_module(".triton_kernels", __package__)
        except ImportError as error:
            KERNELS["cuda"] = None
            warnings.warn(f"fused layers are off, spikingjelly's neurons run instead: {error}", stacklevel=2)
    return KERNELS.get(x.device.type)


class _Layout:
    """[T, N, C, H, W] as the kernels see it, without a copy: [T, N*H*W, C, 1] if channels last, else [T, N, C, H*W].

    With `flat` channels don't matter, and any shape [T, *] becomes [T, M, 1, 1].
    """

    def __init__(self, x: Tensor, flat: bool) -> None:
        self.shape = x.shape[1:]
        contiguous = x[0].is_contiguous()
        self.last = x.ndim == 5 and not contiguous and x[0].is_contiguous(memory_format=torch.channels_last)
        n, c = (-1, 1) if flat else self.shape[:2]
        self.packed = (-1, c, 1) if self.last or flat else (n, c, -1)

    def pack(self, x: Tensor) -> Tensor:
        x = x.detach().permute(0, 1, 3, 4, 2) if self.last else x.detach()
        return x.reshape(x.shape[0], *self.packed).contiguous()

    def unpack(self, x: Tensor) -> Tensor:
        if not self.last:
            return x.view(x.shape[0], *self.shape)
        n, c, h, w = self.shape
        return x.view(x.shape[0], n, h, w, c).permute(0, 1, 4, 2, 3)


class _Norm(NamedTuple):
    """A batch norm's statistics over T, N, H and W."""

    mean: Tensor  # [C]
    invstd: Tensor  # [C]
    of_batch: bool  # or the running ones, which no gradient reaches


def _statistics(y: Tensor, norm: nn.BatchNorm2d) -> _Norm:
    """Those that `norm` normalises y [T, N, C, H, W] by; its running ones are brought up to date in training."""
    if not norm.training:
        dtype = torch.promote_types(y.dtype, torch.float32)
        mean, variance = norm.running_mean.to(dtype), norm.running_var.to(dtype)  # type: ignore[union-attr]
        return _Norm(mean, (variance + norm.eps).rsqrt(), False)
    running = (norm.running_mean, norm.running_var) if norm.track_running_stats else (None, None)
    mean, variance = torch.ops.aten.batch_norm_update_stats(y.flatten(0, 1), *running, norm.momentum)
    if norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    invstd = (variance.double() + norm.eps).rsqrt().to(variance.dtype) if y.is_cpu else (variance + norm.eps).rsqrt()
    return _Norm(mean, invstd, True)


def _affine(weight: Tensor, bias: Tensor, norm: _Norm) -> tuple[Tensor, Tensor]:
    """(scale, shift) [C], rounded as torch's batch norm does on the CPU: the shift is one multiply-add."""
    scale = (weight.detach() * norm.invstd).to(norm.mean.dtype)
    wide = torch.float64 if scale.is_cpu else scale.dtype  # on CUDA it is one multiply-add already
    shift = torch.addcmul(bias.detach().to(wide), norm.mean.to(wide), scale.to(wide), value=-1)
    return scale, shift.to(scale.dtype)


class _Layer(torch.autograd.Function):
    """(output, own spikes or None) of y."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weight: Tensor | None, bias: Tensor | None, q: Tensor | None, identity: Tensor | None,
        norm: _Norm | None, rule: Rule,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        ctx.set_materialize_grads(False)
        scale, shift = (None, None) if norm is None else _affine(weight, bias, norm)  # type: ignore[arg-type]
        ctx.norm, ctx.rule, ctx.layout = norm, rule, _Layout(y, flat=norm is None)
        ctx.save_for_backward(y, q, identity, scale, shift)
        output, own = KERNELS[y.device.type].forward(_operands(ctx, y, q, identity, scale, shift), rule)
        return ctx.layout.unpack(output), None if own is None else ctx.layout.unpack(own)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor | None, grad_own: Tensor | None) -> Any:  # type: ignore[override]
        saved = ctx.saved_tensors  # once: where layers are recomputed, each is there once
        y, q, _, scale, _ = saved
        norm, rule, layout, kernels = ctx.norm, ctx.rule, ctx.layout, KERNELS[y.device.type]
        if grad_output is None:  # only the own spikes were used
            grad_output = torch.zeros_like(grad_own)  # type: ignore[arg-type]
        operands = _operands(ctx, *saved)
        grad, own = layout.pack(grad_output), None if grad_own is None else layout.pack(grad_own)
        grads = kernels.backward(operands, grad, own, rule)
        grad_identity = grads.current.clone() if rule.on("current") else grads.identity
        grad_weight = grad_bias = None
        if norm is not None:
            grad_weight, grad_bias = grads.sum_cx * norm.invstd, grads.sum_c
            # dL/dy = scale (dL/dc - mean(dL/dc) - x mean(dL/dc x)), x = (y - mean) invstd; the means are the batch's
            share = scale.to(grad_bias.dtype) / (y.numel() // len(scale)) if norm.of_batch else 0.0 * scale
            by_y = -share * norm.invstd * grad_weight
            shift = -share * grad_bias - by_y * norm.mean
            kernels.apply_(grads.current, operands.x, scale, by_y.to(scale.dtype), shift.to(scale.dtype))
        return (
            layout.unpack(grads.current), grad_weight, grad_bias, None if q is None else grads.q.view_as(q),
            None if grad_identity is None else layout.unpack(grad_identity), None, None,
        )  # fmt: skip


def _operands(
    ctx: Any, y: Tensor, q: Tensor | None, identity: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> Operands:
    pack, mean = ctx.layout.pack, None if ctx.norm is None else ctx.norm.mean
    return Operands(pack(y), scale, shift, q, None if identity is None else pack(identity).to(y.dtype), mean)


def run(
    y: Tensor, norm: nn.BatchNorm2d | None, rule: Rule, q: Tensor | None, identity: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(output, own spikes) of y [T, *], with a norm [T, N, C, H, W]; see `layer`."""
    if y.dtype == torch.float16 and y.is_cpu:  # kernels for the CPU do without it, as its users do
        output, own = run(y.float(), norm, rule, q, identity)
        half = output.half()
        return half, half if own is output else own.half()
    if identity is not None and identity.shape != y.shape:
        identity = identity.expand_as(y)
    weight = bias = statistics = None
    if norm is not None:
        weight, bias, statistics = norm.weight, norm.bias, _statistics(y.detach(), norm)
    output, own = _Layer.apply(y, weight, bias, q, identity, statistics, rule)  # type: ignore[no-untyped-call]
    return output, output if own is None else own

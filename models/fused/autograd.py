"""The kernels as one differentiable function of [T, N, C, H, W], batch norm included."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .compilation import call
from .kernels import backward, forward
from .rule import Operands, Rule


class _Layout:
    """[T, N, C, H, W] as the kernels see it, without a copy: [T, N*H*W, C] if channels last, else [T, N, C, H*W].

    With `flat` channels don't matter, and any shape [T, *] becomes [T, M].
    """

    def __init__(self, x: Tensor, flat: bool) -> None:
        self.shape = x.shape[1:]
        self.flat = flat
        contiguous = x[0].is_contiguous()
        self.last = x.ndim == 5 and not contiguous and x[0].is_contiguous(memory_format=torch.channels_last)

    def pack(self, x: Tensor) -> Tensor:
        x = x.detach()
        if self.last:
            x = x.permute(0, 1, 3, 4, 2)
            x = x.reshape(x.shape[0], -1) if self.flat else x.reshape(x.shape[0], -1, x.shape[-1])
            return x.contiguous()
        return x.reshape(x.shape[0], -1) if self.flat else x.reshape(*x.shape[:3], -1).contiguous()

    def unpack(self, x: Tensor) -> Tensor:
        if not self.last:
            return x.view(x.shape[0], *self.shape)
        n, c, h, w = self.shape
        return x.view(x.shape[0], n, h, w, c).permute(0, 1, 4, 2, 3)

    def channels(self, x: Tensor) -> Tensor:
        """[C] so that it broadcasts over a packed time step."""
        return x if self.last else x[:, None]


class _Norm(NamedTuple):
    """A batch norm's statistics over T, N, H and W."""

    mean: Tensor  # [C]
    invstd: Tensor  # [C]
    eps: float
    of_batch: bool  # or the running ones, which no gradient reaches


def _statistics(y: Tensor, norm: nn.BatchNorm2d) -> _Norm:
    """Those that `norm` normalises y [T, N, C, H, W] by; its running ones are brought up to date in training."""
    if not norm.training:
        dtype = torch.promote_types(y.dtype, torch.float32)
        mean, variance = norm.running_mean.to(dtype), norm.running_var.to(dtype)  # type: ignore[union-attr]
        return _Norm(mean, (variance + norm.eps).rsqrt(), norm.eps, False)
    running = (norm.running_mean, norm.running_var) if norm.track_running_stats else (None, None)
    mean, variance = torch.ops.aten.batch_norm_update_stats(y.flatten(0, 1), *running, norm.momentum)
    if norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    invstd = (variance.double() + norm.eps).rsqrt().to(variance.dtype) if y.is_cpu else (variance + norm.eps).rsqrt()
    return _Norm(mean, invstd, norm.eps, True)


def _affine(weight: Tensor, bias: Tensor, norm: _Norm) -> tuple[Tensor, Tensor]:
    """(scale, shift) [C], rounded as torch's batch norm does on the CPU: the shift is one multiply-add."""
    scale = weight.detach() * norm.invstd
    return scale, torch.addcmul(bias.detach().double(), norm.mean.double(), scale.double(), value=-1).to(scale.dtype)


def _operands(
    layout: _Layout, y: Tensor, scale: Any, shift: Any, q: Tensor | None, identity: Tensor | None
) -> Operands:
    packed = None if identity is None else layout.pack(identity)
    return Operands(layout.pack(y), scale, shift, None if q is None else q.detach(), packed)


class _Layer(torch.autograd.Function):
    """(output, own spikes or None) of y."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weight: Tensor | None, bias: Tensor | None, q: Tensor | None, identity: Tensor | None,
        norm: _Norm | None, rule: Rule,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        ctx.set_materialize_grads(False)
        layout = _Layout(y, flat=norm is None)
        scale = shift = None
        if norm is not None:
            scale, shift = (layout.channels(x) for x in _affine(weight, bias, norm))  # type: ignore[arg-type]
        ctx.norm, ctx.rule, ctx.layout = norm, rule, layout
        ctx.save_for_backward(y, weight, q, identity, scale, shift)
        output, own = call(forward, rule, _operands(layout, y, scale, shift, q, identity))
        return layout.unpack(output), None if own is None else layout.unpack(own)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor | None, grad_own: Tensor | None) -> Any:  # type: ignore[override]
        y, weight, q, identity, scale, shift = ctx.saved_tensors
        norm, rule, layout = ctx.norm, ctx.rule, ctx.layout
        if grad_output is None:  # only the own spikes were used
            grad_output = torch.zeros_like(grad_own)  # type: ignore[arg-type]
        grad_x, grad_identity, grad_q = call(
            backward, rule, _operands(layout, y, scale, shift, q, identity),
            layout.pack(grad_output), None if grad_own is None else layout.pack(grad_own),
        )  # fmt: skip
        grad_x = layout.unpack(grad_x)
        if grad_identity is not None:
            grad_identity = layout.unpack(grad_identity)
        elif rule.on("current"):
            grad_identity = grad_x
        grad_weight = grad_bias = None
        if norm is not None:
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad_x.flatten(0, 1), y.detach().flatten(0, 1), weight, norm.mean, norm.invstd.pow(-2) - norm.eps,
                norm.mean, norm.invstd, norm.of_batch, norm.eps, [True, True, True],
            )  # fmt: skip
            grad_x = grad_x.unflatten(0, y.shape[:2])
        grad_q = None if grad_q is None else grad_q.sum().to(q.dtype)
        return grad_x, grad_weight, grad_bias, grad_q, grad_identity, None, None


def run(
    y: Tensor, norm: nn.BatchNorm2d | None, rule: Rule, q: Tensor | None, identity: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(output, own spikes) of y [T, *], with a norm [T, N, C, H, W]; see `layer`."""
    weight = bias = statistics = None
    if norm is not None:
        weight, bias, statistics = norm.weight, norm.bias, _statistics(y.detach(), norm)
    output, own = _Layer.apply(y, weight, bias, q, identity, statistics, rule)  # type: ignore[no-untyped-call]
    return output, output if own is None else own

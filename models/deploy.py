"""A network for inference: its batch norms folded into the convolutions in front of them."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .layers import ConvBN


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode in which each convolution does the batch norm after it as well.

        w' = w gamma / sqrt(var + eps),    b' = beta - mean gamma / sqrt(var + eps)

    One pass over memory less for every convolution. Sums are rounded differently, so a membrane within rounding of
    the threshold may fire differently. The copy is for inference alone: training it is training without batch norm,
    and its state dict has other keys. The model given stays as it is.

    Args:
        model: any network of `create_model`, of which `detach_aap` may have taken the pathway.

    Raises:
        ValueError: it holds no batch norm that could be folded (folded already, or made by others).
    """
    folded: Any = copy.deepcopy(model).eval()
    names = {id(module): name for name, module in folded.named_modules()}
    pairs: list[tuple[Any, Any]] = [
        (layer[0], layer[1]) for layer in folded.modules() if isinstance(layer, ConvBN)
    ]  # projections as well
    pairs += [(layer.conv, layer.norm) for layer in getattr(folded, "spiking_layers", list)()]
    by_norm = {id(norm): (conv, norm) for conv, norm in pairs if isinstance(norm, _BatchNorm)}
    if not by_norm:
        raise ValueError(f"{type(model).__name__} has no batch norm to fold: is it folded already?")
    for conv, norm in by_norm.values():
        folded.set_submodule(names[id(conv)], fuse_conv_bn_eval(conv, norm))
        folded.set_submodule(names[id(norm)], nn.Identity().eval())
    return folded

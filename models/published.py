"""State dicts in the published naming: the authors', SEW-ResNet's and older spikingjelly releases', to ours and back.

The trunk's names are the published ones. Of the pathway's, the release keeps the projection inside the block that it
crosses (`layer2.0.pool...`) and calls a second, unused head `fc_acc`; ours live under `aap`. Projections that no
release has, those of the event networks, are called alike in both.

Spikformer's releases have linear layers or convolutions, over tokens or over a map; ours are 1x1 convolutions with
weights [out, in, 1, 1]. Layer norms and a position embedding that they declare and never use are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .layers import ConvBN

_PREFIXES = re.compile(r"^(module\.|_orig_mod\.|model\.)+")  # of data-parallel training, torch.compile and Lightning
# where checkpoints keep it: ImageNet's and gestures', CIFAR10-DVS's, timm's, those of PyTorch's tutorial
_NESTS = ("model", "net", "state_dict", "model_state_dict")
_UNUSED = re.compile(r"^((fc_acc|block\.\d+\.norm[12]|norm)\.(weight|bias)|pos_embed)$")
_CROSSING = re.compile(r"^aap\.projections\.(\d+)\.(depthwise|pointwise\.\d)\.(.+)$")
_TOKENS = re.compile(r"^(block\.\d+\.(?:attn|mlp)\.\w+)_conv\.(weight|bias)$")


def _is_spikformer(model: nn.Module) -> bool:
    return isinstance(getattr(model, "patch_embed", None), nn.Module)


def _has_linear_tokens(model: Any) -> bool:
    return model.block[0]["attn"].q_conv.bias is not None  # the release for CIFAR


def _published_name(model: Any, ours: str, blocks: Mapping[int, str]) -> str:
    """blocks: the names of those whose shape changes, in which the release keeps the pathway's projection."""
    if _is_spikformer(model):
        kind = "linear" if _has_linear_tokens(model) else "conv"
        return _TOKENS.sub(rf"\1_{kind}.\2", ours).replace("position.rpe_", "patch_embed.rpe_")
    if ours.startswith("aap.head."):
        return ours.replace("aap.head.", "fc_acc.")
    crossing = _CROSSING.match(ours)
    if crossing is None or int(crossing[1]) not in blocks:
        return ours
    # without a stride there is no depthwise convolution, and one level less
    strided = model.aap.projections[crossing[1]].depthwise is not None
    place = {"depthwise": "0.0", "pointwise.0": "0.1" if strided else "0", "pointwise.1": "1"}[crossing[2]]
    return f"{blocks[int(crossing[1])]}.pool.{place}.{crossing[3]}"


def _published_names(model: Any) -> dict[str, str]:
    """The published name of each of our names in the model's state dict."""
    names = {id(module): name for name, module in model.named_modules()}
    blocks = {i: names[id(block)] for i, block in enumerate(model.blocks()) if block.changes_shape}
    return {ours: _published_name(model, ours, blocks) for ours in model.state_dict()}


def from_published(model: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """A published state dict under our names, for `model.load_state_dict`; our own names stay.

    Accepts a state dict below a top-level key "model", "net", "state_dict" or "model_state_dict", the prefixes
    `module.`, `_orig_mod.` and `model.`, the `.module.` of spikingjelly's clock_driven containers, and what releases
    declare and never use, which is left out: the head `fc_acc` for a model whose head serves both streams, Spikformer's
    layer norms.

    Raises:
        ValueError: it is no mapping of names.
    """
    if isinstance(state_dict, Mapping):
        state_dict = next((state_dict[k] for k in _NESTS if isinstance(state_dict.get(k), Mapping)), state_dict)
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise ValueError(f"a {type(state_dict).__name__} is no state dict, which maps names to tensors")
    names = {published: ours for ours, published in _published_names(model).items()}
    expected = model.state_dict()
    converted = {}
    for key, value in state_dict.items():
        published = _PREFIXES.sub("", key).replace(".module.", ".")
        name = names.get(published, published)
        if name not in expected and _UNUSED.match(published):
            continue
        if name in expected and isinstance(value, Tensor) and 2 <= value.ndim < expected[name].ndim:
            value = value.reshape(*value.shape, *[1] * (expected[name].ndim - value.ndim))  # of a linear layer
        converted[name] = value
    return converted


def to_published(model: nn.Module, *, clock_driven: bool = False) -> dict[str, Tensor]:
    """The model's state dict under the published names. A shared head has no second copy here.

    Args:
        clock_driven: with the `module` that spikingjelly's containers of layers had in their names before it was called
            activation_based; in the trunk, as SEW-ResNet's releases have it.
    """
    names = _published_names(model)
    published = {names[ours]: _published_shape(model, ours, value) for ours, value in model.state_dict().items()}
    if clock_driven:
        containers = [n for n, m in model.named_modules() if isinstance(m, ConvBN) and not n.startswith("aap.")]
        published = {_in_container(name, containers): value for name, value in published.items()}
    return published


def _published_shape(model: Any, ours: str, value: Tensor) -> Tensor:
    """Spikformer's layers over tokens: linear [out, in] for CIFAR; else [out, in, 1], but ImageNet's MLP as ours."""
    if not (_is_spikformer(model) and _TOKENS.match(ours) and ours.endswith(".weight")):
        return value
    if _has_linear_tokens(model):
        return value.flatten(1)
    return value.flatten(2) if ".attn." in ours or model.event_frames else value


def _in_container(name: str, containers: list[str]) -> str:
    inside = next((c for c in containers if name.startswith(f"{c}.")), None)
    return name if inside is None else f"{inside}.module{name.removeprefix(inside)}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_published(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load a state dict in the published naming; all or nothing.

    Raises:
        ValueError: names, shapes or kinds of values do not fit the model; the model is left as it was.
    """
    converted = from_published(model, state_dict)
    expected = model.state_dict()
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in converted.items()}
    problems = {
        "missing": [name for name in expected if name not in converted],
        "unexpected": [name for name in converted if name not in expected],
        "no tensor": [name for name, value in converted.items() if not isinstance(value, Tensor)],
        "of another shape": [
            f"{name} {shapes[name]} instead of {tuple(value.shape)}"
            for name, value in expected.items()
            if shapes.get(name, value.shape) != value.shape
        ],
    }
    found = "; ".join(f"{what}: {_few(names)}" for what, names in problems.items() if names)
    if found:
        name = getattr(model, "config", {}).get("model", type(model).__name__)
        raise ValueError(f"this state dict does not fit {name} ({found}): build the model that it was saved from")
    model.load_state_dict(converted)

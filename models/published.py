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

import torch
from torch import Tensor, nn

from .layers import ConvBN

_POOL = re.compile(r"^(layer\d+\.\d+)\.pool\.(.+)$")
# what follows `pool.`: the stride-1 projection has no depthwise convolution and is nested one level less
_PROJECTION = {"0.0.": "depthwise.", "0.1.": "pointwise.0.", "0.": "pointwise.0.", "1.": "pointwise.1."}
_UNUSED_HEAD = "fc_acc."
_TOKENS = re.compile(r"^(block\.\d+\.(attn|mlp)\.\w+)_(?:linear|conv)\.(weight|bias)$")
_UNUSED_OF_SPIKFORMER = re.compile(r"^(?:(?:block\.\d+\.norm[12]|norm)\.(?:weight|bias)|pos_embed)$")
_POSITION = ("patch_embed.rpe_", "position.rpe_")  # published, ours
_NESTS = ("model", "net")  # of the ImageNet and gesture code's checkpoints, and of the CIFAR10-DVS code's


def _our_name(published: str, block_index: Mapping[str, int]) -> str:
    if published.startswith(_UNUSED_HEAD):
        return "aap.head." + published.removeprefix(_UNUSED_HEAD)
    match = _POOL.match(published)
    if match is None or match[1] not in block_index:
        return published
    prefix = next((p for p in _PROJECTION if match[2].startswith(p)), None)
    if prefix is None:
        return published
    return f"aap.projections.{block_index[match[1]]}.{_PROJECTION[prefix]}{match[2].removeprefix(prefix)}"


def _block_index(model: nn.Module) -> dict[str, int]:
    """Published name -> our index of the blocks that hold a projection in the release, e.g. layer2.0 -> 2."""
    names = {id(module): name for name, module in model.named_modules()}
    blocks = enumerate(model.blocks())  # type: ignore[operator]
    return {names[id(block)]: index for index, block in blocks if block.changes_shape}


def _is_spikformer(model: nn.Module) -> bool:
    return isinstance(getattr(model, "patch_embed", None), nn.Module)


def _of_spikformer(published: str, value: Any) -> tuple[str, Any]:
    """Our name and shape of one of its tensors."""
    match = _TOKENS.match(published)
    if match is None:
        return published.replace(*_POSITION), value
    if match[3] == "weight" and isinstance(value, Tensor) and value.ndim in (2, 3):
        value = value.reshape(*value.shape[:2], *(value.shape[2:] or (1,)), 1)
    return f"{match[1]}_conv.{match[3]}", value


def _as_spikformer(model: Any, ours: str, value: Tensor) -> tuple[str, Tensor]:
    """The name and shape that the release has: for CIFAR linear layers, for ImageNet and CIFAR10-DVS convolutions over
    tokens [out, in, 1], but ImageNet's MLP over the map."""
    match = _TOKENS.match(ours)
    if match is None:
        return ours.replace(*_POSITION[::-1]), value
    linear = model.block[0]["attn"].q_conv.bias is not None
    if match[3] == "weight" and (linear or match[2] == "attn" or model.event_frames):
        value = value.flatten(1) if linear else value.flatten(2)
    return f"{match[1]}_{'linear' if linear else 'conv'}.{match[3]}", value


def from_published(model: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """A published state dict under our names, for `model.load_state_dict`.

    Accepts `module.` prefixes and the `.module.` of spikingjelly's clock_driven containers, a state dict below a
    top-level key "model" or "net", and what releases declare and never use, which is left out: the head `fc_acc` for a
    model whose head serves both streams, Spikformer's layer norms.

    Raises:
        ValueError: it is no mapping of names.
    """
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise ValueError(f"a {type(state_dict).__name__} is no state dict, which maps names to tensors")
    state_dict = next((state_dict[k] for k in _NESTS if isinstance(state_dict.get(k), Mapping)), state_dict)
    index = _block_index(model)
    converted = {}
    for key, value in state_dict.items():
        # data-parallel training put `module.` in front, spikingjelly's clock_driven containers `.module.` inside
        published = key.removeprefix("module.").replace(".module.", ".")
        if _is_spikformer(model):
            if not _UNUSED_OF_SPIKFORMER.match(published):
                name, value = _of_spikformer(published, value)
                converted[name] = value
            continue
        name = _our_name(published, index)
        if name.startswith("aap.head.") and getattr(getattr(model, "aap", None), "head", None) is None:
            continue
        converted[name] = value
    return converted


def to_published(model: nn.Module, *, clock_driven: bool = False) -> dict[str, Tensor]:
    """The model's state dict under the published names. A shared head has no second copy here.

    Args:
        clock_driven: with the `module` that spikingjelly's containers of layers had in their names before it was called
            activation_based; in the trunk, as SEW-ResNet's releases have it.
    """
    names = {str(i): name for name, i in _block_index(model).items()}
    published = {}
    for ours, value in model.state_dict().items():
        name = ours
        if _is_spikformer(model):
            name, value = _as_spikformer(model, ours, value)
        elif ours.startswith("aap.head."):
            name = _UNUSED_HEAD + ours.removeprefix("aap.head.")
        elif ours.startswith("aap.projections.") and ours.split(".")[2] in names:
            index, rest = ours.removeprefix("aap.projections.").split(".", 1)
            strided = model.aap.projections[index].depthwise is not None  # type: ignore[union-attr, index]
            rest = (
                rest.replace("depthwise.", "0.0.", 1)
                .replace("pointwise.0.", "0.1." if strided else "0.", 1)
                .replace("pointwise.1.", "1.", 1)
            )
            name = f"{names[index]}.pool.{rest}"
        published[name] = value
    if clock_driven:
        containers = [n for n, m in model.named_modules() if isinstance(m, ConvBN) and not n.startswith("aap.")]
        published = {_in_container(name, containers): value for name, value in published.items()}
    return published


def _in_container(name: str, containers: list[str]) -> str:
    inside = next((c for c in containers if name.startswith(f"{c}.")), None)
    return name if inside is None else f"{inside}.module{name.removeprefix(inside)}"


def _is_dense_and_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_complex()


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_published(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load a state dict in the published naming; all or nothing.

    Raises:
        ValueError: names, shapes or kinds of values do not fit the model; the model is left as it was.
    """
    converted = from_published(model, state_dict)
    expected = model.state_dict()
    common = {name: value for name, value in converted.items() if name in expected}
    usable = {name for name, value in common.items() if _is_dense_and_real(value)}
    problems = {
        "missing": [name for name in expected if name not in converted],
        "unexpected": [str(name) for name in converted if name not in expected],
        "no dense tensor of real numbers": [name for name in common if name not in usable],
        "of another shape": [
            f"{name} {tuple(value.shape)} instead of {tuple(expected[name].shape)}"
            for name, value in common.items()
            if name in usable and value.shape != expected[name].shape
        ],
    }
    found = "; ".join(f"{what}: {_few(names)}" for what, names in problems.items() if names)
    if found:
        name = getattr(model, "config", {}).get("model", type(model).__name__)
        raise ValueError(f"this state dict does not fit {name} ({found}): build the model that it was saved from")
    model.load_state_dict(converted)

"""The plain network to compare with: the ResNet of the same depth, torchvision's where it has one of that width."""

from __future__ import annotations

import re
from typing import Any

import torchvision
from torch import nn

from full_spike.models import create_model, list_models, model_options


def plain_resnet(model: nn.Module) -> nn.Module | None:
    """The ResNet of a spiking one's depth, width, stem and classes, weights random; None where there is none."""
    config: Any = getattr(model, "config", {})
    depth = re.fullmatch(r"(?:[fd]snn|sew_resnet|spiking_resnet)(\d+)", config.get("model", ""))
    if depth is None or f"resnet{depth[1]}" not in list_models():
        return None
    plain = f"resnet{depth[1]}"
    if config.get("width", 64) != 64 or not hasattr(torchvision.models, plain):
        return create_model(plain, **{option: config[option] for option in model_options(plain) if option in config})
    network: Any = getattr(torchvision.models, plain)(num_classes=config.get("num_classes", 1000))
    channels = config.get("in_channels", 3)
    if config.get("stem") == "cifar":
        network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    network.config = {"model": f"ResNet-{depth[1]}"}
    return network

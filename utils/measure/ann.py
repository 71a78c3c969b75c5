"""The plain network to compare with: the ResNet of the same depth, torchvision's where it has one of that width."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

DEPTHS = (18, 34, 50, 101, 152)


def plain_resnet(model: Any, networks: Any = None) -> nn.Module | None:
    """The ResNet with the depth, width, classes, input channels and stem of a spiking one, weights random.

    Read from the model's `config`: the digits that end its name are the depth. None where there is no such ResNet, and
    for a plain one itself.

    Args:
        networks: builds `resnet18` and so on of other widths than torchvision's 64, if it lists them (`models`).
    """
    config = getattr(model, "config", {})
    name = config.get("model", "")
    depth = re.search(r"(\d+)$", name)
    if depth is None or int(depth[1]) not in DEPTHS or name.startswith("resnet"):
        return None
    if config.get("width", 64) != 64:
        plain = f"resnet{depth[1]}"
        if networks is None or plain not in networks.list_models():
            return None
        known = networks.model_options(plain) if hasattr(networks, "model_options") else {}
        return networks.create_model(plain, **{option: config[option] for option in known if option in config})
    from torchvision import models as torchvision_models  # here: only this comparison needs it

    network = getattr(torchvision_models, f"resnet{depth[1]}")(num_classes=config.get("num_classes", 1000))
    channels = config.get("in_channels", 3)
    if config.get("stem") == "cifar":
        network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    network.config = {"model": f"ResNet-{depth[1]}"}
    return network

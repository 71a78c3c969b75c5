"""How a network's inputs are made of images, from what its weights say."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.transforms import v2


def transform(model: Any) -> v2.Compose:
    """PIL image -> input [C, H, W] of a network: resized, its centre, and normalised as `model.inputs` says.

    Raises:
        ValueError: the network does not say how: it has no trained weights, or they read something else than images.
    """
    inputs = getattr(model, "inputs", {})
    if "mean" not in inputs:
        raise ValueError("this network does not say how it reads images: set model.inputs (resize, crop, mean, std)")
    mean, std = list(inputs["mean"]), list(inputs["std"])
    grey = [v2.Grayscale()] if len(mean) == 1 else []
    fit = [*grey, v2.ToImage(), v2.Resize(inputs["resize"]), v2.CenterCrop(inputs["crop"])]
    return v2.Compose([*fit, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])

"""Small networks of every registered kind, and inputs for them."""

import torch
from torch import nn

from full_spike.models import create_model, list_models, model_options

SMALL = {"num_classes": 5, "T": 2, "stem": "cifar", "width": 4}
SMALL_SPIKFORMER = {"num_classes": 5, "T": 2, "width": 16, "heads": 2, "depth": 2}
# the sizes of Spikformer differ in numbers alone, but for what its three releases differ in
NAMES = [name for name in list_models() if "spikformer" not in name or name.endswith(("4_384", "8_512", "2_256"))]
DUAL = [name for name in NAMES if name.startswith("ds")]
ONE_OF_EACH = ["dsnn18", "dsnn_wide7b", "ds_spikformer_4_384"]  # trunks


def small(name, **options):
    """A network that returns the logits of both streams in evaluation as well."""
    torch.manual_seed(0)
    known = model_options(name)
    defaults = SMALL_SPIKFORMER if "spikformer" in name else SMALL
    model = create_model(name, **{**{k: v for k, v in defaults.items() if k in known}, **options})
    model.readout = "both"
    return model


def images(model, count=2):
    return torch.randn(count, model.in_channels, 32, 32)


def lively(model, mean=0.5):
    """Batch-norm shifts that make neurons fire often, so that both values of every connect function occur."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, mean, 0.5, generator=generator)
    return model


def count(model):
    return sum(p.numel() for p in model.parameters())

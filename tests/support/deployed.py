"""Small networks and real images (scikit-learn's digits) for the tests of what is run elsewhere."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from full_spike.models import create_model, fold_batchnorm, model_options
from full_spike.utils.data.digits import load_digits
from full_spike.utils.export.compare import model_spikes
from full_spike.utils.export.graph import SPIKING, Fire
from full_spike.utils.trained import set_norms

SIZE = 14  # pixels: some maps of odd sides on the way


@functools.cache
def digits(count):
    """Images [count, 1, SIZE, SIZE] of both parts, normalised."""
    scans = torch.cat([torch.from_numpy(load_digits(train=train)[0]).float() for train in (False, True)])
    images = F.interpolate(scans[:count, None] / 16.0, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return (images - 0.3054) / 0.3761


@functools.cache
def moving_digits(count):
    """Event counts [4, count, 2, SIZE, SIZE]: what grows darker and brighter as the digits move to the right."""
    images = (digits(count) * 0.3761 + 0.3054) * 6
    moved = torch.stack([F.pad(images, (t, 0))[..., :SIZE] for t in range(5)])  # [5, count, 1, ...]
    change = moved[1:] - moved[:-1]
    return torch.cat([(-change).clamp_min(0), change.clamp_min(0)], dim=2).round()


def network(name, connect_f, **options):
    """A network in evaluation mode whose random weights spike."""
    torch.manual_seed(0)
    known = model_options(name)
    grey = {"in_channels": 1} if known["in_channels"] == 3 else {}
    stem = {"stem": "cifar"} if "stem" in known else {}
    given = {"width": 4, "num_classes": 10, "T": 4, **grey, **stem, **options}
    model = create_model(name, connect_f=connect_f, **given)
    set_norms(model, inputs(model, 64))
    return model.eval()


def inputs(model, count):
    return moving_digits(count) if model.event_frames else digits(count)


def spikes_of(model, runner, x):
    """(spikes by layer, logits) of a network, of the layers that its description has."""
    return model_spikes(model, [node.name for node in runner.graph.of(*SPIKING)], x)


def in_floats(model, runner):
    """An integer network of IF as one of spikingjelly's neurons in float64, whole numbers in place of weights."""
    plain = fold_batchnorm(model).double()
    modules = dict(plain.named_modules())
    for node in runner.graph.of(Fire):
        assert node.fraction == 0
        conv = modules[node.inputs[0]]
        conv.weight.data = runner.graph.node(node.inputs[0]).weight.double()
        conv.bias = nn.Parameter(node.bias.double())
        modules[node.name].v_threshold = node.threshold.double()[:, None, None]
    head = modules[runner.graph.head.name]
    head.weight.data, head.bias.data = runner.graph.head.weight.double(), runner.graph.head.bias.double()
    return plain

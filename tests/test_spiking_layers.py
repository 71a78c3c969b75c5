"""What every network lists, against what runs."""

import pytest
from spikingjelly.activation_based.neuron import BaseNode
from test_models import NAMES, images, small
from torch import nn

from full_spike.models.connect import JoinLayer


@pytest.mark.parametrize("name", NAMES)
def test_every_spiking_layer_is_listed_in_the_order_in_which_it_runs(name):
    """Against hooks: what ran, one after the other. What is listed no further are projections without a neuron."""
    model = small(name)
    layers = model.spiking_layers()
    kinds = (nn.Conv2d, nn.BatchNorm2d, BaseNode, nn.ReLU, JoinLayer)
    ran = []
    for module_name, module in model.named_modules():
        if isinstance(module, kinds) and not module_name.startswith("aap."):
            module.register_forward_hook(lambda _m, _i, _o, name=module_name: ran.append(name))
    model(images(model))
    names = {id(module): module_name for module_name, module in model.named_modules()}
    listed = []
    for layer in layers:
        assert layer.name == names[id(layer.neuron)]
        chain = [layer.conv, layer.norm, layer.neuron] if layer.conv is not None else [layer.neuron]
        if layer.join is not None and layer.join.acts_on != "none":
            chain.insert(2 if layer.join.acts_on == "current" else 3, layer.join)
        listed += [names[id(module)] for module in chain]
    bare = ".downsample." if name.startswith(("resnet", "spiking_resnet")) else "nothing"  # of the membrane's shortcut
    assert listed == [module_name for module_name in ran if bare not in module_name]
    assert len({layer.join for layer in layers} - {None}) == len(model.blocks())

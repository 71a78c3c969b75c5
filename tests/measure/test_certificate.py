"""The certificate: which networks hold it, and which layer is named where it does not hold."""

import warnings

import pytest
import torch
import torchvision
from spikingjelly.activation_based.neuron import IFNode
from torch import nn

from full_spike.models import BOOLEAN_FUNCTIONS, create_model, detach_aap, model_options
from full_spike.utils.measure.certificate import certify
from full_spike.utils.trained import random_loader, set_norms
from support.refusals import command

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
FRAMES = torch.poisson(torch.full((4, 4, 2, 16, 16), 0.4), generator=torch.Generator().manual_seed(0))


def small(name, **options):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stem = {"stem": "cifar"} if "stem" in model_options(name) else {}
        model = create_model(name, **{"num_classes": 5, "T": 4, "width": 8, **stem, **options})
    set_norms(model, inputs(model))
    return model


def inputs(model):
    return FRAMES if getattr(model, "event_frames", False) else IMAGES


def certificate(model, images=None):
    return certify(model, random_loader(inputs(model) if images is None else images, 2))


@pytest.mark.parametrize("name", ["fsnn18", "fsnn50", "fsnn_7b", "fsnn_wide7b"])
@pytest.mark.parametrize("connect_f", sorted(BOOLEAN_FUNCTIONS))
def test_full_spike_networks_hold_it(name, connect_f):
    model = small(name, connect_f=connect_f)
    result = certificate(model)
    assert result.holds
    assert len(result.body) == sum(isinstance(module, nn.Conv2d) for module in model.modules()) - 1
    assert max(layer.rate for layer in result.body) > 0.03
    assert result.images == 4
    assert [layer.name for layer in result.head] == ["out" if model.event_frames else "fc"]
    assert result.lines()[0].startswith("full-spike: yes: only 0 and 1 enter")


@pytest.mark.parametrize("name", ["spiking_7b", "plain_wide7b"])
def test_networks_whose_sums_stay_inside_neurons_hold_it(name):
    assert certificate(small(name)).holds


def test_how_the_stems_input_is_counted_is_said():
    """1x1, 2 -> 8 channels, 4 time steps of 16x16: each event reaches 8 outputs."""
    line = "apart, by definition: stem conv.0.0.0 reads whole numbers (event counts): 16,384 MAC per image, or"
    model = small("fsnn_7b")
    assert f"{line} {8 * FRAMES.sum() / 4:,.0f} AC if fed event by event" in certificate(model).lines()
    values = "apart, by definition: stem conv.0.0.0 reads values: 16,384 MAC per image"
    assert values in certificate(model, FRAMES / 2).lines()
    image = "apart, by definition: stem conv1 reads values: 55,296 MAC per image"  # 27 * 8 * 16 * 16
    assert image in certificate(small("fsnn18")).lines()


@pytest.mark.parametrize("name", ["sew_resnet18", "sew_resnet50", "fsnn18", "sew_7b"])
def test_sums_fail_at_the_first_layer_after_one(name):
    """The first block's output is s + o_0; the second block's first convolution reads it."""
    result = certificate(small(name, connect_f="ADD"))
    first = "conv.3.conv.0.0.0" if name == "sew_7b" else "layer1.1.conv1.0"
    assert not result.holds
    assert result.offender.name == first
    assert result.lines()[0].startswith(f"full-spike: no: {first} reads 2, which is no spike")


@pytest.mark.parametrize("name", ["dsnn18", "dsnn50", "dsnn_7b", "dsnn_wide7b"])
@pytest.mark.parametrize("aux_head", ["shared", "separate"])
def test_of_a_network_with_its_pathway_only_the_projections_are_named(name, aux_head):
    model = small(name, aux_head=aux_head)
    result = certificate(model)
    assert not result.holds
    assert result.offender is None
    convolutions = [n for n, m in model.named_modules() if n.startswith("aap.") and isinstance(m, nn.Conv2d)]
    assert [layer.name for layer in result.pathway] == convolutions
    assert "the AAP's projections are the only non-spike part: " + ", ".join(convolutions) in result.lines()[0]
    fc = "out" if model.event_frames else "fc"
    heads = {"shared": [fc, f"{fc} (call 2)"], "separate": [fc, "aap.head"]}
    assert [layer.name for layer in result.head] == heads[aux_head]
    assert certificate(detach_aap(model)).holds


@pytest.mark.parametrize("name", ["dsnn_7b", "dsnn_wide7b"])
def test_a_pathway_that_pools_its_sums_is_no_spike_part_either(name):
    model = small(name, aap_pool="max")
    result = certificate(model)
    assert not result.holds
    assert result.offender is None
    assert [layer.name for layer in result.pathway] == (["aap.projections.4.1.pointwise.0"] if "wide" in name else [])
    assert result.lines()[0].startswith("full-spike: no: the AAP's")
    assert certificate(detach_aap(model)).holds


def test_a_network_of_values_fails_at_once():
    result = certificate(torchvision.models.resnet18(num_classes=5))
    assert not result.holds
    assert result.offender.name == "layer1.0.conv1"


def test_linear_layers_alone_hold_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.ReLU(), nn.Linear(4, 2))
    assert not certificate(model).holds


def test_one_value_in_one_image_is_found():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.neuron, self.conv = nn.Conv2d(3, 3, 1), IFNode(), nn.Conv2d(3, 2, 1)
            self.last = IFNode()

        def forward(self, x):
            self.neuron.reset()
            self.last.reset()
            spikes = self.neuron(3 * self.stem(x))
            return self.last(self.conv(torch.where(x.abs() > 50, 0.25, spikes)))

    torch.manual_seed(0)
    model = Network()
    assert certificate(model).holds
    images = IMAGES.clone()
    images[3, 1, 7, 7] = 99.0
    result = certificate(model, images)
    assert result.offender.name == "conv"
    assert "conv reads 0.25, which is no spike" in result.lines()[0]


def test_layers_without_a_spike_or_a_call_are_named():
    model = small("fsnn18")
    nn.init.constant_(model.layer2[0].conv1[1].weight, 0.0)
    nn.init.constant_(model.layer2[0].conv1[1].bias, -1.0)
    model.forgotten = nn.Conv2d(1, 1, 1)
    lines = certificate(model).lines()
    assert "no spike ever entered layer2.0.conv2.0: their check says nothing" in lines
    assert "never ran, so not checked: forgotten" in lines


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["fsnn18"], 0, "full-spike: yes"),
        (["sew_resnet18", "--connect_f", "ADD"], 1, "full-spike: no: layer1.1.conv1.0 reads 2"),
        (["dsnn18"], 1, "full-spike: no: the AAP's projections are the only non-spike part"),
        (["dsnn18", "--detach-aap"], 0, "full-spike: yes"),
    ],
)
def test_the_commands_exit_status_is_the_answer(arguments, status, line):
    done = command(
        "utils.fullspike", "--model", *arguments, "--option", "stem=cifar", "--option", "width=8", "--size", 16
    )
    assert done.status == status
    assert done.out.splitlines()[1].startswith(line)


def test_a_network_without_a_pathway_has_none_to_detach():
    done = command("utils.fullspike", "--model", "fsnn18", "--detach-aap", "--size", 32)
    assert done.status == 2
    assert done.err.splitlines()[-1].startswith("error: --detach-aap: SpikingResNet has no auxiliary")

"""What utils.summary says of a network, against what torch and the networks themselves say."""

import pytest
import torch
from full_spike.utils.cli.sample_data import random_inputs, set_norms
from full_spike.utils.measure.summary import summarise
from support.refusals import command

from full_spike import models

NETWORKS = {
    "dsnn18": {"stem": "cifar", "width": 8},
    "dsnn50": {"stem": "imagenet", "width": 4},
    "sew_resnet18": {"stem": "cifar", "width": 8},
    "spiking_resnet18": {"stem": "cifar", "width": 8},
    "dsnn_7b": {"width": 4, "T": 4},
    "plain_wide7b": {"width": 4, "T": 4},
}


def summary_of(name, size=32, **options):
    torch.manual_seed(0)
    model = models.create_model(name, num_classes=10, **options).eval()
    inputs = random_inputs(model, 2, size)
    set_norms(model, inputs)
    return model, inputs, summarise(model, inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_all_of_them_and_operations_those_of_torchs_counter(name):
    from torch.utils.flop_counter import FlopCounterMode

    model, inputs, summary = summary_of(name, **NETWORKS[name])
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert sum(line.parameters for line in summary.lines) == summary.parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs)
    assert summary.macs() == counter.get_total_flops() // 2 // 2  # two per MAC, two samples


def test_shapes_are_those_of_one_image():
    _, _, summary = summary_of("dsnn18", stem="cifar", width=8)
    shapes = {line.name: line.shape for line in summary.lines}
    assert shapes["conv1"] == (8, 32, 32)  # once, and shown T times
    assert shapes["layer2.0.conv1.0"] == (4, 16, 16, 16)
    assert shapes["aap.projections.2.pointwise.0"] == (4, 16, 16, 16)
    assert shapes["fc"] == (10,)


@pytest.mark.parametrize(("name", "full"), [("dsnn18", True), ("fsnn18", True), ("sew_resnet18", False)])
def test_where_spikes_flow(name, full):
    _, _, summary = summary_of(name, stem="cifar", width=8)
    body = [line.reads for line in summary.lines if line.stream == "trunk" and line.kind.startswith("conv")]
    assert body[0] == "input"
    assert set(body[1:]) == ({"spikes"} if full else {"spikes", "values"})
    if name == "dsnn18":
        assert summary.streams == ["trunk", "pathway"]
        beside = {line.reads for line in summary.lines if line.stream == "pathway" and line.name.startswith("aap.")}
        assert beside == {"sums"}
    else:
        assert summary.streams == ["trunk"]


def test_the_command_prints_a_table():
    options = ("--model", "dsnn18", "--option", "stem=cifar", "--option", "width=4", "--num-classes", 10)
    done = command("utils.summary", *options)
    assert done.status == 0, done.err
    head, *lines = done.out.splitlines()
    assert head.split() == ["layer", "kind", "output", "parameters", "MACs", "reads", "then"]
    assert lines[0].split() == "conv1 conv 3x3 4 x 32 x 32 116 111 k input batch norm, IF".split()
    assert "spikes alone enter all 19 weighted layers" in done.out


def test_a_network_must_be_named():
    done = command("utils.summary")
    assert done.status == 2
    assert "name one by --model, or a --checkpoint" in done.err

"""What `summary` says of a network, against what torch and the networks themselves say."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from full_spike.models import create_model
from full_spike.utils.measure.summary import summarise
from full_spike.utils.trained import random_inputs, set_norms
from support.refusals import command

NETWORKS = {
    "dsnn18": {"stem": "cifar", "width": 8},
    "dsnn50": {"stem": "imagenet", "width": 4},
    "sew_resnet18": {"stem": "cifar", "width": 8},
    "spiking_resnet18": {"stem": "cifar", "width": 8},
    "dsnn_7b": {"width": 4, "T": 4},
    "plain_wide7b": {"width": 4, "T": 4},
}


def summary_of(name, **options):
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, **options).eval()
    inputs = random_inputs(model, 2, 32)
    set_norms(model, inputs)
    return model, inputs, summarise(model, inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_all_of_them_and_operations_those_of_torchs_counter(name):
    model, inputs, lines = summary_of(name, **NETWORKS[name])
    assert sum(line.parameters for line in lines) == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs)
    assert sum(line.macs for line in lines) == counter.get_total_flops() // 2 // 2  # two per MAC, two samples


def test_shapes_are_those_of_one_image():
    _, _, lines = summary_of("dsnn18", stem="cifar", width=8)
    shapes = {line.name: line.shape for line in lines}
    assert shapes["conv1"] == (8, 32, 32)  # once, and shown T times
    assert shapes["layer2.0.conv1.0"] == (4, 16, 16, 16)
    assert shapes["aap.projections.2.pointwise.0"] == (4, 16, 16, 16)
    assert shapes["fc"] == (10,)


@pytest.mark.parametrize(("name", "reads"), [("dsnn18", {"spikes"}), ("sew_resnet18", {"spikes", "values"})])
def test_where_spikes_flow(name, reads):
    _, _, lines = summary_of(name, stem="cifar", width=8)
    stem, *body = [line.reads for line in lines if line.stream == "trunk" and line.kind.startswith("conv")]
    assert stem == "input"
    assert set(body) == reads
    beside = {line.reads for line in lines if line.name.startswith("aap.")}
    assert beside == ({"sums"} if name == "dsnn18" else set())


def test_the_command_prints_a_table():
    done = command("utils.summary", "--model", "dsnn18", "--option", "stem=cifar", "--option", "width=4", "--T", 3)
    assert done.status == 0, done.err
    head, *lines = done.out.splitlines()
    assert head.split() == ["layer", "kind", "output", "parameters", "MACs", "reads", "then"]
    assert lines[0].split() == "conv1 conv 3x3 4 x 32 x 32 116 111 k input batch norm, IF".split()
    assert "spikes alone enter all 19 weighted layers" in done.out
    unnamed = command("utils.summary")
    assert unnamed.status == 2
    assert "name one by --model, or a --checkpoint" in unnamed.err

"""Our networks against the authors' released code, in float64: the same numbers or it is another network."""

import json
import math

import pytest
import torch

from full_spike.models import create_model, load_published, to_published
from support.fill import GOLDENS, published_state
from support.parity import COUNTS, FILES, PROJECTIONS, SPIKFORMERS, build, build_spikformer, check, check_spikformer


def test_every_published_family_has_a_golden():
    models = {json.loads((GOLDENS / name).read_text())["meta"]["model"] for name in FILES}
    resnets = {"dsnn18", "dsnn50", "sew_resnet18", "sew_resnet50", "spiking_resnet18"}
    assert models == resnets | {"sew_7b", "sew_wide7b", "spiking_7b", "plain_7b"}
    assert set(PROJECTIONS) == set(FILES)


@pytest.mark.parametrize("file", SPIKFORMERS)
def test_matches_the_released_spikformer(file):
    check_spikformer(*build_spikformer(file))


@pytest.mark.parametrize(("release", "size"), [name.split() for name in json.loads(COUNTS.read_text())])
def test_spikformers_have_the_published_numbers_of_parameters(release, size):
    """Without what the releases declare and never use: two layer norms a block; for CIFAR10-DVS one more, and a
    position embedding of 64 tokens."""
    depth, width = (int(number) for number in size.split("-"))
    unused = depth * 4 * width + (release == "cifar10dvs") * (2 * width + 64 * width)
    with torch.device("meta"):
        model = create_model(f"spikformer_{depth}_{width}")
    published = json.loads(COUNTS.read_text())[f"{release} {size}"]
    assert sum(p.numel() for p in model.parameters()) == published - unused


@pytest.mark.parametrize("file", FILES)
def test_matches_the_released_code(file):
    check(file, build(json.loads((GOLDENS / file).read_text())["meta"]))


def test_a_separate_head_takes_the_published_second_head():
    model = create_model("dsnn18", num_classes=10, aux_head="separate").double()
    state = published_state("dsnn18")
    load_published(model, state)
    assert torch.equal(model.aap.head.weight, state["fc_acc.weight"])
    ours = to_published(model)
    assert set(ours) == set(state)
    assert all(torch.equal(ours[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("nest", "prefix"),
    [("model", "module."), ("net", ""), ("state_dict", "module._orig_mod."), ("state_dict", "_orig_mod."), (None, "")],
)
def test_prefixed_and_nested_state_dicts_load(nest, prefix):
    model, state = create_model("dsnn18", num_classes=10).double(), published_state("dsnn18")
    wrapped = {f"{prefix}{key}": value for key, value in state.items()}
    load_published(model, wrapped if nest is None else {"epoch": 3, nest: wrapped})
    assert all(torch.equal(value, state[key]) for key, value in to_published(model).items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("layer3.0.pool.0.1.weight"), r"missing: aap\.projections\.4\.pointwise\.0\.weight"),
        (lambda s: s.update({"layer9.weight": torch.zeros(1)}), r"unexpected: layer9\.weight"),
        (lambda s: s.update({"fc.bias": torch.zeros(7)}), r"of another shape: fc\.bias \(7,\) instead of \(10,\)"),
        (lambda s: s.update({"fc.bias": [0.0] * 10}), r"no tensor: fc\.bias"),
    ],
)
def test_a_state_dict_that_does_not_fit_changes_nothing(spoil, message):
    model = create_model("dsnn18", num_classes=10).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = published_state("dsnn18")
    spoil(state)
    with pytest.raises(ValueError, match=message):
        load_published(model, state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("state", [[1, 2], None, {"model": [1]}, {1: torch.zeros(1)}])
def test_what_is_no_state_dict_is_refused(state):
    with pytest.raises(ValueError, match=r"state dict") as error:
        load_published(create_model("fsnn18", width=4), state)
    assert "\n" not in str(error.value)


def in_containers(state):
    """As SEW-ResNet's code under clock_driven: SeqToANNContainer(conv, norm) had both below `module`."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0].startswith("layer") and ("conv" in parts[2] or parts[2:4] == ["downsample", "0"]):
            parts.insert(3 if "conv" in parts[2] else 4, "module")
        renamed[".".join(parts)] = value
    return renamed


def test_names_of_clock_driven_are_read_and_written():
    old = in_containers(published_state("sew_resnet18"))
    assert {"layer1.0.conv1.module.0.weight", "layer2.0.downsample.0.module.1.bias"} < set(old)
    model = create_model("sew_resnet18", num_classes=10).double()
    load_published(model, old)
    written = to_published(model, clock_driven=True)
    assert written.keys() == old.keys()
    assert all(torch.equal(value, old[key]) for key, value in written.items())


def test_the_golden_shows_the_two_streams_differ():
    """Guards the comparison itself: the auxiliary logits are no copy of the trunk's."""
    golden = json.loads((GOLDENS / "golden_dsnn18_OR_T4.json").read_text())
    assert math.dist(golden["eval_logits"][0], golden["eval_aux_logits"][0]) > 1.0

"""What every registered network promises."""

import itertools
import warnings

import pytest
import torch
import torchvision
from spikingjelly.activation_based.neuron import BaseNode
from torch import nn

from full_spike.models import (
    BOOLEAN_FUNCTIONS,
    CONNECT_FUNCTIONS,
    create_model,
    detach_aap,
    list_models,
    model_options,
    register_model,
)
from full_spike.models.connect import JoinLayer
from support.networks import DUAL, NAMES, ONE_OF_EACH, count, images, lively, small


def test_all_families_and_depths_are_registered():
    families = ("dsnn", "fsnn", "resnet", "sew_resnet", "spiking_resnet")
    expected = {f"{family}{depth}" for family in families for depth in (18, 34, 50, 101, 152)}
    families = ("dsnn", "fsnn", "sew", "spiking", "plain")
    expected |= {f"{family}_{layout}" for family in families for layout in ("7b", "wide7b")}
    sizes = ("4_256", "2_384", "4_384", "8_384", "6_512", "8_512", "10_512", "8_768", "2_256")
    expected |= {f"{family}_{size}" for family in ("spikformer", "fs_spikformer", "ds_spikformer") for size in sizes}
    assert expected == set(list_models())


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_full_spike_trunk_has_a_plain_resnets_parameters(depth):
    with torch.device("meta"):
        plain = getattr(torchvision.models, f"resnet{depth}")()
        ours = create_model(f"fsnn{depth}")
    assert count(ours) == count(plain)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_plain_resnet_is_torchvisions(name):
    """Weights in the order of definition, float64, training and evaluation: the same logits, to the last bit."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=7).double()
    ours = create_model(name, num_classes=7).double()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for training in (True, False):
        assert torch.equal(ours.train(training)(x), theirs.train(training)(x))


def test_published_parameter_counts():
    with torch.device("meta"):
        assert count(create_model("fsnn18")) == 11_689_512
        assert count(create_model("dsnn18")) == 11_867_368
        assert count(create_model("fsnn34")) == 21_797_672


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_receives_a_gradient(name):
    model = small(name)
    outputs = model(images(model))
    sum(logits.sum() for logits in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def inputs_of_convolutions(model, x, part=""):
    """What enters every convolution and linear layer under `part`, but the stem's first one and the head."""
    seen = {}
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module is not first and not name.startswith("aap."):
            module.register_forward_pre_hook(lambda _m, args, name=name: seen.__setitem__(name, args[0].detach()))
    with torch.no_grad():
        model(x)
    return seen


@pytest.mark.parametrize(
    ("name", "connect_f"),
    list(itertools.product([n for n in NAMES if n.startswith(("ds", "fs"))], sorted(BOOLEAN_FUNCTIONS))),
)
def test_only_spikes_enter_the_convolutions_of_a_full_spike_network(name, connect_f):
    model = lively(small(name, connect_f=connect_f))
    seen = inputs_of_convolutions(model, images(model))
    assert len(seen) == sum(isinstance(m, nn.Conv2d) for n, m in model.named_modules() if "aap" not in n) - 1
    assert all(((x == 0) | (x == 1)).all() for x in seen.values())
    assert any((x == 1).any() for x in seen.values())


def test_sums_are_not_spikes():
    with pytest.warns(UserWarning, match="not full-spike") as warned:
        model = lively(small("dsnn18", connect_f="ADD"))
    assert len(warned) == 1
    seen = inputs_of_convolutions(model, torch.randn(2, 3, 32, 32))
    assert max(x.max() for x in seen.values()) >= 2


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("connect_f", sorted(CONNECT_FUNCTIONS))
def test_detaching_the_pathway_leaves_the_trunk_bit_for_bit(name, connect_f):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lively(small(name, connect_f=connect_f)).eval()
        x = images(model, 3)
        fsnn = detach_aap(model)
        same = create_model(**fsnn.config)
    assert torch.equal(fsnn(x), model(x)[0])
    assert model.aap is not None
    assert not any("aap" in name for name, _ in fsnn.named_parameters())
    assert count(fsnn) == count(model) - count(model.aap)
    assert fsnn.config["model"] == "fs" + name.removeprefix("ds")
    same.load_state_dict(fsnn.state_dict())
    assert torch.equal(same.eval()(x), fsnn(x))


@pytest.mark.parametrize("name", DUAL)
def test_detaching_shares_nothing_with_the_model_it_came_from(name):
    model = small(name)
    ours = {p.data_ptr() for p in model.parameters()}
    assert not ours & {p.data_ptr() for p in detach_aap(model).parameters()}


def test_there_is_nothing_to_detach_from_a_single_stream():
    with pytest.raises(ValueError, match="no auxiliary accumulation pathway"):
        detach_aap(small("fsnn18"))


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("neuron", ["IF", "LIF", "PLIF"])
def test_every_forward_pass_starts_from_rest(name, neuron):
    model = lively(small(name, neuron=neuron)).eval()
    x = images(model)
    first, second = model(x), model(x)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_frames_that_repeat_an_image_are_that_image(name):
    model = lively(small(name, T=3)).double().eval()
    x = images(model).double()
    frames = x.expand(3, -1, -1, -1, -1)
    for still, moving in zip(model(x), model(frames), strict=True):
        torch.testing.assert_close(still, moving, rtol=1e-12, atol=1e-12)
    assert model(torch.cat([frames, frames]))[0].shape == (2, 5)  # as many frames as there are


def test_the_pathway_accumulates_the_blocks_spikes():
    """a_L of a stage without projections is o_0 plus the sum of its blocks' spikes."""
    model = lively(small("dsnn18", connect_f="AND")).eval()
    spikes, streams = [], []
    for block in model.layer1:
        block.register_forward_hook(lambda _m, _i, out: spikes.append(out[1]))
    model.layer1[0].register_forward_pre_hook(lambda _m, args: streams.append(args[0]))
    model.aap.register_forward_hook(lambda _m, _i, out: streams.append(out))
    with torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
    assert torch.equal(streams[2], streams[0] + spikes[0] + spikes[1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dsnn18", {}),
        ("sew_resnet50", {}),
        ("dsnn18", {"neuron": "LIF"}),
        ("dsnn_7b", {}),
        ("sew_wide7b", {"tau": 3.0}),
        ("sew_7b", {"neuron": "LIF", "tau": 7.3}),
        ("ds_spikformer_4_384", {"neuron": "IF"}),
    ],
)
@pytest.mark.parametrize("connect_f", sorted(CONNECT_FUNCTIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_initialised_blocks_are_the_identity(name, options, connect_f, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = small(name, connect_f=connect_f, zero_init_residual=True, **options).to(dtype)
    block = model.blocks()[1]
    channels = block.spiking_layers()[-1].norm.num_features
    x = (torch.rand(4, 3, channels, 8, 8) < 0.5).to(dtype)
    assert torch.equal(block(x)[0], x)


def test_configs_rebuild_their_model():
    model = small("dsnn50", aux_head="separate", neuron="PLIF", tau=3.0, surrogate="atan", alpha=1.5, in_channels=2)
    again = create_model(**model.config)
    assert again.config == model.config
    assert [(n, p.shape) for n, p in again.named_parameters()] == [(n, p.shape) for n, p in model.named_parameters()]
    assert repr(again.sn1) == repr(model.sn1)


@pytest.mark.parametrize("name", list_models())
def test_what_a_name_and_its_defaults_say_is_in_the_config(name):
    with torch.device("meta"):
        assert create_model(name).config == {"model": name, **model_options(name)}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dsnn19", {}, "model='dsnn19' is unknown: did you mean dsnn18"),
        ("dsnn18", {"connect_f": "NAND"}, "connect_f='NAND' is unknown: choose one of ADD, AND, IAND, OR, XOR"),
        ("dsnn18", {"neuron": "ALIF"}, "neuron='ALIF' is unknown: choose one of IF, LIF, PLIF"),
        ("dsnn18", {"surrogate": "relu"}, "surrogate='relu' is unknown: choose one of sigmoid, atan"),
        ("dsnn18", {"stem": "mnist"}, "stem='mnist' is unknown: choose one of imagenet, cifar"),
        ("dsnn18", {"aux_head": "none"}, "aux_head='none' is unknown: choose one of shared, separate"),
        ("dsnn18", {"T": 0}, "T=0 is out of range: it must be at least 1"),
        ("dsnn18", {"width": 0}, "width=0 is out of range"),
        ("dsnn18", {"neuron": "LIF", "tau": 1.0}, "tau=1.0 is out of range"),
        ("dsnn18", {"neuron": "LIF", "tau": float("inf")}, "tau=inf is out of range"),
        ("dsnn18", {"neuron": "LIF", "tau": float("nan")}, "tau=nan is out of range"),
        ("dsnn18", {"alpha": -1.0}, "alpha=-1.0 is out of range"),
        ("dsnn18", {"alpha": float("inf")}, "alpha=inf is out of range"),
        ("dsnn_7b", {"aap_pool": "mean"}, "aap_pool='mean' is unknown: choose one of projection, max"),
        ("dsnn_wide7b", {"aux_head": "none"}, "aux_head='none' is unknown: choose one of shared, separate"),
        ("dsnn_7b", {"connect_f": "NAND"}, "connect_f='NAND' is unknown: choose one of ADD, AND, IAND, OR, XOR"),
        ("sew_7b", {"in_channels": 0}, "in_channels=0 is out of range: it must be at least 1"),
        ("plain_7b", {"zero_init_residual": True}, "zero_init_residual=True silences a plain network"),
        ("plain_7b", {"connect_f": "OR"}, "plain_7b has no option 'connect_f'"),
        ("fsnn_7b", {"aap_pool": "max"}, "fsnn_7b has no option 'aap_pool'"),
        ("dsnn_7b", {"stem": "cifar"}, "dsnn_7b has no option 'stem'"),
        ("dsnn_7", {}, "model='dsnn_7' is unknown: did you mean dsnn_7b"),
        ("spiking_resnet18", {"connect_f": "OR"}, "spiking_resnet18 has no option 'connect_f'"),
        ("fsnn18", {"aux_head": "shared"}, "fsnn18 has no option 'aux_head'"),
        ("ds_spikformer_4_384", {"width": 20}, "width=20 does not fit: it must be a multiple of 8 and of heads=12"),
        ("ds_spikformer_4_384", {"heads": 7}, "width=384 does not fit: it must be a multiple of 8 and of heads=7"),
        ("ds_spikformer_4_384", {"heads": 0}, "heads=0 is out of range: it must be at least 1"),
        ("ds_spikformer_4_384", {"depth": 0}, "depth=0 is out of range: it must be at least 1"),
        ("ds_spikformer_4_384", {"patch": 3}, "patch=3 is unknown: choose one of 1, 2, 4, 8, 16"),
        ("ds_spikformer_4_384", {"products": "vk"}, "products='vk' is unknown: choose one of auto, qk, kv"),
        ("ds_spikformer_4_384", {"scale": -1.0}, "scale=-1.0 is out of range: it must be above 0 and finite"),
    ],
)
def test_wrong_options_are_named_with_their_remedy(name, options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as error:
        create_model(name, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["fsnn18", "fsnn_7b", "fs_spikformer_4_384"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 4, 32, 32)])
def test_inputs_of_another_shape_are_refused(name, shape):
    with pytest.raises(ValueError, match="input of shape"):
        small(name)(torch.randn(shape))


def test_a_name_is_registered_once():
    def dsnn18():
        return nn.Identity()

    with pytest.raises(ValueError, match="registered already"):
        register_model(dsnn18)


def test_options_are_listed_with_their_defaults():
    options = model_options("dsnn18")
    assert options["connect_f"] == "OR"
    assert options["aux_head"] == "shared"
    assert options["T"] == 4
    assert "connect_f" not in model_options("spiking_resnet18")


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

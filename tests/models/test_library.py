"""Networks used as those of timm and torchvision are."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from full_spike import create_model, detach_aap, exact, list_models, quantize, register_join, save_pretrained, transform
from full_spike.models import BOOLEAN_FUNCTIONS, Join
from full_spike.models.accumulation import SINGLES
from full_spike.models.connect import CONNECT_FUNCTIONS, JOINS
from full_spike.models.registry import _MODELS, register_model
from support.networks import NAMES, images, small


def refusal(error, call, *args, **options):
    with pytest.raises(error) as raised:
        call(*args, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", NAMES)
def test_features_and_head_make_the_logits(name):
    model = small(name).eval()
    model.readout = "fsnn"
    x = images(model)
    maps = model.forward_features(x)
    assert maps.shape[2] == model.num_features == model.feature_info[-1]["num_chs"]
    assert torch.equal(model.forward_head(maps), model(x))
    assert model.forward_head(maps, nn.Identity()).shape == (2, model.num_features)
    assert "are not [T, N, C, H, W]" in refusal(ValueError, model.forward_head, x)


@pytest.mark.parametrize(
    ("name", "options", "channels", "reductions"),
    [
        ("dsnn18", {"stem": "imagenet"}, [4, 8, 16, 32], [4, 8, 16, 32]),
        ("resnet50", {}, [16, 32, 64, 128], [1, 2, 4, 8]),
        ("fsnn_wide7b", {}, [4] * 4 + [8] * 3, [1, 2, 4, 8, 16, 32, 64]),
        ("fs_spikformer_4_384", {"patch": 4}, [16], [4]),
    ],
)
def test_maps_of_each_stage(name, options, channels, reductions):
    model = small(name, features_only=True, **options)
    model.train().trunk.set_grad_checkpointing()
    x = torch.randn(2, 2, 2 if "7b" in name else 3, 64, 64)  # two frames
    maps = model(x)
    assert [m.shape[2] for m in maps] == channels == [stage["num_chs"] for stage in model.feature_info]
    assert [64 // m.shape[3] for m in maps] == reductions == [stage["reduction"] for stage in model.feature_info]
    sum(m.mean() for m in maps).backward()
    assert all(p.grad is not None for p in model.parameters())  # nothing in it is left unused


@pytest.mark.parametrize("change", ["reset", "assign"])
def test_a_new_classifier_is_saved_as_it_is(tmp_path, change):
    model = small("dsnn18", aux_head="separate" if change == "reset" else "shared")
    model.classes = list("abcde")
    if change == "reset":
        model.reset_classifier(7)
    else:
        model.classifier = nn.Linear(model.num_features, 7)
    assert model.get_classifier() is model.fc
    assert "classifier.weight" not in model.state_dict()
    model.T = 3
    save_pretrained(model, tmp_path)
    again = create_model("dsnn18", pretrained=tmp_path)
    assert (again.config["num_classes"], again.T) == (7, 3)
    x = images(model)
    model.eval().readout = "fsnn"
    assert torch.equal(again.eval()(x), model(x))


def test_another_number_of_channels_sums_or_repeats_the_stems_weights(tmp_path):
    model = small("fsnn18").eval()
    save_pretrained(model, tmp_path)
    grey, six = (create_model("fsnn18", pretrained=tmp_path, in_channels=n).eval() for n in (1, 6))
    x = images(model)
    torch.testing.assert_close(six(torch.cat([x, x], 1)), model(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grey(x[:, :1]), model(x[:, :1].expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_classes_and_preprocessing_come_with_the_weights(tmp_path):
    model = create_model("fsnn18", pretrained=True)
    assert model.classes[3] == "cat"
    picture = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    mean, std = (torch.tensor(model.inputs[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = (torch.from_numpy(np.asarray(picture)).permute(2, 0, 1) / 255 - mean) / std
    torch.testing.assert_close(transform(model)(picture), expected)
    assert transform(model)(picture.resize((80, 60))).shape == (3, 32, 32)
    save_pretrained(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["classes"] == model.classes
    assert create_model("fsnn18", pretrained=tmp_path, num_classes=4).classes == []
    assert "does not say how it reads images" in refusal(ValueError, transform, small("fsnn18"))


def test_names_are_found():
    assert list_models("fsnn*", pretrained=True) == ["fsnn18"]
    assert list_models("fsnn??") == ["fsnn18", "fsnn34", "fsnn50"]
    assert create_model("fsnn18", pretrained=False, width=4).classes == ()
    for options, nearest in (
        ({"model": "FSNN18"}, "did you mean fsnn18"),
        ({"num_class": 3}, "did you mean num_classes?"),
        ({"connect_f": "or"}, "did you mean OR?"),
        ({"stem": "cifar10"}, "did you mean cifar?"),
    ):
        assert nearest in refusal(ValueError, create_model, **{"model": "fsnn18", **options})


def test_wrong_values_are_one_line():
    model = create_model("fsnn18", width=4)
    x = torch.zeros(1, 3, 32, 32)
    assert "an input is a list: give a tensor" in refusal(ValueError, model, x.tolist())
    assert "an input is a ndarray: give a tensor" in refusal(ValueError, model, x.numpy())
    assert "an input is torch.uint8: give floats" in refusal(ValueError, model, x.byte())
    assert "torch.float64 and the weights are torch.float32" in refusal(ValueError, model, x.double())
    assert "T='4' is no whole number" in refusal(ValueError, create_model, "fsnn18", T="4")
    assert "width=2.0 is no whole number" in refusal(ValueError, create_model, "fsnn18", width=2.0)
    assert "quantize needs images to calibrate on" in refusal(ValueError, quantize, model, [])
    assert "size=32 is one number: give (height, width)" in refusal(ValueError, exact, model, 32)
    mine = create_model("fsnn18", width=4, neuron=lambda: nn.ReLU())
    assert "has no name to save" in refusal(ValueError, save_pretrained, mine, "nowhere")


def test_a_join_of_ones_own():
    nand = register_join(Join("NAND", "spikes", "logic", lambda *, identity, residual: 1 - identity * residual))
    try:
        assert "NAND" in BOOLEAN_FUNCTIONS
        model = create_model("fsnn18", width=4, connect_f="NAND")  # no warning
        again = pickle.loads(pickle.dumps(model))
        assert again.blocks()[0].join.join is nand
    finally:
        del JOINS["NAND"], CONNECT_FUNCTIONS["NAND"]
        BOOLEAN_FUNCTIONS.discard("NAND")


def test_a_network_of_ones_own_names_what_it_is_without_its_pathway(tmp_path):
    def two_streams(**options):
        return create_model("dsnn18", **options)

    register_model(two_streams, trunk=_MODELS["dsnn18"][0].func, defaults={"width": 4}, single="fsnn18")
    try:
        model = create_model("two_streams")
        assert detach_aap(model).config["model"] == "fsnn18"
    finally:
        del _MODELS["two_streams"], SINGLES["two_streams"]

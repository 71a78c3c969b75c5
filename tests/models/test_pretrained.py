"""Trained networks as folders, as .safetensors, as checkpoints of ours and of others, and what does not fit."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from full_spike.models import create_model, load_pretrained, read_pretrained, save_pretrained, to_published
from support.command import ROOT
from support.networks import small

OPTIONS = {"width": 4, "num_classes": 5, "T": 2, "stem": "cifar", "connect_f": "XOR"}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.fixture
def trained(tmp_path):
    """A network, and the folder that it is saved in."""
    torch.manual_seed(0)
    model = create_model("dsnn18", **OPTIONS)
    save_pretrained(model, tmp_path / "trained", {"classes": ["a", "b", "c", "d", "e"]})
    return model, tmp_path / "trained"


def refusal(where, model="dsnn18", **options):
    """The one line that says why these weights cannot be used."""
    with pytest.raises(ValueError, match=r".") as error:
        create_model(model, pretrained=where, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_gives_the_network_again(trained):
    model, folder = trained
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    for where in (folder, folder / "model.safetensors", read_pretrained(folder)):
        again = create_model("dsnn18", pretrained=where)
        assert again.config == model.config
        assert same(again.state_dict(), model.state_dict())
    assert read_pretrained(folder).metadata == {"classes": ["a", "b", "c", "d", "e"]}
    hub = torch.hub.load(str(ROOT), "dsnn18", source="local", pretrained=folder)
    assert same(hub.state_dict(), model.state_dict())


def test_time_steps_joins_and_neurons_may_differ(trained):
    model, folder = trained
    other = create_model("dsnn18", pretrained=folder, T=7, connect_f="IAND", neuron="LIF")
    assert (other.T, other.config["connect_f"], other.config["neuron"]) == (7, "IAND", "LIF")
    assert same(other.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("name", "options", "heads"),
    [
        ("dsnn18", {}, {"fc"}),
        ("dsnn18", {"aux_head": "separate"}, {"fc", "aap.head"}),
        ("ds_spikformer_4_384", {}, {"head"}),
    ],
)
def test_another_number_of_classes_gets_a_new_classifier(tmp_path, name, options, heads):
    model = small(name, **options)
    save_pretrained(model, tmp_path)
    torch.manual_seed(1)
    scratch = create_model(**{**model.config, "num_classes": 7})
    torch.manual_seed(1)
    other = create_model(name, pretrained=tmp_path, num_classes=7)
    for key, value in other.state_dict().items():
        source = scratch if key.rpartition(".")[0] in heads else model
        assert torch.equal(value, source.state_dict()[key]), key


def test_a_full_spike_network_takes_the_trunk_of_its_dual_stream_one(trained):
    model, folder = trained
    fsnn = create_model("fsnn18", pretrained=folder)
    assert same(fsnn.state_dict(), {k: v for k, v in model.state_dict().items() if not k.startswith("aap.")})
    save_pretrained(fsnn, folder)
    assert "was saved from another network, fsnn18: create that one, not dsnn18" in refusal(folder)


def test_what_does_not_fit_is_one_line(trained):
    _, folder = trained
    assert "was saved from another network, dsnn18" in refusal(folder, "sew_resnet18")
    assert "was saved from another network, dsnn18" in refusal(folder, "dsnn34")
    assert "no weights of dsnn34 come along: name a folder" in refusal(True, "dsnn34")
    assert "of another shape: conv1.weight" in refusal(folder, width=8)
    assert "missing: sn1.w" in refusal(folder, neuron="PLIF")
    assert "there is no nowhere, neither a file nor weights that come along (cifar10/" in refusal("nowhere")
    assert "cifar10 has weights of" in refusal("cifar10", "dsnn152")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    model = small("dsnn18")
    torch.nn.init.constant_(model.fc.bias, value)
    torch.save({"model": model.state_dict()}, tmp_path / "x.pth")
    assert "fc.bias holds numbers that are not finite" in refusal(tmp_path / "x.pth", **OPTIONS)


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("config.json", lambda content: b"{", "is no JSON"),
        ("config.json", lambda content: b"[]", "names no model"),
        ("model.safetensors", lambda content: b"", "damaged or no .safetensors file"),
        ("model.safetensors", lambda content: content[: len(content) // 2], "damaged or no .safetensors file"),
        ("model.safetensors", lambda content: b"\xff" * 8 + content[8:], "damaged or no .safetensors file"),
    ],
)
def test_damaged_folders_are_refused(trained, file, spoil, message):
    path = trained[1] / file
    path.write_bytes(spoil(path.read_bytes()))
    assert message in refusal(trained[1])


def test_a_folder_without_its_parts_is_refused(trained):
    _, folder = trained
    (folder / "config.json").unlink()
    assert "there is no" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "there is no checkpoint" in refusal(folder)


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "spoil", [flipped, lambda content: content[:9000], lambda content: b"text", lambda content: b""]
)
def test_damaged_checkpoints_are_refused(tmp_path, spoil):
    path = tmp_path / "x.pth"
    torch.save({"model": small("dsnn18").state_dict()}, path)
    path.write_bytes(spoil(path.read_bytes()))
    assert f"{path} is damaged or no checkpoint" in refusal(path, **OPTIONS)


@pytest.mark.parametrize("content", [[1, 2], {"config": {"model": "dsnn18"}}, {"config": 3}, {"model": 3}, {}])
def test_checkpoints_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    assert str(tmp_path / "x.pth") in refusal(tmp_path / "x.pth", **OPTIONS)


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path):
    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "written"), "w")

    torch.save({"model": Hostile()}, tmp_path / "x.pth")
    assert "what could run code: it is not loaded" in refusal(tmp_path / "x.pth")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("nest", "prefix"),
    [
        ("model", ""),
        ("net", "module."),
        ("state_dict", "module._orig_mod."),
        ("state_dict", "model."),
        ("model_state_dict", "_orig_mod."),
    ],
)
@pytest.mark.parametrize("classes", [5, 7])
def test_checkpoints_of_others_load(tmp_path, nest, prefix, classes):
    """timm's, with which Spikformer was trained, and the releases' own; names as published."""
    for name in ("ds_spikformer_4_384", "dsnn18"):
        model = small(name)
        state = {prefix + key: value for key, value in to_published(model).items()}
        rest = {"epoch": np.int64(3), "arch": name, "args": argparse.Namespace(lr=0.1, data=Path("/data"))}
        rest |= {"metric": np.float32(93.5), "history": np.arange(3.0), "config": {"lr": 0.1}}
        torch.save({**rest, nest: state}, tmp_path / "x.pth")
        options = {**model.config, "num_classes": classes}
        again = create_model(pretrained=tmp_path / "x.pth", **options)
        heads = ("fc.", "head.") if classes != 5 else ()
        for key, value in model.state_dict().items():
            assert key.startswith(heads) or torch.equal(again.state_dict()[key], value), key
        assert again.config == options


@pytest.mark.parametrize(
    ("nest", "prefix"), [("ema", ""), ("ema", "module."), ("model_ema", "module."), ("state_dict_ema", "")]
)
def test_averaged_weights_of_others_load(tmp_path, nest, prefix):
    model = small("dsnn18")
    averaged = {prefix + key: value + 1 for key, value in model.state_dict().items()}
    torch.save({"model": model.state_dict(), nest: {**averaged, "n_averaged": torch.tensor(3)}}, tmp_path / "x.pth")
    for asked, by in ((False, 0), (True, 1)):
        load_pretrained(again := small("dsnn18"), read_pretrained(tmp_path / "x.pth", averaged=asked))
        assert same(again.state_dict(), {key: value + by for key, value in model.state_dict().items()})


def test_a_runs_folder_is_its_newest_checkpoint(tmp_path):
    for name, more in (("checkpoint_3.pth", 1), ("checkpoint_latest.pth", 0)):
        model = small("dsnn18")
        torch.save({"model": {key: value + more for key, value in model.state_dict().items()}}, tmp_path / name)
    assert same(create_model(pretrained=tmp_path, **model.config).state_dict(), model.state_dict())

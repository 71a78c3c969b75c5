"""--initial-checkpoint: a new run begins with trained weights, in every process, unless it has weights of its own."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml

from full_spike.models import create_model, save_pretrained, to_published
from full_spike.utils import checkpoint
from support.command import assert_same_run, newest, only, refused, run_ranks, succeed
from support.images import image_tree

TRAIN = "full_spike.cifar.train"
SHORT = ("--dataset", "folder", "--image-size", "8", "-b", "4", "-j", "0", "--device", "cpu", "--epochs", "1")
NETWORK = ("--width", 2, "--T", 2, "--neuron", "IF", "--connect-f", "XOR")
STILL = ("--lr", "0", "--wd", "0")  # parameters end as they began; statistics do not


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return (*SHORT, "--data-path", image_tree(tmp_path_factory.mktemp("data") / "images", count=6))


@pytest.fixture(scope="module")
def first(short, tmp_path_factory):
    """A network of other options than the script's defaults, trained for an epoch, in every form that can be named."""
    out = tmp_path_factory.mktemp("first")
    succeed(TRAIN, *short, *NETWORK, "--output-dir", out / "runs")
    path = only(out / "runs") / checkpoint.LATEST
    state = checkpoint.read(path)
    model = create_model(**state["config"])
    model.load_state_dict(state["model"])
    save_pretrained(model, out / "folder")
    torch.save({"model": to_published(model)}, out / "published.pth")
    forms = {
        "checkpoint": path,
        "run": path.parent,
        "folder": out / "folder",
        "safetensors": out / "folder" / "model.safetensors",
        "published": out / "published.pth",
    }
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    return SimpleNamespace(path=path, forms=forms, parameters=parameters, config=state["config"])


def differing(state, parameters):
    """Names of parameters that are not these."""
    return {name for name, value in parameters.items() if not torch.equal(state["model"][name], value)}


@pytest.mark.parametrize("form", ["run", "folder", "safetensors", "published"])
def test_a_new_run_begins_with_the_weights_in_whatever_form_they_are(first, short, tmp_path, form):
    network = NETWORK if form == "published" else ()
    text = succeed(TRAIN, *short, *STILL, *network, "--initial-checkpoint", first.forms[form], "--output-dir", tmp_path)
    assert re.search(rf"(?m)^beginning with the weights of {first.forms[form]}", text)
    state = newest(tmp_path)
    assert differing(state, first.parameters) == set()
    assert state["config"] == first.config
    assert (state["epoch"], state["recipe"]["initial_checkpoint"]) == (1, str(first.forms[form]))


def test_it_trains_on_from_there_and_its_configuration_starts_it_again(first, short, tmp_path):
    given = ("--initial-checkpoint", first.path, "--output-dir")
    succeed(TRAIN, *short, *given, tmp_path / "a")
    assert differing(newest(tmp_path / "a"), first.parameters)
    kept = only(tmp_path / "a", "*/config.yaml")
    assert yaml.safe_load(kept.read_text())["initial_checkpoint"] == str(first.path)
    succeed(TRAIN, "--config", kept, "--output-dir", tmp_path / "b")
    assert_same_run(only(tmp_path / "a"), only(tmp_path / "b"))
    succeed(TRAIN, *short, *NETWORK, "--output-dir", tmp_path / "c")
    assert differing(newest(tmp_path / "c"), newest(tmp_path / "a")["model"])


def test_what_the_command_says_of_the_network_comes_first(first, short, tmp_path):
    given = (*short, *STILL, "--initial-checkpoint", first.path, "--output-dir")
    text = succeed(TRAIN, *given, tmp_path / "a", "--T", 3, "--neuron", "LIF")
    assert re.search(rf"(?m)^beginning with the weights of {first.path}, trained with .*T=2.*neuron=IF", text)
    state = newest(tmp_path / "a")
    assert state["config"] == {**first.config, "T": 3, "neuron": "LIF"}
    assert differing(state, first.parameters) == set()


@pytest.mark.parametrize("form", ["checkpoint", "published"])
def test_a_classifier_of_another_size_begins_anew(first, short, tmp_path, form):
    images = image_tree(tmp_path / "images", classes=("cat", "dog", "owl"), count=4)
    network = NETWORK if form == "published" else ()
    out = ("--initial-checkpoint", first.forms[form], "--output-dir", tmp_path / "out")
    text = succeed(TRAIN, *short, *STILL, *network, *out, "--data-path", images)
    assert form == "published" or "trained with num_classes=2\n" in text
    state = newest(tmp_path / "out")
    assert state["model"]["fc.weight"].shape == (3, 16)
    assert differing(state, first.parameters) == {"fc.weight", "fc.bias"}


def test_a_run_with_weights_of_its_own_goes_on_with_them(first, short, tmp_path):
    """Also if the others are other ones by then."""
    initial = tmp_path / "initial.pth"
    shutil.copy(first.path, initial)
    common = (*short, *NETWORK, "--cos_lr_T", 2, "--name", "run", "--initial-checkpoint", initial)
    succeed(TRAIN, *common, "--epochs", 2, "--output-dir", tmp_path / "whole")
    on = (*common, "--resume", "auto", "--output-dir", tmp_path / "parts")
    succeed(TRAIN, *on)
    state = checkpoint.load(initial)
    other = {name: value + 1 if value.is_floating_point() else value for name, value in state["model"].items()}
    checkpoint.write(initial, {**state, "model": other})
    text = succeed(TRAIN, *on, "--epochs", 2)
    assert "epoch 2, batch 0" in text
    assert "beginning with" not in text
    assert_same_run(tmp_path / "whole" / "run", tmp_path / "parts" / "run")


def test_the_main_process_alone_reads_the_weights(first, short, tmp_path):
    """The other one's machine has none, or other ones."""
    state = create_model(**first.config).state_dict()
    checkpoint.write(tmp_path / "other.pth", {"config": first.config, "model": state})
    common = (*short, *STILL, "--output-dir", tmp_path / "out", "--initial-checkpoint")
    folders = [tmp_path / name for name in ("main", "other")]
    for folder, source in zip(folders, (first.path, tmp_path / "other.pth"), strict=True):
        folder.mkdir()
        shutil.copy(source, folder / "weights.pth")
    done = run_ranks(TRAIN, *[(*common, "weights.pth")] * 2, folders=folders)
    assert [process.returncode for process in done] == [0, 0], done[0].stderr
    assert differing(newest(tmp_path / "out"), first.parameters) == set()
    (folders[0] / "weights.pth").unlink()
    done = run_ranks(TRAIN, *[(*common, "weights.pth", "--overwrite")] * 2, folders=folders)
    assert [process.returncode for process in done] == [1, 1]
    assert "error: there is no weights.pth" in done[0].stderr
    assert "its error says why" in done[1].stderr


def flipped(source, target):
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)


def larger(source, target):
    state = checkpoint.load(source)
    checkpoint.write(target, {"config": {**state["config"], "width": 64}, "model": state["model"]})


def infinite(source, target):
    state = checkpoint.load(source)
    state["model"]["fc.bias"][0] = float("inf")
    checkpoint.write(target, {name: state[name] for name in ("config", "model")})


BAD = {
    "a flipped bit": (flipped, 1, "is damaged"),
    "a file cut off": (lambda a, b: b.write_bytes(a.read_bytes()[:9000]), 1, "is damaged or no checkpoint"),
    "text": (lambda a, b: b.write_text("weights"), 1, "is damaged"),
    "nothing": (lambda a, b: None, 1, "there is no .*: check the path"),
    "a claim of a larger network": (larger, 2, "does not fit dsnn18"),
    "infinite weights": (infinite, 1, "is damaged.*not finite"),
    "an empty folder": (lambda a, b: b.mkdir(), 1, "name a file"),
}


@pytest.mark.parametrize("damage", BAD)
def test_what_cannot_be_begun_with_is_one_line_and_no_folder(first, short, tmp_path, damage):
    make, status, message = BAD[damage]
    path = tmp_path / "weights.pth"
    make(first.path, path)
    options = (*short, "--output-dir", tmp_path / "out", "--initial-checkpoint", path)
    for more in ((), ("--resume", "auto")):
        line = refused(TRAIN, *options, *more, status=status)
        assert re.search(message, line), line
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("--model dsnn34", 2, "was saved from another network, dsnn18: create that one"),
        ("--width 3", 2, "does not fit dsnn18"),
        ("--initial-checkpoint nowhere", 1, "there is no nowhere, neither a file nor weights that come"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_and_no_folder(first, short, tmp_path, options, status, message):
    given = ("--initial-checkpoint", first.path, *options.split())
    line = refused(TRAIN, *short, "--output-dir", tmp_path / "out", *given, status=status)
    assert re.search(message, line), line
    assert not (tmp_path / "out").exists()

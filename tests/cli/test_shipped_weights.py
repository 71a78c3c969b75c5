"""Pretrained weights: those in weights/, and a set that the script makes of a small run, used as any user would."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from full_spike.models import create_model, detach_aap, list_pretrained, pretrained
from full_spike.utils.checkpoint import LATEST, load, write
from full_spike.utils.measure.certificate import certify
from support.command import ROOT, only, succeed
from support.refusals import command

TRAIN = "cifar.train"
COMMON = ("--image-size", "8", "-b", "64", "-j", "0", "--device", "cpu", "--epochs", "1")


def script(*args):
    """The main function of scripts/ship_weights.py: its status and what it printed."""
    spec = importlib.util.spec_from_file_location("ship_weights", ROOT / "scripts/ship_weights.py")
    sys.modules["ship_weights"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return command("ship_weights", *args)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run on digits."""
    folder = tmp_path_factory.mktemp("shipped") / "runs"
    network = ("--neuron", "IF", "--surrogate", "atan", "--width", "4", "--T", "1")
    succeed(TRAIN, *COMMON, *network, "--name", "first", "--output-dir", folder)
    return folder


@pytest.fixture(scope="module")
def made(runs):
    """What the script makes of it; called cifar10, as those that are shipped."""
    pytest.importorskip("full_spike.utils.export.saved")
    output = runs.parent / "weights"
    done = script(runs / "first", "--name", "cifar10", "--about-data", "scanned digits", "--output", output)
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1] == f"wrote {output / 'cifar10'}"
    return output


@pytest.fixture
def by_name(made, monkeypatch):
    """The made weights in the place of the shipped ones."""
    monkeypatch.setattr(pretrained, "SHIPPED", made)
    return made / "cifar10"


@pytest.fixture(params=["made", "weights/cifar10"])
def weights(request, monkeypatch):
    folder = request.getfixturevalue("made") / "cifar10" if request.param == "made" else ROOT / request.param
    monkeypatch.setattr(pretrained, "SHIPPED", folder.parent)
    return folder


def pixels(folder, count=6):
    """Images [count, C, H, W] at random, as a network of this folder reads them."""
    inputs = json.loads((folder / "config.json").read_text())["inputs"]
    shape = (count, inputs["channels"], inputs["crop"], inputs["crop"])
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(inputs[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return (levels.float() / 255 - mean) / std


def test_a_name_gives_the_network_with_its_weights_and_the_card_tells_its_size(weights):
    assert list_pretrained() == {"cifar10": ["dsnn18", "fsnn18"]}
    for name in ("dsnn18", "fsnn18"):
        folder, about = weights / name, json.loads((weights / name / "config.json").read_text())
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        for model in (
            create_model(name, pretrained="cifar10"),
            create_model(name, pretrained=f"cifar10/{name}"),
            torch.hub.load(str(ROOT), name, source="local", pretrained="cifar10"),
        ):
            assert model.config.items() <= about.items()
            state = model.state_dict()
            assert state.keys() == tensors.keys()
            assert all(torch.equal(state[key], tensors[key]) for key in state)
        parameters, size = sum(p.numel() for p in model.parameters()), (folder / "model.safetensors").stat().st_size
        card = (folder / "README.md").read_text()
        assert f"{parameters:,} parameters; `model.safetensors` has {size:,} bytes" in card
        assert size < 3_000_000
        assert f"Classes: {', '.join(about['classes'])}." in card.replace("\n", " ")
        assert "/root/" not in card + json.dumps(about)


def test_the_trunk_is_that_of_the_dual_network_and_full_spike(weights):
    dual, trunk = (create_model(name, pretrained="cifar10").eval() for name in ("dsnn18", "fsnn18"))
    images = pixels(weights / "fsnn18")
    with torch.no_grad():
        assert torch.equal(detach_aap(dual)(images), trunk(images))
    assert certify(trunk, [(images, torch.zeros(len(images)))]).holds
    assert "\nfull-spike: yes: only 0 and 1 enter" in (weights / "fsnn18" / "README.md").read_text()
    assert "\nfull-spike: no: the AAP's projections" in (weights / "dsnn18" / "README.md").read_text()


def test_the_code_on_the_card_runs_the_integers(weights, tmp_path, monkeypatch):
    pytest.importorskip("full_spike.utils.export.saved")
    from full_spike.utils.export.c import CRuntime, write_c

    monkeypatch.chdir(tmp_path)
    shipped, variables = weights / "fsnn18_integer" / "README.md", {}
    card = (shipped if shipped.exists() else weights / "fsnn18" / "README.md").read_text()
    exec(re.findall(r"(?ms)^```python\n(.*?)^```", card)[0 if shipped.exists() else 1], variables)
    network, images = variables["network"], pixels(weights / "fsnn18")
    logits = network(images)
    assert logits.dtype is torch.int32
    (tmp_path / "in_c").mkdir()
    write_c(network.graph, tmp_path / "in_c")
    assert torch.equal(CRuntime(tmp_path / "in_c", network.graph).logits(images), logits)
    found = json.loads((weights / "fsnn18_integer" / "comparison.json").read_text())
    assert f"{100 * found['right_runtime'] / found['images']:.2f} %" in card


def test_the_weights_are_the_last_epochs_and_so_is_the_accuracy(runs, by_name):
    kept, state = load(runs / "first" / LATEST)["model"], create_model("dsnn18", pretrained="cifar10").state_dict()
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    last = json.loads((runs / "first" / "metrics.jsonl").read_text().splitlines()[-1])["test"]
    for name, readouts in {"dsnn18": last, "fsnn18": {"output": last["fsnn"]}}.items():
        card = (by_name / name / "README.md").read_text()
        rows = re.findall(r"(?m)^(fsnn|aap|sum|output) +([\d.]+) ", card)
        assert {row: float(score) for row, score in rows} == {n: round(s["acc1"], 2) for n, s in readouts.items()}


def test_the_command_on_a_card_makes_the_weights_again(runs, by_name, tmp_path, monkeypatch):
    monkeypatch.chdir(by_name)
    line = re.search(r"(?m)^python -m cifar.train (.*)$", (by_name / "dsnn18/README.md").read_text())[1]
    succeed(TRAIN, *line.split(), "-j", "0", "--device", "cpu", "--output-dir", tmp_path, "--name", "again")
    again, state = load(tmp_path / "again" / LATEST)["model"], load(runs / "first" / LATEST)["model"]
    assert all(torch.equal(state[name], value) for name, value in again.items())


def test_what_no_weights_can_be_made_of_is_one_line(runs, tmp_path):
    stopped = shutil.copytree(runs / "first", tmp_path / "stopped")
    write(stopped / LATEST, {**load(stopped / LATEST), "step": 3})
    out = tmp_path / "weights"
    (out / "there").mkdir(parents=True)
    for run, name, message in (
        (tmp_path, "a", "there is no .*config.yaml: name the folder of a run"),
        (stopped, "a", "stopped inside an epoch: go on with --resume auto until it ends"),
        (runs / "first", "a/b", "--name a/b is no folder's name"),
        (runs / "first", "there", "is there already: remove it"),
    ):
        done = script(run, "--name", name, "--about-data", "digits", "--output", out)
        assert done.status in (1, 2)
        (line,) = done.err.splitlines()
        assert re.search(message, line), line
    assert [path.name for path in out.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        ("fsnn18", "cifra10", "there is no cifra10, .*cifar10/dsnn18, cifar10/fsnn18"),
        ("resnet18", "cifar10", "cifar10 has weights of dsnn18, fsnn18: name one of these, not resnet18"),
        ("fsnn18", "cifar10/resnet18", "cifar10/resnet18 has weights of dsnn18, fsnn18: name one of these"),
        ("dsnn18", "cifar10/fsnn18", "was saved from another network, fsnn18: create that one"),
    ],
)
def test_a_wrong_name_is_told_from_the_right_ones(model, name, message):
    with pytest.raises(ValueError, match=message):
        create_model(model, pretrained=name)


def test_a_run_begins_with_weights_by_name_and_testing_leaves_them_alone(by_name, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in by_name.rglob("*")}
    begin = ("--lr", 0, "--wd", 0, "--output-dir", tmp_path, "--initial-checkpoint", "cifar10")
    assert f"beginning with the weights of {by_name / 'dsnn18'}\n" in succeed(TRAIN, *COMMON, *begin)
    state = load(only(tmp_path) / LATEST)["model"]
    model = create_model("dsnn18", pretrained="cifar10")
    assert all(torch.equal(state[name], value) for name, value in model.named_parameters())
    test = ("--test-only", "--resume", "cifar10", "--device", "cpu", "--output-dir", tmp_path, "--name", "here")
    succeed(TRAIN, *test, "--detach")
    assert (tmp_path / "here/fsnn.pth").exists()
    assert {path: path.stat().st_mtime_ns for path in by_name.rglob("*")} == before


@pytest.mark.slow
def test_installed_it_has_them_too(tmp_path):
    """By `pip install` of the files under version control."""
    source, target = tmp_path / "source", tmp_path / "installed"
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True, timeout=300)
    code = "import full_spike; print(full_spike.__file__, full_spike.create_model('fsnn18', pretrained='cifar10').T)"
    env = {**os.environ, "PYTHONPATH": str(target)}
    text = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=env, text=True)
    assert text.split() == [str(target / "full_spike/__init__.py"), "2"]

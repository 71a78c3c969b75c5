"""Weights that come along: those in weights/, and a set that the script makes of a small run, used as any user would.

The made one is called cifar10 as well, so that what is shown to work by its name works by the other's.
"""

import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from full_spike.models import create_model, detach_aap, find_pretrained, graph, list_pretrained, save_pretrained
from full_spike.utils import checkpoint
from full_spike.utils.export.runtimes import CRuntime, OnnxRuntime
from full_spike.utils.export.targets import TARGETS
from full_spike.utils.measure.certificate import certify
from PIL import Image
from support.command import ROOT, call, only, succeed
from support.refusals import command

from studies.provenance import stages

MOST = 3_000_000  # bytes of a file
TRAIN = "cifar.train"
NETWORK = "--neuron IF --surrogate atan --width 4 --image-size 8 -b 64"
RUNS = {"first": f"{NETWORK} --T 2 --epochs 2", "second": "--image-size 8 -b 64 --T 1 --lr 0.02 --epochs 2"}


def script(*args):
    """The main function of scripts/ship_weights.py: its status and what it printed."""
    spec = importlib.util.spec_from_file_location("ship_weights", ROOT / "scripts/ship_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["ship_weights"] = module
    return command("ship_weights", *args)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on digits, of which the second began with the weights of the first."""
    folder = tmp_path_factory.mktemp("shipped") / "runs"
    common = ("-j", "0", "--device", "cpu", "--output-dir", folder)
    succeed(TRAIN, *RUNS["first"].split(), *common, "--name", "first")
    began = folder / "first" / checkpoint.LATEST
    succeed(TRAIN, *RUNS["second"].split(), *common, "--name", "second", "--initial-checkpoint", began)
    return folder


@pytest.fixture(scope="module")
def made(runs):
    """What the script makes of them."""
    output = runs.parent / "weights"
    done = script(runs / "second", "--name", "cifar10", "--about-data", "scanned digits", "--output", output)
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1] == f"wrote {output / 'cifar10'}"
    return output


@pytest.fixture
def by_name(made, monkeypatch):
    """The made weights in the place of those that come along."""
    monkeypatch.setattr(models.pretrained, "SHIPPED", made)
    return made / "cifar10"


REAL = sorted(path.parent.parent for path in (ROOT / "weights").glob("*/*/model.safetensors"))
SETS = ["made", *dict.fromkeys(str(path.relative_to(ROOT)) for path in REAL)]


@pytest.fixture(params=SETS)
def weights(request, monkeypatch):
    """A set of weights that has the name of its folder."""
    folder = request.getfixturevalue("made") / "cifar10" if request.param == "made" else ROOT / request.param
    monkeypatch.setattr(models.pretrained, "SHIPPED", folder.parent)
    return folder


def code_of(card):
    return re.findall(r"(?ms)^```python\n(.*?)^```", card.read_text())


def pixels(about, count=6):
    """Images [count, C, H, W] of bytes at random, as the network reads them."""
    inputs = about["inputs"]
    shape = (count, inputs["channels"], inputs["crop"], inputs["crop"])
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = (torch.tensor(inputs[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return (levels.float() / 255 - mean) / std


# What lies there


def test_each_network_has_weights_a_config_and_a_card_that_tells_their_sizes(weights):
    assert {path.name for path in weights.iterdir()} == {"dsnn18", "fsnn18", "fsnn18_integer", "log.csv"}
    assert list_pretrained() == {weights.name: ["dsnn18", "fsnn18"]}
    for name in ("dsnn18", "fsnn18"):
        folder, card = weights / name, (weights / name / "README.md").read_text()
        assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
        size = (folder / "model.safetensors").stat().st_size
        assert size <= MOST
        parameters = sum(p.numel() for p in create_model(name, pretrained=weights.name).parameters())
        assert f"{parameters:,} parameters; `model.safetensors` has {size:,} bytes" in card
        about = json.loads((folder / "config.json").read_text())
        assert len(about["classes"]) == about["num_classes"]
        assert f"Classes: {', '.join(about['classes'])}." in card.replace("\n", " ")
        assert "/root/" not in card + json.dumps(about)
    size = (weights / "fsnn18_integer" / "integer.pth").stat().st_size
    assert size <= MOST
    assert f"| integer.pth | {size:,} bytes |" in (weights / "fsnn18_integer" / "README.md").read_text()


def test_a_name_gives_the_network_with_these_weights(weights):
    for name in ("dsnn18", "fsnn18"):
        about = json.loads((weights / name / "config.json").read_text())
        tensors = safetensors.torch.load_file(weights / name / "model.safetensors")
        for where in (weights.name, f"{weights.name}/{name}"):
            for model in (
                create_model(name, pretrained=where),
                torch.hub.load(str(ROOT), name, source="local", pretrained=where),
            ):
                assert model.config.items() <= about.items()
                state = model.state_dict()
                assert state.keys() == tensors.keys()
                assert all(torch.equal(state[key], tensors[key]) for key in state)


def test_the_trunk_is_that_of_the_dual_network(weights):
    dual, trunk = (create_model(name, pretrained=weights.name).eval() for name in ("dsnn18", "fsnn18"))
    images = pixels(json.loads((weights / "fsnn18" / "config.json").read_text()))
    with torch.no_grad():
        assert torch.equal(detach_aap(dual)(images), trunk(images))
        assert len(set(trunk(images).flatten().tolist())) > 10


def test_only_spikes_enter_the_trunks_weighted_layers(weights):
    trunk = create_model("fsnn18", pretrained=weights.name)
    images = pixels(json.loads((weights / "fsnn18" / "config.json").read_text()))
    assert certify(trunk, [(images, torch.zeros(len(images)))]).holds
    assert "\nfull-spike: yes: only 0 and 1 enter" in (weights / "fsnn18" / "README.md").read_text()
    assert "\nfull-spike: no: the AAP's projections" in (weights / "dsnn18" / "README.md").read_text()


def test_whole_numbers_are_the_same_in_pytorch_onnxruntime_and_c(weights, tmp_path, monkeypatch):
    """By the code on the card."""
    monkeypatch.chdir(tmp_path)
    variables = {}
    load, write = code_of(weights / "fsnn18_integer" / "README.md")
    exec(load + write, variables)
    whole = variables["whole"]
    TARGETS["onnx"].write(whole, tmp_path)
    images = pixels(json.loads((weights / "fsnn18" / "config.json").read_text()))
    logits = whole(images)
    assert logits.dtype is torch.int32
    assert len(set(logits.flatten().tolist())) > 10
    assert torch.equal(graph.FastRunner(whole.graph)(images), logits)
    assert torch.equal(OnnxRuntime(tmp_path / "model.onnx", whole.graph).logits(images), logits)
    assert torch.equal(CRuntime(tmp_path / "in_c", whole.graph, tmp_path).logits(images), logits)


def test_a_card_tells_what_the_integers_reach(weights):
    found = json.loads((weights / "fsnn18_integer" / "comparison.json").read_text())
    card = (weights / "fsnn18_integer" / "README.md").read_text()
    assert f"| top-1 in whole numbers | {100 * found['right_runtime'] / found['images']:.2f} % |" in card
    assert found["same"]
    floats = re.search(r"(?m)^output +([\d.]+)", (weights / "fsnn18" / "README.md").read_text())[1]
    assert f"| top-1 of fsnn18 in floats | {floats} % |" in card


# What the script makes of a run


def scores(text):
    """The lines of the table of readouts."""
    return re.findall(r"(?m)^(?:readout|fsnn|aap|sum|output) .*$", text)


def test_the_weights_are_those_of_the_last_epoch(runs, made):
    kept = checkpoint.read(runs / "second" / checkpoint.LATEST)
    state = create_model("dsnn18", pretrained=made / "cifar10" / "dsnn18").state_dict()
    assert all(torch.equal(state[name], value) for name, value in kept["model"].items())


def test_the_command_on_a_card_prints_what_the_card_shows_and_the_run_reached(runs, by_name):
    last = json.loads((runs / "second" / "metrics.jsonl").read_text().splitlines()[-1])["test"]
    for name, readouts in {"dsnn18": last, "fsnn18": {"output": last["fsnn"]}}.items():
        card = (by_name / name / "README.md").read_text()
        line = re.search(r"(?m)^full-spike (test .*)$", card)[1]
        done = command("utils.commands", *line.split())
        assert done.status == 0, done.err
        shown = done.out.strip().replace(str(by_name / name), f"cifar10/{name}")
        assert shown in card
        rows = [line.split() for line in scores(shown)[1:]]
        assert {row[0]: float(row[1]) for row in rows} == {k: round(v["acc1"], 2) for k, v in readouts.items()}


def test_the_commands_on_a_card_make_the_weights_again(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"(?m)^python -m cifar.train (.*)$", (made / "cifar10" / "dsnn18" / "README.md").read_text())
    assert len(lines) == 2
    for line in lines:
        succeed(TRAIN, *shlex.split(line), "-j", "0", "--device", "cpu")
    again = checkpoint.read(tmp_path / "runs" / "second" / checkpoint.LATEST)["model"]
    state = create_model("dsnn18", pretrained=made / "cifar10" / "dsnn18").state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.items())


def test_a_card_tells_of_both_runs_and_the_log_has_every_epoch(runs, made):
    card = (made / "cifar10" / "fsnn18" / "README.md").read_text()
    assert card.count("### Run ") == 2
    assert "initial_checkpoint: runs/first/checkpoint_latest.pth\n" in card
    assert str(runs) not in card
    with open(made / "cifar10" / "log.csv", newline="") as file:
        rows = [(row["run"], row["epoch"], float(row["test_fsnn"])) for row in csv.DictReader(file)]
    entries = [
        (str(number), str(entry["epoch"] + 1), round(entry["test"]["fsnn"]["acc1"], 2))
        for number, name in enumerate(RUNS, start=1)
        for entry in map(json.loads, (runs / name / "metrics.jsonl").read_text().splitlines())
    ]
    assert rows == entries


def test_a_run_tells_the_recipe_of_its_weights_not_that_of_a_later_command(runs, tmp_path):
    shutil.copytree(runs / "first", tmp_path / "first")
    config = tmp_path / "first" / "config.yaml"
    config.write_text(re.sub(r"(?m)^(epochs|cos_lr_T): 2$", r"\1: 3", config.read_text()))
    (before,), (after,) = stages(runs / "first"), stages(tmp_path / "first")
    assert before.told() == after.told()
    assert before.command() == after.command()
    assert "--epochs 2 " in after.command()
    shutil.copytree(runs / "second", tmp_path / "second")
    alone = tmp_path / "first" / "fsnn.pth"
    checkpoint.write(
        alone, {name: checkpoint.load(runs / "first" / checkpoint.LATEST)[name] for name in ("config", "model")}
    )
    last = tmp_path / "second" / checkpoint.LATEST
    state = checkpoint.load(last)
    checkpoint.write(last, {**state, "recipe": {**state["recipe"], "initial_checkpoint": str(alone)}})
    assert len(stages(runs / "second")) == 2
    assert len(stages(tmp_path / "second")) == 1  # which epoch's weights these were, nobody can tell


def test_what_no_weights_can_be_made_of_is_one_line(runs, made, tmp_path):
    out = ("--about-data", "digits", "--output", tmp_path / "weights")
    stopped = tmp_path / "stopped"
    shutil.copytree(runs / "first", stopped)
    state = checkpoint.load(stopped / checkpoint.LATEST)
    checkpoint.write(stopped / checkpoint.LATEST, {**state, "step": 3})
    for run, options, message in (
        (tmp_path, ("--name", "a", *out), "there is no .*config.yaml: name the folder of a run"),
        (stopped, ("--name", "a", *out), "stopped inside an epoch: go on with --resume auto until it ends"),
        (runs / "first", ("--name", "a/b", *out), "--name a/b is no folder's name"),
        (runs / "first", ("--name", "cifar10", *out[:-1], made), "is there already: remove it"),
    ):
        done = script(run, *options)
        assert done.status in (1, 2)
        (line,) = done.err.splitlines()
        assert re.search(message, line), line
    assert not (tmp_path / "weights").exists()


# Names


def test_a_name_comes_before_a_path(by_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_pretrained(create_model("fsnn18", width=2, num_classes=3), "cifar10")
    assert create_model("fsnn18", pretrained="cifar10").config["width"] == 4
    assert create_model("fsnn18", pretrained="./cifar10").config["width"] == 2
    assert create_model("fsnn18", pretrained=tmp_path / "cifar10").config["width"] == 2


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        ("fsnn18", "cifra10", "there is no cifra10, .* that come along: cifar10/dsnn18, cifar10/fsnn18$"),
        ("resnet18", "cifar10", "cifar10 has weights of dsnn18, fsnn18: name one of these, not resnet18"),
        ("fsnn18", "cifar10/resnet18", "cifar10/resnet18 has weights of dsnn18, fsnn18: name one of these"),
        ("dsnn18", "cifar10/fsnn18", r"was saved from another network \(model='fsnn18' instead of 'dsnn18'\)"),
        ("fsnn18", "cifar10/fsnn18/none", "there is no cifar10/fsnn18/none: check the path"),
    ],
)
def test_a_wrong_name_is_told_from_the_right_ones(by_name, model, name, message):
    with pytest.raises(ValueError, match=message):
        create_model(model, pretrained=name)


def test_a_name_without_a_network_is_told_which_there_are(by_name):
    with pytest.raises(ValueError, match=r"cifar10 has weights of dsnn18, fsnn18: name one of these$"):
        find_pretrained("cifar10")


def test_what_else_a_config_says_is_passed_over(by_name, tmp_path):
    shutil.copytree(by_name / "fsnn18", tmp_path / "trained")
    path = tmp_path / "trained" / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "architectures": ["FSNN"], "torch_dtype": "float32"}))
    model = create_model("fsnn18", pretrained=tmp_path / "trained")
    assert model.config == create_model("fsnn18", pretrained="cifar10").config


# Commands


@pytest.fixture
def photo(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def test_a_photo_needs_nothing_else(weights, photo, tmp_path):
    done = command("utils.predict", photo, "--output", tmp_path)
    assert done.status == 0, done.err
    said, name, *classes, wrote = done.out.splitlines()
    assert said == f"fsnn18 from {weights / 'fsnn18'}"
    assert name == str(photo)
    about = json.loads((weights / "fsnn18" / "config.json").read_text())
    assert {line.split(" %  ")[1] for line in classes} <= set(about["classes"])
    assert len(classes) == 5
    assert wrote == f"wrote {tmp_path / 'photo_spikes.png'}"
    assert min(Image.open(tmp_path / "photo_spikes.png").size) > 300
    side = about["inputs"]["crop"]
    size = (side, int(side * 120 / 90))  # the shorter side fits, and the centre is cropped
    left = round((size[1] - side) / 2)
    with Image.open(photo) as image:
        if about["inputs"]["channels"] == 1:
            small = np.asarray(image.convert("L").resize(size[::-1], Image.Resampling.BILINEAR))[None]
        else:
            small = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())[None]
            small = torch.nn.functional.interpolate(small, size, mode="bilinear", antialias=True)[0].numpy()
    x = torch.from_numpy(small[..., left : left + side].astype(np.float32)) / 255
    mean, std = (torch.tensor(about["inputs"][name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = create_model("fsnn18", pretrained=weights.name).eval()(((x - mean) / std)[None]).softmax(1)[0]
    best = int(expected.argmax())
    assert classes[0] == f"  {100 * float(expected[best]):5.1f} %  {about['classes'][best]}"


def test_predict_takes_other_weights_by_name_and_path(by_name, photo):
    for words, used in (
        (("--model", "dsnn18"), "dsnn18"),
        (("--checkpoint", "cifar10", "--model", "dsnn18"), "dsnn18"),
        (("--checkpoint", "cifar10/dsnn18"), "dsnn18"),
        (("--checkpoint", by_name / "fsnn18"), "fsnn18"),
        (("--checkpoint", by_name / "fsnn18" / "model.safetensors"), "fsnn18"),
    ):
        done = command("utils.predict", photo, *words, "--no-pictures")
        assert done.status == 0, done.err
        assert done.out.startswith(f"{used} from {by_name / used}")


def test_no_weights_at_all_are_one_line(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(models.pretrained, "SHIPPED", tmp_path / "none")
    done = command("utils.predict", photo)
    assert (done.status, done.err) == (
        1,
        "error: there is no cifar10, neither a file nor one of the weights that come along: none\n",
    )


def test_every_command_that_takes_a_checkpoint_takes_a_name(by_name, tmp_path):
    one = ("--model", "fsnn18", "--checkpoint", "cifar10", "--images", 2)
    done = command("utils.fullspike", *one, "--size", 8)
    assert (done.status, "full-spike: yes" in done.out) == (0, True)
    assert command("utils.synops", *one, "--size", 8, "--no-syops", "--output", tmp_path / "synops").status == 0
    assert "44,550" in command("utils.summary", "--checkpoint", "cifar10/fsnn18").out
    exported = command("utils.export", *one, "--to", "c", "--output", tmp_path / "c", "--calibrate", 8)
    assert exported.status == 0, exported.err
    assert command("utils.convert_checkpoint", "cifar10/dsnn18", tmp_path / "ours.pth").status == 0
    assert checkpoint.load(tmp_path / "ours.pth")["config"]["model"] == "dsnn18"


def test_a_new_run_begins_with_weights_by_name(by_name, tmp_path):
    common = ("-j", 0, "--device", "cpu", "--epochs", 1, "--lr", 0, "--wd", 0, "--image-size", 8, "--output-dir")
    text = succeed(TRAIN, *common, tmp_path, "--initial-checkpoint", "cifar10")
    assert f"beginning with the weights of {by_name / 'dsnn18'}\n" in text
    state = checkpoint.read(only(tmp_path) / checkpoint.LATEST)
    model = create_model("dsnn18", pretrained="cifar10")
    assert all(torch.equal(state["model"][name], value) for name, value in model.named_parameters())
    assert "fsnn18: 44,550" in succeed(TRAIN, *common, tmp_path, "--initial-checkpoint", "cifar10/fsnn18")


def test_testing_says_which_inputs_the_weights_were_trained_on_if_these_are_others(by_name):
    options = ("--test-only", "--resume", "cifar10", "--device", "cpu")
    assert "warning" not in succeed(TRAIN, *options)
    text = succeed(TRAIN, *options, "--image-size", 16)
    assert "warning: the weights were trained on other inputs (resize 8 instead of 16, crop 8 instead of 16)\n" in text


def test_what_testing_makes_does_not_lie_among_the_weights(by_name, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in by_name.rglob("*")}
    options = ("--test-only", "--resume", "cifar10", "--device", "cpu", "--output-dir", tmp_path, "--name", "here")
    succeed(TRAIN, *options, "--synops", "--no-syops", "--detach")
    assert {path: path.stat().st_mtime_ns for path in by_name.rglob("*")} == before
    assert (tmp_path / "here" / "fsnn.pth").exists()
    assert (tmp_path / "here" / "synops" / "synops.json").exists()


def test_options_that_contradict_the_weights_are_one_line(by_name):
    options = ("--test-only", "--resume", "cifar10", "--device", "cpu")
    done = call(TRAIN, *options, "--T", 3)
    assert done.returncode == 2
    assert "was saved from another network (T=1 instead of 3): give the same options as then" in done.stderr
    done = call(TRAIN, "--test-only", "--resume", "cifra10")
    assert done.stderr.startswith("error: there is no cifra10, neither a file nor one of the weights that come along:")


# Installed


@pytest.fixture(scope="module")
def installed(made, tmp_path_factory):
    """The project as `pip install` has it, the made weights among its files."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if not name.startswith(("tests/", "weights/cifar10/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    shutil.copytree(made / "cifar10", source / "weights" / "cifar10")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True, timeout=300)
    shutil.rmtree(source)
    return target


@pytest.mark.slow
def test_installed_it_has_them_too(installed, made, photo, tmp_path):
    def run(*words):
        env = {**os.environ, "PYTHONPATH": str(installed)}
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import models; print(models.__file__, models.create_model('fsnn18', pretrained='cifar10').config['T'])"
    assert run("-c", code).split() == [str(installed / "models" / "__init__.py"), "1"]
    text = run("-m", "utils.commands", "predict", photo)
    assert text.startswith(f"fsnn18 from {installed / 'weights' / 'cifar10' / 'fsnn18'}\n")
    assert (tmp_path / "photo_spikes.png").exists()
    text = run("-m", "utils.commands", "test", "cifar", "--resume", "cifar10", "--device", "cpu")
    assert scores(text) == scores((made / "cifar10" / "dsnn18" / "README.md").read_text())
    shipped = {path.relative_to(made): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert shipped == {path: (installed / "weights" / path).read_bytes() for path in shipped}

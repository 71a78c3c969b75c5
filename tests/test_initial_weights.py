"""--initial-checkpoint: a new run begins with trained weights, in every process, unless it has weights of its own."""

import os
import re
import shutil
from types import SimpleNamespace

import pytest
import torch

from full_spike.models import create_model, save_pretrained, to_published
from full_spike.utils import checkpoint
from full_spike.utils.runtime.plain_yaml import read_mapping
from support import processes
from support.command import TINY, TORCHRUN, assert_same_run, launch, only, refused, run_together, succeed
from support.images import image_tree

TRAIN = "cifar.train"
SHORT = ("--image-size", "8", "-b", "256", "-j", "0", "--device", "cpu", "--epochs", "1")
NETWORK = ("--width", 4, "--T", 2, "--neuron", "IF", "--connect-f", "XOR")
STILL = ("--lr", "0", "--wd", "0")  # parameters end as they began; statistics do not


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A network of other options than the script's defaults, trained for an epoch, in every form that can be named."""
    out = tmp_path_factory.mktemp("first")
    succeed(TRAIN, *TINY, "--neuron", "IF", "--connect-f", "XOR", "--epochs", 1, "--output-dir", out / "runs")
    path = only(out / "runs") / checkpoint.LATEST
    state = checkpoint.read(path)
    model = create_model(**state["config"])
    model.load_state_dict(state["model"])
    save_pretrained(model, out / "folder")
    torch.save({"model": to_published(model)}, out / "published.pth")
    forms = {
        "checkpoint": path,
        "folder": out / "folder",
        "safetensors": out / "folder" / "model.safetensors",
        "published": out / "published.pth",
    }
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    return SimpleNamespace(path=path, forms=forms, parameters=parameters, config=state["config"])


def newest(out):
    return checkpoint.read(only(out, f"*/{checkpoint.LATEST}"))


def differing(state, parameters):
    """Names of parameters that are not these."""
    return {name for name, value in parameters.items() if not torch.equal(state["model"][name], value)}


@pytest.mark.parametrize("form", ["checkpoint", "folder", "safetensors", "published"])
def test_a_new_run_begins_with_the_weights_in_whatever_form_they_are(first, tmp_path, form):
    network = NETWORK if form == "published" else ()
    text = succeed(TRAIN, *SHORT, *STILL, *network, "--initial-checkpoint", first.forms[form], "--output-dir", tmp_path)
    assert f"\nbeginning with the weights of {first.forms[form]}\n" in text
    state = newest(tmp_path)
    assert differing(state, first.parameters) == set()
    assert state["config"] == first.config
    assert (state["epoch"], state["recipe"]["initial_checkpoint"]) == (1, str(first.forms[form]))


def test_it_trains_on_from_there_and_its_configuration_starts_it_again(first, tmp_path):
    given = ("--initial-checkpoint", first.path, "--output-dir")
    succeed(TRAIN, *SHORT, *given, tmp_path / "a")
    assert differing(newest(tmp_path / "a"), first.parameters)
    kept = only(tmp_path / "a", "*/config.yaml")
    assert read_mapping(kept, "--config")["initial_checkpoint"] == str(first.path)
    succeed(TRAIN, "--config", kept, "--output-dir", tmp_path / "b")
    assert_same_run(only(tmp_path / "a"), only(tmp_path / "b"))
    succeed(TRAIN, *SHORT, *NETWORK, "--output-dir", tmp_path / "c")
    assert differing(newest(tmp_path / "c"), newest(tmp_path / "a")["model"])


def test_what_the_command_says_of_the_network_comes_first(first, tmp_path):
    given = (*SHORT, *STILL, "--initial-checkpoint", first.path, "--output-dir", tmp_path)
    text = succeed(TRAIN, *given, "--T", 3, "--neuron", "LIF")
    assert f"beginning with the weights of {first.path}; trained with T=2, neuron=IF\n" in text
    state = newest(tmp_path)
    assert state["config"] == {**first.config, "T": 3, "neuron": "LIF"}
    assert differing(state, first.parameters) == set()


@pytest.mark.parametrize("form", ["checkpoint", "published"])
def test_a_classifier_of_another_size_begins_anew(first, tmp_path, form):
    images = image_tree(tmp_path / "images", classes=("cat", "dog"), count=4)
    data = ("--dataset", "folder", "--data-path", images, "--channels", 1)
    network = NETWORK if form == "published" else ()
    out = ("--initial-checkpoint", first.forms[form], "--output-dir", tmp_path / "out")
    assert "; the classifier of 2 classes begins with random ones\n" in succeed(
        TRAIN, *SHORT, *STILL, *data, *network, *out
    )
    state = newest(tmp_path / "out")
    assert state["model"]["fc.weight"].shape == (2, 32)
    assert differing(state, first.parameters) == {"fc.weight", "fc.bias"}


def test_a_run_with_weights_of_its_own_goes_on_with_them(first, tmp_path):
    """Also if the others are other ones by then, or gone."""
    initial = tmp_path / "initial.pth"
    shutil.copy(first.path, initial)
    common = (*SHORT, *NETWORK, "--cos_lr_T", 3, "--name", "run", "--initial-checkpoint", initial)
    succeed(TRAIN, *common, "--epochs", 3, "--output-dir", tmp_path / "whole")
    on = (*common, "--resume", "auto", "--output-dir", tmp_path / "parts")
    assert f"beginning with the weights of {initial}" in succeed(TRAIN, *on)
    state = checkpoint.load(initial)
    other = {name: value + 1 if value.is_floating_point() else value for name, value in state["model"].items()}
    checkpoint.write(initial, {"config": state["config"], "model": other})
    text = succeed(TRAIN, *on, "--epochs", 2)
    assert "epoch 2, batch 0" in text
    assert "beginning with" not in text
    initial.unlink()
    assert "epoch 3, batch 0" in succeed(TRAIN, *on, "--epochs", 3)
    assert_same_run(tmp_path / "whole" / "run", tmp_path / "parts" / "run")
    line = refused(TRAIN, *common, "--resume", "auto", "--output-dir", tmp_path / "none", status=1)
    assert f"there is no checkpoint {initial}: check the path" in line
    assert not (tmp_path / "none").exists()


def test_weights_and_a_run_that_did_not_begin_with_them_contradict_each_other(first, tmp_path):
    runs = ("--output-dir", first.path.parent.parent, "--name", first.path.parent.name)
    given = (*SHORT, "--epochs", 2, "--initial-checkpoint", first.forms["folder"])
    line = refused(TRAIN, *given, *runs, "--resume", first.path, status=2)
    assert f"--initial-checkpoint {first.forms['folder']}: {first.path} is of a run that began with random" in line
    assert "leave this option out, or --resume" in line
    copied = tmp_path / "run"
    shutil.copytree(first.path.parent, copied)
    text = succeed(TRAIN, *given, "--output-dir", tmp_path, "--name", "run", "--resume", "auto")
    assert f"warning: --initial-checkpoint {first.forms['folder']} is not used: {copied}" in text
    assert "beginning with" not in text


@pytest.mark.slow
def test_two_processes_of_torchrun_begin_alike(first, tmp_path):
    args = (*SHORT, "--initial-checkpoint", first.path)
    done = launch(
        TORCHRUN, "--nproc-per-node=2", "-m", TRAIN, *args, *STILL, "--output-dir", tmp_path / "still", timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert differing(newest(tmp_path / "still"), first.parameters) == set()
    launched = launch(TORCHRUN, "--nproc-per-node=2", "-m", TRAIN, *args, "--output-dir", tmp_path / "a", timeout=300)
    assert launched.returncode == 0, launched.stderr
    for process in run_together(TRAIN, *args, "--output-dir", tmp_path / "b"):
        assert process.returncode == 0, process.stderr
    assert_same_run(only(tmp_path / "a"), only(tmp_path / "b"))


def join(rank, folder, meeting_place, args):
    """A process that works in a folder of its own."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    os.chdir(folder)
    return cifar.train.main([str(arg) for arg in (*args, "--dist-url", meeting_place)])


def in_two_folders(tmp_path, *args):
    logs = [tmp_path / f"log{rank}" for rank in range(2)]
    url = f"file://{tmp_path}/meeting_place"
    jobs = [processes.start(join, i, tmp_path / str(i), url, args, log=logs[i]) for i in range(2)]
    for job in jobs:
        job.join(120)
    return [job.exitcode for job in jobs], [log.read_text() for log in logs]


@pytest.mark.parametrize("other", ["nothing", "other weights"])
def test_the_main_process_alone_reads_the_weights(first, tmp_path, other):
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    shutil.copy(first.path, tmp_path / "0" / "weights.pth")
    if other == "other weights":
        state = create_model(**first.config).state_dict()
        checkpoint.write(tmp_path / "1" / "weights.pth", {"config": first.config, "model": state})
    out = ("--output-dir", tmp_path / "out")
    statuses, printed = in_two_folders(tmp_path, *SHORT, *STILL, *out, "--initial-checkpoint", "weights.pth")
    assert statuses == [0, 0], printed
    assert differing(newest(tmp_path / "out"), first.parameters) == set()


def test_weights_that_the_main_process_cannot_read_stop_all(first, tmp_path):
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    shutil.copy(first.path, tmp_path / "1" / "weights.pth")
    out = ("--output-dir", tmp_path / "out")
    statuses, printed = in_two_folders(tmp_path, *SHORT, *out, "--initial-checkpoint", "weights.pth")
    assert 0 not in statuses
    assert "error: there is no checkpoint weights.pth: check the path" in printed[0]
    assert "its error says why" in printed[1]
    assert not (tmp_path / "out").exists()


def flipped(source, target):
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)


def boasting(source, target):
    state = checkpoint.load(source)
    checkpoint.write(target, {"config": {**state["config"], "width": 4096}, "model": state["model"]})


def infinite(source, target):
    state = checkpoint.load(source)
    state["model"]["fc.bias"][0] = float("inf")
    checkpoint.write(target, {name: state[name] for name in ("config", "model")})


BAD = {
    "a flipped bit": (flipped, r"is damaged \(checksum of"),
    "a file cut off": (lambda a, b: b.write_bytes(a.read_bytes()[:9000]), "is damaged or no checkpoint of torch"),
    "text": (lambda a, b: b.write_text("weights"), "holds .*not plain data|is damaged or no checkpoint"),
    "nothing": (lambda a, b: None, "there is no checkpoint .*: check the path"),
    "a claim of a larger network": (boasting, r"names a network of [\d,]+ numbers and holds [\d,]+: use another"),
    "infinite weights": (infinite, "is damaged .*not finite"),
    "a run's folder": (lambda a, b: shutil.copytree(a.parent, b), "is a folder: name a checkpoint file in it"),
}


@pytest.mark.parametrize("damage", BAD)
def test_what_cannot_be_begun_with_is_one_line_and_no_folder(first, tmp_path, damage):
    make, message = BAD[damage]
    path = tmp_path / "weights.pth"
    make(first.path, path)
    options = (*SHORT, "--output-dir", tmp_path / "out", "--initial-checkpoint", path)
    for more in ((), ("--resume", "auto")):
        line = refused(TRAIN, *options, *more, status=1)
        assert re.search(message, line), line
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("--model fsnn18", 2, "holds weights of dsnn18: leave out --model fsnn18"),
        ("--width 3", 1, "--initial-checkpoint .*this state dict does not fit dsnn18 .*of another shape"),
        ("--dataset folder --data-path {images}", 1, "reads 1 channels, and these data have 3: .*by --channels 1"),
        ("--initial-checkpoint nowhere", 1, "there is no nowhere, neither a file nor one of the weights that come"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_and_no_folder(first, tmp_path, options, status, message):
    images = image_tree(tmp_path / "images", count=2)
    given = ("--initial-checkpoint", first.path, *options.format(images=images).split())
    line = refused(TRAIN, *SHORT, "--output-dir", tmp_path / "out", *given, status=status)
    assert re.search(message, line), line
    assert not (tmp_path / "out").exists()

"""Wrong commands, checkpoints and environments: each is one line that names the value, and changes no file.

Damaged data files are in test_bad_files.py.
"""

import copy
import os

import pytest
import torch
from torch import nn

from full_spike.utils import checkpoint, fullspike, synops
from full_spike.utils.errors import run_command
from support.command import TINY, refused, succeed
from support.images import image_tree

TRAIN = "cifar.train"


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    succeed(TRAIN, *TINY, "--epochs", 1, "--output-dir", out)
    return next(out.iterdir())


def change(*path, to):
    """A function that sets the value at a path of nested content."""

    def spoil(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return spoil


def drop(name):
    return lambda content: content.pop(name)


def weight(function):
    """A function that changes the first weight."""

    def spoil(content):
        name = next(iter(content["model"]))
        content["model"][name] = function(content["model"][name])

    return spoil


# what is done to a whole checkpoint -> a part of the line; every command that reads weights refuses the first table
WEIGHTS = {
    "config list": (change("config", to=["dsnn18"]), "'config' is of type list, not a dictionary"),
    "config None": (change("config", to=None), "'config' is None, not a dictionary"),
    "config missing": (drop("config"), "it has no 'config'"),
    "config without model": (change("config", to={"T": 2}), "'config' names no model"),
    "model list": (change("model", to=[1]), "'model' is of type list"),
    "model missing": (drop("model"), "it has no 'model'"),
    "model empty": (change("model", to={}), "'model' is empty"),
    "weight text": (weight(lambda w: "0.5"), "which is of type str, not a tensor"),
    "weight complex": (weight(lambda w: w.to(torch.complex64)), "not of real numbers"),
    "weight sparse": (weight(lambda w: w.flatten(1).to_sparse()), "not of real numbers"),
    "weight nan": (weight(lambda w: w * float("nan")), "holds numbers that are not finite"),
    "weight inf": (weight(lambda w: w + float("inf")), "holds numbers that are not finite"),
    "variance nan": (
        lambda c: c["model"].update({"bn1.running_var": torch.full((4,), float("nan"))}),
        "which holds numbers that are not finite",
    ),
    "weight expanded": (weight(lambda w: torch.zeros(1).expand(10**12)), "claims 1,000,000,000,000 numbers"),
    "weight of another shape": (weight(lambda w: w[..., :1]), "conv1.weight"),
    "weight missing": (lambda c: c["model"].pop(next(iter(c["model"]))), "conv1.weight"),
    "version text": (change("format", "version", to="abc"), "its format version is 'abc'"),
    "version None": (change("format", "version", to=None), "its format version is None"),
    "version newer": (change("format", "version", to=99), "format version 99"),
    "another program": (change("format", "name", to="timm"), "another program"),
    "format text": (change("format", to="1"), "another program"),
    "config of another network": (change("config", "width", to=64), "width=64 instead of 4"),
}

RUN = {
    "epoch negative": (change("epoch", to=-5), "'epoch' is -5, outside"),
    "epoch text": (change("epoch", to="3"), "'epoch' is of type str"),
    "step huge": (change("step", to=10**10), "'step' is 10000000000, outside"),
    "step beyond the epoch": (change("step", to=10**6), "batch 1000000"),
    "accuracy nan": (change("max_test_acc1", to=float("nan")), "'max_test_acc1' is nan"),
    "meter missing": (drop("meter"), "it has no 'meter'"),
    "meter of another shape": (change("meter", to=torch.zeros(2, 3)), "'meter' has the shape (2, 3)"),
    "meter of other readouts": (change("meter", to=torch.zeros(2, 4)), "does not fit this run"),
    "optimizer list": (change("optimizer", to=[]), "'optimizer' is of type list"),
    "optimizer empty": (change("optimizer", to={}), "has no state or no groups"),
    "optimizer of fewer weights": (change("optimizer", "param_groups", 0, "params", to=[0]), "does not fit this run"),
    "optimizer nan": (change("optimizer", "state", 0, "momentum_buffer", to=torch.tensor(float("nan"))), "not finite"),
    "momentum of another shape": (
        change("optimizer", "state", 0, "momentum_buffer", to=torch.zeros(3)),
        "does not fit this run",
    ),
    "schedule None": (change("lr_scheduler", to=None), "'lr_scheduler' is None"),
    "scaler missing": (drop("scaler"), "it has no 'scaler'"),
    "ema list": (change("ema", to=[]), "'ema' is of type list"),
    "random states": (change("random_states", to=[]), "'random_states' is no list of states"),
    "random states short": (
        change("random_states", to=[torch.zeros(3, dtype=torch.uint8)]),
        "does not fit this run",
    ),
    "world size": (change("world_size", to=0), "'world_size' is 0"),
    "recipe": (change("recipe", to="sgd"), "'recipe' is of type str"),
}


def spoilt(run_folder, target, spoil):
    content = copy.deepcopy(checkpoint.load(run_folder / checkpoint.LATEST))
    spoil(content)
    torch.save(content, target)
    return target


@pytest.mark.parametrize("name", {**WEIGHTS, **RUN})
def test_a_checkpoint_that_cannot_be_resumed_is_one_line(run_folder, tmp_path, name):
    spoil, message = {**WEIGHTS, **RUN}[name]
    path = spoilt(run_folder, tmp_path / "x.pth", spoil)
    status = 2 if "instead of" in message else 1
    line = refused(TRAIN, *TINY, "--epochs", 2, "--output-dir", tmp_path / "out", "--resume", path, status=status)
    assert message in line
    assert set(files(tmp_path)) == {path.relative_to(tmp_path)}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_cannot_be_used_are_one_line_to_every_command(run_folder, tmp_path, capsys, name):
    spoil, message = WEIGHTS[name]
    path = spoilt(run_folder, tmp_path / "x.pth", spoil)
    before = files(tmp_path)
    commands = [lambda: synops.main([*arguments, "--output", str(tmp_path)]), lambda: fullspike.main(arguments)]
    arguments = ["--model", "dsnn18", "--checkpoint", str(path), "--images", "2"]
    if name in ("config of another network", "weight of another shape", "weight missing"):
        # the config is believed as far as the weights bear it out
        message = "names a network of"
    for command in commands:
        assert run_command(command) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    status = 2 if name == "config of another network" else 1
    line = refused(TRAIN, *TINY, "--test-only", "--resume", path, "--output-dir", tmp_path, status=status)
    assert WEIGHTS[name][1] in line
    assert files(tmp_path) == before


def test_auto_falls_back_from_a_malformed_checkpoint(run_folder, tmp_path):
    folder = tmp_path / run_folder.name
    folder.mkdir()
    spoilt(run_folder, folder / checkpoint.LATEST, change("format", "version", to="abc"))
    spoilt(run_folder, folder / checkpoint.PREVIOUS, lambda content: None)
    text = succeed(TRAIN, *TINY, "--epochs", 1, "--output-dir", tmp_path, "--resume", "auto")
    assert "passed over" in text
    assert f"resumed from {folder / checkpoint.PREVIOUS}: epoch 2, batch 0" in text


def test_checkpoints_that_are_kept_are_copies(run_folder):
    inodes = {p.stat().st_ino for p in run_folder.glob("*.pth")}
    assert len(inodes) == len(list(run_folder.glob("*.pth"))) > 2


def test_an_overwritten_run_stays_until_the_new_one_has_saved(run_folder, tmp_path):
    root = image_tree(tmp_path / "data")
    options = (*TINY, "--dataset", "folder", "--data-path", root, "--output-dir", tmp_path / "out")
    succeed(TRAIN, *options, "--epochs", 1)
    folder = next((tmp_path / "out").iterdir())
    old = {p.name: p.read_bytes() for p in folder.glob("*.pth")}
    (root / "train" / "cat" / "1.jpg").write_bytes(b"no picture")
    assert "cannot read the image" in refused(TRAIN, *options, "--epochs", 1, "--overwrite", status=1)
    assert {p.name: p.read_bytes() for p in (folder / "overwritten").glob("*.pth")} == old
    assert not list(folder.glob("*.pth"))
    os.remove(root / "train" / "cat" / "1.jpg")
    succeed(TRAIN, *options, "--epochs", 1, "--overwrite")
    assert not (folder / "overwritten").exists()


def test_another_runs_checkpoint_does_not_replace_the_run_that_is_there(run_folder, tmp_path):
    succeed(TRAIN, *TINY, "--epochs", 2, "--cos_lr_T", 1, "--output-dir", tmp_path)
    before = files(tmp_path)
    options = (*TINY, "--epochs", 3, "--cos_lr_T", 1, "--output-dir", tmp_path)
    line = refused(TRAIN, *options, "--resume", run_folder / checkpoint.LATEST, status=2)
    assert "holds a run already" in line
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: os.mkfifo(path), "is no regular file"),
        (lambda path: os.symlink("/dev/zero", path), "is no regular file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "damaged or no checkpoint"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "damaged or no checkpoint"),
        (lambda path: torch.save(nn.Linear(1, 1), path), "could run code"),
        (lambda path: torch.save({"fc.weight": 3}, path), "holds no weights"),
        (lambda path: torch.save(torch.zeros(3), path), "not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(tmp_path, make, message):
    path = tmp_path / "x.pth"
    make(path)
    line = refused(TRAIN, *TINY, "--test-only", "--resume", path, "--output-dir", tmp_path, status=1)
    assert message in line
    assert len(line) < 400


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "abc"}, "RANK='abc'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1'"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE=''"),
        ({"RANK": "7", "WORLD_SIZE": "2"}, "RANK=7 is not below WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "abc"}, "LOCAL_RANK='abc'"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "abc"}, "SLURM_NTASKS='abc'"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}, "MASTER_PORT"),
    ],
)
def test_a_wrong_environment_is_one_line(tmp_path, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    line = refused(TRAIN, *TINY, "--output-dir", tmp_path, status=1)
    assert message in line
    assert not files(tmp_path)


def test_weights_that_the_last_step_spoilt_are_not_saved(tmp_path):
    """One batch is the epoch, so no loss has been seen of them."""
    options = (*TINY, "-b", 2000, "--epochs", 2, "--lr", "1e38", "--wd", 1000, "--output-dir", tmp_path)
    line = refused(TRAIN, *options, status=1)
    assert "not saved after epoch 1, batch 0, since 'model' has" in line
    assert "lower --lr" in line
    assert not list(tmp_path.rglob("*.pth*"))

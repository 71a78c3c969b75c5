"""dvsgesture/train.py and cifar10dvs/train.py, from recordings to checkpoints and back."""

import json
import shutil

import pytest
import torch

from full_spike.models import create_model, detach_aap
from full_spike.utils import checkpoint
from full_spike.utils.checkpoints.weights import read_weights
from support.command import assert_same_run, call, only, refused, run, run_together, succeed
from support.events import classes, gestures

TINY = ("--width", 4, "--T", 4, "--frame-size", 16, "-b", 16, "-j", 0, "--device", "cpu")
SCRIPTS = {"dvsgesture": gestures, "cifar10dvs": classes}
COUNTS = {"dvsgesture": (40, 10), "cifar10dvs": (113, 7)}


@pytest.fixture(scope="module", params=SCRIPTS)
def trained(request, tmp_path_factory):
    """(data set, its originals, the folder of a run of two epochs, what it printed)."""
    name = request.param
    root = SCRIPTS[name](tmp_path_factory.mktemp(name))
    out = tmp_path_factory.mktemp("trained")
    text = succeed(f"{name}.train", *TINY, "--data-path", root, "--epochs", 2, "--tb", "--output-dir", out)
    return name, root, only(out, f"*{name_of_model(name)}*4"), text


def name_of_model(name):
    return {"dvsgesture": "dsnn_7b", "cifar10dvs": "dsnn_wide7b"}[name]


def entries(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def row(text, readout):
    return next(line.split() for line in text.splitlines() if line.startswith(f"{readout} "))


def test_a_run_from_recordings_to_a_checkpoint(trained):
    name, _, folder, text = trained
    train, test = COUNTS[name]
    assert f"{train} training and {test} test samples of 10 classes" in text
    assert "samples/s" in text
    assert "images" not in text
    schedule = {"dvsgesture": "steplr64_0.1", "cifar10dvs": "coslr2"}[name]
    data = {"dvsgesture": "digits-dvs_16px_Ttrain3", "cifar10dvs": "digits-dvs_16px"}[name]
    lr = {"dvsgesture": "0.001", "cifar10dvs": "0.01"}[name]
    assert folder.name == f"{data}_{name_of_model(name)}_b16_lr{lr}_T4_{schedule}_sgd_cnf_OR_width4"
    found = entries(folder)
    assert all(score["count"] == test for entry in found for score in entry["test"].values())
    assert all(score["count"] == train for entry in found for score in entry["train"].values())
    recipe = checkpoint.read(folder / checkpoint.LATEST)["recipe"]
    T_train = {"dvsgesture": 3, "cifar10dvs": 4}[name]
    assert {"dataset": "digits-dvs", "T_train": T_train, "frame_size": 16, "augment": ""}.items() <= recipe.items()


def test_evaluating_and_detaching(trained):
    name, root, folder, _ = trained
    options = (*TINY, "--data-path", root, "--epochs", 2, "--output-dir", folder.parent, "--test-only")
    text = succeed(f"{name}.train", *options, "--resume", "auto")
    last = entries(folder)[-1]["test"]
    assert "samples" in text
    for readout in ("fsnn", "aap", "sum"):
        scores = last[readout]
        expected = [f"{scores['acc1']:.2f}", f"{scores['acc5']:.2f}", f"{scores['loss']:.4f}", str(scores["count"])]
        assert row(text, readout)[1:] == expected

    text = succeed(f"{name}.train", *options, "--resume", "auto", "--detach")
    assert row(text, "output")[1:3] == [f"{last['fsnn']['acc1']:.2f}", f"{last['fsnn']['acc5']:.2f}"]
    config, state = read_weights(folder / "fsnn.pth")
    dual = create_model(**{**config, "model": name_of_model(name)})
    dual.load_state_dict(checkpoint.read(folder / checkpoint.LATEST)["model"])
    assert all(torch.equal(state[key], value) for key, value in detach_aap(dual).state_dict().items())


def test_resuming_gives_the_weights_of_a_run_that_never_stopped(trained, tmp_path):
    """With frames drawn and changed at random, and with another number of loading processes."""
    name, root, *_ = trained
    options = (*TINY, "--data-path", root, "--epochs", 2, "--augment", "nda", "--T-train", 3, "--cos_lr_T", 2)
    succeed(f"{name}.train", *options, "--output-dir", tmp_path / "whole")
    succeed(f"{name}.train", *options, "--epochs", 1, "--output-dir", tmp_path / "parts")
    text = succeed(f"{name}.train", *options, "-j", 2, "--output-dir", tmp_path / "parts", "--resume", "auto", how=run)
    assert "epoch 2, batch 0" in text
    folder = only(tmp_path / "parts")
    assert folder.name.startswith("digits-dvs_16px_Ttrain3_nda_dsnn")
    assert_same_run(only(tmp_path / "whole"), folder)


def test_the_learning_rate_falls_in_steps(trained, tmp_path):
    name, root, *_ = trained
    options = (*TINY, "--data-path", root, "--lr-scheduler", "step", "--step-size", 2, "--gamma", 0.5, "--lr", 0.4)
    succeed(f"{name}.train", *options, "--epochs", 3, "--output-dir", tmp_path)
    succeed(f"{name}.train", *options, "--epochs", 5, "--output-dir", tmp_path, "--resume", "auto")
    folder = only(tmp_path)
    assert "_steplr2_0.5_" in folder.name
    assert [entry["lr"] for entry in entries(folder)] == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1])
    latest = folder / checkpoint.LATEST
    line = refused(
        f"{name}.train", *options, "--lr-scheduler", "cosine", "--epochs", 6, "--resume", latest, "--output-dir",
        tmp_path / "other", status=2,
    )  # fmt: skip
    assert "is of a run with --lr-scheduler step: use the same" in line


def test_several_processes_prepare_once_train_and_score_each_sample_once(trained, tmp_path):
    name, root, *_ = trained
    shutil.copytree(root / "extract", tmp_path / "data" / "extract")
    train, test = COUNTS[name]
    options = (*TINY, "-b", 8, "--data-path", tmp_path / "data", "--epochs", 1, "--output-dir", tmp_path / "out")
    first, second = run_together(f"{name}.train", *options)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout.count("converted to") == 2
    assert first.stdout.count(f"{train} training and {test} test samples") == 1
    assert second.stdout == ""
    folder = only(tmp_path / "out")
    (entry,) = entries(folder)
    assert all(score["count"] == test for score in entry["test"].values())
    again = succeed(f"{name}.train", *options, "--test-only", "--resume", "auto")
    assert row(again, "sum")[1] == f"{entry['test']['sum']['acc1']:.2f}"
    assert float(row(again, "sum")[3]) == pytest.approx(entry["test"]["sum"]["loss"], abs=2e-4)


@pytest.mark.parametrize("name", SCRIPTS)
def test_originals_that_are_damaged_end_every_process_in_one_line(tmp_path, name):
    root = SCRIPTS[name](tmp_path / "data")
    path = sorted(root.rglob("*.aedat"))[3]
    path.write_bytes(path.read_bytes()[:-3])
    options = (*TINY, "--data-path", root, "--output-dir", tmp_path / "out")
    one = refused(f"{name}.train", *options, status=1)
    assert f"{path} is cut off" in one
    assert not (tmp_path / "out").exists()
    if name == "cifar10dvs":  # all below is shared
        return
    first, second = run_together(f"{name}.train", *options)
    assert first.stderr.splitlines()[-1] == one
    assert second.stderr.splitlines()[-1].startswith("error on rank 1: ")
    assert first.returncode == second.returncode == 1
    assert not (tmp_path / "out").exists()


def test_a_sample_that_is_damaged_ends_a_run_in_one_line(trained, tmp_path):
    name, root, *_ = trained
    data = shutil.copytree(root, tmp_path / "data")
    path = sorted((data / "full-spike" / "frames_T4_16x16").rglob("*.npz"))[-1]
    path.write_bytes(bytes(path.stat().st_size))
    options = (*TINY, "-j", 2, "--data-path", data, "--epochs", 1, "--output-dir", tmp_path / "out")
    line = refused(f"{name}.train", *options, status=1, how=run)
    assert f"{path} is damaged" in line


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--model", "dsnn_8b"), "model='dsnn_8b' is unknown: did you mean dsnn_7b"),
        (("--lr-scheduler", "poly"), "invalid choice: 'poly' (choose from"),
        (("--frame-size", "100"), "--frame-size 100 does not divide 128"),
        (("--T", "4", "--T-train", "5"), "--T-train 5 is above --T 4"),
        (("--augment", "mixup"), "--augment 'mixup' is unknown"),
        (("--dataset", "mnist"), "--dataset 'mnist' is unknown: choose one of"),
    ],
)
def test_wrong_usage_is_one_line_before_anything_is_made(tmp_path, name, args, message):
    line = refused(f"{name}.train", "--device", "cpu", "--data-path", tmp_path / "data", *args, status=2)
    assert message in line
    assert not (tmp_path / "data").exists()


def test_the_published_recipes_are_the_defaults():
    from full_spike.cifar10dvs.train import parser as wide
    from full_spike.dvsgesture.train import parser as gesture

    config = gesture.parse([])
    recipe = config.recipe
    assert (config.network.model, config.network.T, config.data.batch_size) == ("dsnn_7b", 16, 16)
    assert (recipe.lr, recipe.epochs, recipe.lr_scheduler) == (1e-3, 192, "step")
    assert (recipe.step_size, recipe.gamma, recipe.weight_decay) == (64, 0.1, 0.0)
    config = wide.parse([])
    recipe = config.recipe
    assert (config.network.model, config.network.T, config.data.batch_size) == ("dsnn_wide7b", 16, 16)
    assert (recipe.lr, recipe.epochs, recipe.lr_scheduler) == (0.01, 64, "cosine")
    assert (recipe.optimizer, recipe.weight_decay, recipe.momentum, recipe.amp) == ("sgd", 0.0, 0.9, False)


def test_digits_are_kept_where_caches_are(tmp_path, monkeypatch):
    from full_spike.utils.data.events import simulated as digit_events

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dvsgesture.data.write_as_gestures", lambda *a: digit_events.write_as_gestures(*a, count=16))
    done = call("dvsgesture.train", *TINY, "--epochs", 1, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cache/full-spike/digits-dvs/dvsgesture/extract/DvsGesture/trials_to_test.txt").exists()


def test_counting_a_trained_network(trained):
    name, root, folder, _ = trained
    options = (*TINY, "--data-path", root, "--epochs", 2, "--output-dir", folder.parent, "--test-only")
    text = succeed(f"{name}.train", *options, "--resume", "auto", "--synops", "--no-syops")
    assert "AAP kept" in text
    counted = json.loads((folder / "synops" / "synops.json").read_text())
    assert counted["rates_are_real"]
    assert [n["network"] for n in counted["networks"]] == [
        f"{name_of_model(name)} OR, AAP {x}" for x in ("kept", "detached")
    ]


@pytest.mark.slow
def test_the_quick_start_learns_digits_from_events(tmp_path, monkeypatch):
    """3 of its 24 epochs, without compiled neurons: from 80.0 to 82.2 % on three seeds, where chance is 10 %."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = "--frame-size 16 --T 4 --T-train 4 -b 32 --lr 0.1 --lr-scheduler cosine --epochs 3 -j 0 --device cpu"
    text = succeed("dvsgesture.train", *options.split(), "--output-dir", tmp_path / "out")
    assert "1437 training and 360 test samples of 10 classes" in text
    (*_, last) = entries(only(tmp_path / "out"))
    assert last["test"]["sum"]["acc1"] >= 70.0

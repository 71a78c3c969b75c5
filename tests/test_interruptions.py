"""Runs killed by real signals at random moments, checkpoint writes included, end with the weights of a quiet run."""

import random
import time

import processes
import pytest
import torch
from images import imagenet_tree

import imagenet.train
from utils.train import checkpoint

ARGS = (
    "--train-crop-size 16 --val-resize-size 18 --val-crop-size 16 --width 4 --T 2 -b 4 -j 0 --device cpu "
    "--epochs 3 --cos_lr_T 3 --checkpoint-every 1 --ema-decay 0.9 --print-freq 2"
).split()


def start(args, output):
    """A run, in a process of its own."""
    return processes.start(imagenet.train.main, [str(a) for a in args], log=output)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """(the data, how long a run takes, its newest checkpoint), never interrupted."""
    root = tmp_path_factory.mktemp("quiet")
    data = imagenet_tree(root / "data", count=6)
    args = (*ARGS, "--data-path", data, "--output-dir", root / "out")
    for seconds in (0.0, 1.0):  # the first one also starts the server
        began = time.monotonic()
        process = start((*args, *(["--overwrite"] if seconds else [])), root / "log")
        process.join(120)
        assert process.exitcode == 0, (root / "log").read_text()
        seconds = time.monotonic() - began
    (folder,) = (root / "out").iterdir()
    return data, seconds, checkpoint.read(folder / checkpoint.LATEST)


def finish(data, out, log, kill, limit=80):
    """Run, interrupted by `kill(process, attempt)`, and resume until it is through; returns how often that was."""
    for attempt in range(limit):
        process = start((*ARGS, "--data-path", data, "--output-dir", out, "--resume", "auto"), log)
        kill(process, attempt)
        process.join(120)
        if process.exitcode == 0:
            return attempt
        assert process.exitcode == -9, log.read_text()
        for path in out.glob("*/*.pth"):  # whatever carries a checkpoint's name is whole, at any moment
            checkpoint.read(path)
    raise AssertionError(f"not through after {limit} attempts: {log.read_text()}")


def assert_equal(ours, theirs):
    for part in ("model", "ema"):
        assert all(torch.equal(ours[part][key], theirs[part][key]) for key in theirs[part])
    for key, state in theirs["optimizer"]["state"].items():
        assert all(torch.equal(state[name], ours["optimizer"]["state"][key][name]) for name in state)
    for name in ("epoch", "step", "max_test_acc1", "test_acc5_at_max_test_acc1", "lr_scheduler"):
        assert ours[name] == theirs[name]
    assert all(torch.equal(a, b) for a, b in zip(ours["random_states"], theirs["random_states"], strict=True))


def test_killed_at_random_moments(quiet, tmp_path):
    data, seconds, expected = quiet
    chance = random.Random(3)

    def kill(process, attempt):
        if attempt < 14:
            process.join(chance.uniform(0.02, 0.4 * seconds))
            process.kill()

    killed = finish(data, tmp_path / "out", tmp_path / "log", kill)
    assert killed >= 10
    (folder,) = (tmp_path / "out").iterdir()
    assert_equal(checkpoint.read(folder / checkpoint.LATEST), expected)


def test_killed_while_writing_checkpoints(quiet, tmp_path):
    """The kill comes when the partial file of a checkpoint is there, so inside its write."""
    data, _, expected = quiet
    out = tmp_path / "out"
    left_over = []

    def kill(process, attempt):
        if attempt >= 14:
            return
        for path in out.glob("*/*.partial"):
            path.unlink()
        while process.is_alive():
            if list(out.glob(f"*/{checkpoint.LATEST}.partial")):
                process.kill()
                process.join()
                left_over.extend(out.glob(f"*/{checkpoint.LATEST}.partial"))
                return

    killed = finish(data, out, tmp_path / "log", kill)
    assert killed >= 10
    assert len(left_over) >= 5  # the others were killed just after the rename
    (folder,) = out.iterdir()
    assert_equal(checkpoint.read(folder / checkpoint.LATEST), expected)


def test_the_log_shows_resuming_inside_and_between_epochs(quiet, tmp_path):
    """Guards the tests above: kills do land inside epochs, and a run goes on from there."""
    data, _, expected = quiet
    out = tmp_path / "out"

    def kill(process, attempt):
        while attempt == 0 and process.is_alive():
            for path in out.glob(f"*/{checkpoint.LATEST}"):
                if checkpoint.read(path)["step"] == 2:
                    process.kill()
                    return

    assert finish(data, out, tmp_path / "log", kill) == 1
    log = (tmp_path / "log").read_text()
    resumed = next(line for line in log.splitlines() if line.startswith("resumed from"))
    assert not resumed.endswith("batch 0")
    (folder,) = out.iterdir()
    assert_equal(checkpoint.read(folder / checkpoint.LATEST), expected)

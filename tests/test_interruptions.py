"""Runs that the system ends at random moments, also inside checkpoint writes, end with the weights of a quiet run.

The moments are counted in processor time and in bytes, so that a busy machine shifts none of them.
"""

import random
import resource
import signal
import sys
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


def train(args, seconds):
    """A run, which notes how much processor time it took."""
    began = time.process_time()
    status = imagenet.train.main(args)
    seconds.write_text(str(time.process_time() - began))
    return status


def train_until(args, seconds):
    """A run that is killed after so much processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends a process that does not handle it
    return imagenet.train.main(args)


def train_until_write(args, number, size):
    """A run that is killed in its `number`-th write of a checkpoint, when the file has this size."""
    writes = 0

    def limit(event, arguments):
        nonlocal writes
        if event == "open" and str(arguments[0]).endswith(f"{checkpoint.LATEST}.partial") and arguments[1] == "w":
            writes += 1
            if writes == number:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    sys.addaudithook(limit)
    return imagenet.train.main(args)


KILLED = {-signal.SIGPROF, -signal.SIGXFSZ}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """(the data, how much processor time a run takes, its newest checkpoint, that one's size), never interrupted."""
    root = tmp_path_factory.mktemp("quiet")
    data = imagenet_tree(root / "data", count=6)
    args = [*ARGS, "--data-path", str(data), "--output-dir", str(root / "out")]
    process = processes.start(train, args, root / "seconds", log=root / "log")
    process.join(120)
    assert process.exitcode == 0, (root / "log").read_text()
    (path,) = (root / "out").glob(f"*/{checkpoint.LATEST}")
    return data, float((root / "seconds").read_text()), checkpoint.read(path), path.stat().st_size


def attempt(function, data, root, *how):
    """A run that goes on where the last one was killed; whether it came through."""
    args = [*ARGS, "--data-path", str(data), "--output-dir", str(root / "out"), "--resume", "auto"]
    process = processes.start(function, args, *how, log=root / "log")
    process.join(120)
    assert process.exitcode in {0, *KILLED}, (root / "log").read_text()
    for path in (root / "out").glob("*/*.pth"):  # whatever carries a checkpoint's name is whole, at any moment
        checkpoint.read(path)
    return process.exitcode == 0


def newest(root):
    (folder,) = (root / "out").iterdir()
    return checkpoint.read(folder / checkpoint.LATEST)


def assert_equal(ours, theirs):
    for part in ("model", "ema"):
        assert all(torch.equal(ours[part][key], theirs[part][key]) for key in theirs[part])
    for key, state in theirs["optimizer"]["state"].items():
        assert all(torch.equal(state[name], ours["optimizer"]["state"][key][name]) for name in state)
    for name in ("epoch", "step", "max_test_acc1", "test_acc5_at_max_test_acc1", "lr_scheduler"):
        assert ours[name] == theirs[name]
    assert all(torch.equal(a, b) for a, b in zip(ours["random_states"], theirs["random_states"], strict=True))


def test_killed_at_random_moments(quiet, tmp_path):
    data, seconds, expected, _ = quiet
    chance = random.Random(3)
    killed = runs = 0
    while killed < 14:  # a run that comes through before is followed by another one
        root = tmp_path / str(runs)
        root.mkdir()
        runs += 1
        while killed < 14 and not attempt(train_until, data, root, chance.uniform(0.02, 0.4) * seconds):
            killed += 1
        attempt(train_until, data, root, 0.0)
        assert_equal(newest(root), expected)


def test_killed_while_writing_checkpoints(quiet, tmp_path):
    data, _, expected, size = quiet
    chance = random.Random(4)
    for killed in range(14):
        number = chance.randint(1, 2)  # so that a run of fifteen steps is not through too soon
        assert not attempt(train_until_write, data, tmp_path, number, chance.randrange(size))
        assert len(list(tmp_path.glob(f"out/*/{checkpoint.LATEST}.partial"))) == 1, killed
    assert attempt(train_until, data, tmp_path, 0.0)
    assert_equal(newest(tmp_path), expected)


def test_the_log_shows_resuming_inside_and_between_epochs(quiet, tmp_path):
    """Guards the tests above: kills do land inside epochs, and a run goes on from there."""
    data, _, expected, _ = quiet
    assert not attempt(train_until_write, data, tmp_path, 3, 1000)
    assert not attempt(train_until_write, data, tmp_path, 4, 1000)
    assert attempt(train_until, data, tmp_path, 0.0)
    resumed = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("resumed from")]
    assert [line.partition(": ")[2] for line in resumed] == ["epoch 1, batch 2", "epoch 2, batch 0"]
    assert_equal(newest(tmp_path), expected)

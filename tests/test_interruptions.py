"""Runs killed by real signals at random moments, checkpoint writes included, end with the weights of a quiet run."""

import random
import resource
import signal
import sys
import time
from functools import partial

import pytest
import torch

from full_spike.utils import checkpoint
from support import processes
from support.command import only
from support.images import imagenet_tree

ARGS = (
    "--train-crop-size 16 --val-resize-size 18 --val-crop-size 16 --width 4 --T 2 -b 4 -j 0 --device cpu "
    "--epochs 3 --cos_lr_T 3 --checkpoint-every 1 --ema-decay 0.9 --print-freq 2"
).split()

# A transformer, in mixed precision, and the options of transformers' recipes together
MIXED = (
    "--model ds_spikformer_2_384 --width 16 --heads 2 --depth 1 --patch 4 --amp "
    "--optimizer adamw --lr 0.01 --decay-weights-only --clip-grad-norm 0.5 --label-smoothing 0.1 --hflip 0.3 "
    "--aa randaugment --random-erase 0.5 --mixup 0.8 --cutmix 1 --mixup-off-epoch 2 "
    "--lr-scheduler cosine-timm --sched-on-updates --warmup-epochs 1 --warmup-lr 1e-4 --min-lr 1e-3 "
    "--cooldown-epochs 1 --cos_lr_T 2"
)


def run_until(write, size, args):
    """A run that the kernel kills once its checkpoint number `write` has grown to `size` bytes."""
    opened = 0

    def watch(event, details):
        nonlocal opened
        if event == "open" and str(details[0]).endswith(f"{checkpoint.LATEST}.partial") and "w" in (details[1] or ""):
            opened += 1
            if opened == write:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.RLIM_INFINITY))
    sys.addaudithook(watch)
    return imagenet.train.main(args)


def start(args, output, until=None):
    """A run, in a process of its own, perhaps killed in a write: (number of the checkpoint, bytes)."""
    function = imagenet.train.main if until is None else partial(run_until, *until)
    return processes.start(function, [str(a) for a in args], log=output)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory, request):
    """(the data, how long a run takes, the path of its newest checkpoint), never interrupted.

    With other options if the test says so.
    """
    root = tmp_path_factory.mktemp("quiet")
    data = imagenet_tree(root / "data", count=6)
    args = (*ARGS, *getattr(request, "param", "").split(), "--data-path", data, "--output-dir", root / "out")
    for seconds in (0.0, 1.0):  # the first one also starts the server
        began = time.monotonic()
        process = start((*args, *(["--overwrite"] if seconds else [])), root / "log")
        process.join(120)
        assert process.exitcode == 0, (root / "log").read_text()
        seconds = time.monotonic() - began
    return data, seconds, only(root / "out") / checkpoint.LATEST


def resume(data, out, log, until=None, options=""):
    return start((*ARGS, *options.split(), "--data-path", data, "--output-dir", out, "--resume", "auto"), log, until)


def assert_killed(process, by, out, log):
    """It was, and whatever carries a checkpoint's name is whole."""
    process.join(120)
    assert process.exitcode == -by, log.read_text()
    for path in out.glob("*/*.pth"):
        checkpoint.read(path)


def assert_ends_alike(process, out, log, expected):
    """The run is through, with what one that nothing interrupted has."""
    process.join(120)
    assert process.exitcode == 0, log.read_text()
    ours, theirs = checkpoint.read(only(out) / checkpoint.LATEST), checkpoint.read(expected)
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
    killed = runs = 0
    while killed < 14:  # where the machine is faster than for the quiet run, it takes another run to kill it so often
        runs += 1
        out, log = tmp_path / f"out{runs}", tmp_path / f"log{runs}"
        through = False
        while killed < 14 and not through:
            process = resume(data, out, log)
            process.join(chance.uniform(0.02, 0.4 * seconds))
            process.kill()
            process.join()
            through = process.exitcode == 0
            if not through:
                assert_killed(process, signal.SIGKILL, out, log)
                killed += 1
        assert_ends_alike(resume(data, out, log), out, log, expected)


def test_killed_while_writing_checkpoints(quiet, tmp_path):
    """At the first byte, at the last one and between, of the first write of a process and of its second one."""
    data, _, expected = quiet
    out, log = tmp_path / "out", tmp_path / "log"
    size = expected.stat().st_size
    for i, share in enumerate((0.0, 0.01, 0.2, 0.4, 0.6, 0.8, 0.95, 0.99)):
        written = int(share * size)
        assert_killed(resume(data, out, log, (1 + i % 2, written)), signal.SIGXFSZ, out, log)
        left = out.glob(f"*/{checkpoint.LATEST}.partial")
        assert [path.stat().st_size for path in left] == [written]
    assert_ends_alike(resume(data, out, log), out, log, expected)


def test_a_run_goes_on_inside_an_epoch(quiet, tmp_path):
    """Guards the tests above: kills do land inside epochs, and a run goes on from there."""
    data, _, expected = quiet
    out, log = tmp_path / "out", tmp_path / "log"
    assert_killed(resume(data, out, log, (3, 0)), signal.SIGXFSZ, out, log)
    assert_ends_alike(resume(data, out, log), out, log, expected)
    (line,) = (line for line in log.read_text().splitlines() if line.startswith("resumed from"))
    assert line.endswith("epoch 1, batch 2")


@pytest.mark.parametrize("quiet", [MIXED], indirect=True)
def test_a_transformers_recipe_goes_on_inside_epochs(quiet, tmp_path):
    """Mixing, erasing, clipping, a warm-up and a cosine in steps; after the second kill with two loading processes."""
    data, _, expected = quiet
    out, log = tmp_path / "out", tmp_path / "log"
    assert_killed(resume(data, out, log, (3, 0), MIXED), signal.SIGXFSZ, out, log)
    assert_killed(resume(data, out, log, (7, 0), MIXED), signal.SIGXFSZ, out, log)
    assert_ends_alike(resume(data, out, log, options=f"{MIXED} -j 2"), out, log, expected)
    first, second = (line for line in log.read_text().splitlines() if line.startswith("resumed from"))
    assert first.endswith("epoch 1, batch 2")
    assert second.endswith("epoch 2, batch 3")

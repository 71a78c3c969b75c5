"""A scheduler's signal while an epoch's weights are tested is answered at once, and nothing is trained twice."""

import json
import os
import signal

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from full_spike.utils import checkpoint
from support import processes
from support.command import only
from support.images import imagenet_tree

BATCHES = 5  # of each process in an epoch's training, and (without the last one for process 1 of 2) in a test
ARGS = (
    "--train-crop-size 16 --val-resize-size 16 --val-crop-size 16 --width 4 --T 2 -j 0 --device cpu --epochs 2 "
    "--cos_lr_T 2 --ema-decay 0.9 --checkpoint-every 2 --resume auto"
).split()


def train(rank, size, meeting_place, args, signalled, calls):
    """A process of a run that gets SIGUSR1 in its `signalled`-th test batch (0: never); notes its calls of the network.

    An epoch's test batches are counted through, those of the averaged weights after those of the weights.
    """
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    tested = 0

    def count(module, *_):
        nonlocal tested
        if hasattr(module, "config") and isinstance(module, torch.nn.Module):
            with open(calls, "a") as file:
                file.write("train\n" if module.training else "test\n")
            tested += not module.training
            if tested == signalled and not module.training:
                os.kill(os.getpid(), signal.SIGUSR1)

    register_module_forward_hook(count)
    return imagenet.train.main([*args, "--dist-url", meeting_place])


def run(root, data, *, size, signals=(0, 0)):
    """A run of `size` processes: (their statuses, what the main one printed)."""
    attempt = len(list(root.glob("log*")))
    # 33 images: 5 batches of 8 for one process, and 5 and 4 of 4 for two
    args = [*ARGS, "-b", str(8 // size), "--data-path", str(data), "--output-dir", str(root / "out")]
    jobs = []
    for rank in range(size):
        log = root / (f"log{attempt}" if rank == 0 else f"other{attempt}")
        url = f"file://{root}/meeting_place{attempt}"
        calls = root / f"calls{attempt}_{rank}"
        jobs.append(processes.start(train, rank, size, url, args, signals[rank], calls, log=log))
    for job in jobs:
        job.join(120)
    return [job.exitcode for job in jobs], (root / f"log{attempt}").read_text()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return imagenet_tree(tmp_path_factory.mktemp("data"), count=11)


@pytest.fixture(scope="module")
def quiet(data, tmp_path_factory):
    """Runs of one and of two processes that nothing disturbed, by that number."""
    roots = {size: tmp_path_factory.mktemp(f"quiet{size}") for size in (1, 2)}
    for size, root in roots.items():
        statuses, printed = run(root, data, size=size)
        assert statuses == [0] * size, printed
    return roots


def results(root):
    folder = only(root / "out")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]


@pytest.mark.parametrize(
    ("size", "signals", "batches_more", "position"),
    [
        (1, (2, 0), 0, (0, BATCHES)),  # while the weights are tested
        (1, (BATCHES, 0), 1, (0, BATCHES)),  # in their last batch
        (1, (BATCHES + 2, 0), 0, (0, BATCHES)),  # while the averaged ones are tested
        (1, (2 * BATCHES, 0), 0, (1, 0)),  # in the epoch's last batch
        (2, (0, 2), 1, (0, BATCHES)),  # one process alone gets it
        (2, (BATCHES, 0), 2, (0, BATCHES)),  # in a batch that the other one does not have
    ],
)
def test_a_stop_while_testing(quiet, data, tmp_path, size, signals, batches_more, position):
    statuses, printed = run(tmp_path, data, size=size, signals=signals)
    assert set(statuses) == {75}, printed
    tested = (tmp_path / "calls0_0").read_text().splitlines().count("test")
    assert tested == max(signals) + batches_more
    state = checkpoint.read(only(tmp_path / "out") / checkpoint.LATEST)
    assert (state["epoch"], state["step"]) == position
    statuses, printed = run(tmp_path, data, size=size)
    assert statuses == [0] * size
    assert f"epoch {position[0] + 1}, batch {position[1]}\n" in printed
    calls = "".join((tmp_path / f"calls{attempt}_0").read_text() for attempt in range(2)).splitlines()
    assert calls.count("train") == 2 * BATCHES
    ours, theirs = (checkpoint.read(only(root / "out") / checkpoint.LATEST) for root in (tmp_path, quiet[size]))
    for part in ("model", "ema"):
        assert all(torch.equal(ours[part][name], theirs[part][name]) for name in theirs[part])
    assert all(torch.equal(a, b) for a, b in zip(ours["random_states"], theirs["random_states"], strict=True))
    assert results(tmp_path) == results(quiet[size])

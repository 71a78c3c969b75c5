"""Runs stopped by real signals at any moment, checkpoint writes included, end with the bits of a quiet run."""

import ctypes
import os
import random
import resource
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from torch.nn.modules.module import register_module_forward_hook

from full_spike.imagenet.train import main
from full_spike.utils import checkpoint, make_shards
from support import processes
from support.agents import children, wait_for
from support.command import assert_same_run, newest, only, succeed
from support.images import imagenet_tree

TRAIN = "full_spike.imagenet.train"
ARGS = (
    "--train-crop-size 16 --val-resize-size 18 --val-crop-size 16 --width 4 --T 2 -b 4 -j 0 --device cpu "
    "--epochs 3 --cos_lr_T 3 --checkpoint-every 1 --ema-decay 0.9 --print-freq 2"
).split()
BATCHES = 5  # of an epoch: 18 images; the same number is tested

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
    return main(args)


def start(args, output, until=None):
    """A run, in a process of its own, perhaps killed in a write: (number of the checkpoint, bytes)."""
    function = main if until is None else partial(run_until, *until)
    return processes.start(function, [str(a) for a in args], log=output)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory, request):
    """(the data, how long a run takes, the folder of one that nothing interrupted).

    With other options if the test says so.
    """
    root = tmp_path_factory.mktemp("quiet")
    data = imagenet_tree(root / "data", count=6)
    args = (*ARGS, *getattr(request, "param", "").split(), "--data-path", data, "--output-dir", root / "out")
    for again in ((), ("--overwrite",)):  # the first one also starts the server
        began = time.monotonic()
        process = start((*args, *again), root / "log")
        process.join(120)
        assert process.exitcode == 0, (root / "log").read_text()
    return data, time.monotonic() - began, only(root / "out")


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
    assert_same_run(only(out), expected)


def test_killed_at_random_moments(quiet, tmp_path):
    data, seconds, expected = quiet
    chance = random.Random(3)
    killed = runs = 0
    while killed < 8:  # where the machine is faster than for the quiet run, it takes another run to kill it so often
        runs += 1
        out, log = tmp_path / f"out{runs}", tmp_path / f"log{runs}"
        through = False
        while killed < 8 and not through:
            process = resume(data, out, log)
            process.join(chance.uniform(0.02, 0.6 * seconds))
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
    size = (expected / checkpoint.LATEST).stat().st_size
    for i, share in enumerate((0.0, 0.2, 0.6, 0.99)):
        written = int(share * size)
        assert_killed(resume(data, out, log, (1 + i % 2, written)), signal.SIGXFSZ, out, log)
        left = out.glob(f"*/{checkpoint.LATEST}.partial")
        assert [path.stat().st_size for path in left] == [written]
    assert_ends_alike(resume(data, out, log), out, log, expected)


@pytest.mark.parametrize("kind", ["folder", "wds"])
def test_a_run_goes_on_inside_an_epoch(quiet, tmp_path, kind):
    """Guards the tests above: kills do land inside epochs, and a run goes on from there, also on shards."""
    data, _, expected = quiet
    if kind == "wds":
        make_shards.main([str(data), str(tmp_path / "shards")])
        data = tmp_path / "shards"
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
    assert_killed(resume(data, out, log, (8, 0), MIXED), signal.SIGXFSZ, out, log)
    assert_ends_alike(resume(data, out, log, options=f"{MIXED} -j 2"), out, log, expected)
    first, second = (line for line in log.read_text().splitlines() if line.startswith("resumed from"))
    assert first.endswith("epoch 1, batch 2")
    assert second.endswith("epoch 2, batch 3")


# Signals that ask to stop


def signalled_run(rank, size, meeting_place, args, at, number, calls):
    """A process of a run that gets a signal in its `at`-th batch of a kind; notes its calls of the network.

    Args:
        at: ("train" or "test", number of the batch); an epoch's test batches are counted through, those of the averaged
            weights after those of the weights.
    """
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    count = {"train": 0, "test": 0}

    def note(module, *_):
        if hasattr(module, "config"):
            kind = "train" if module.training else "test"
            count[kind] += 1
            with open(calls, "a") as file:
                file.write(f"{kind}\n")
            if (kind, count[kind]) == at:
                os.kill(os.getpid(), number)

    register_module_forward_hook(note)
    return main([*args, "--dist-url", meeting_place])


def signalled(root, data, at=None, number=signal.SIGUSR1, size=1, rank=0):
    """A run of `size` processes, of which one gets a signal: (their statuses, what the main one printed, its calls)."""
    root.mkdir(exist_ok=True)
    attempt = len(list(root.glob("log*")))
    logs = [root / f"log{attempt}" if i == 0 else root / f"other{attempt}" for i in range(size)]
    calls = [root / f"calls{attempt}_{i}" for i in range(size)]
    # 33 images to test: 5 batches of 8 for one process, and 5 and 4 of 4 for two
    options = [*ARGS, "--epochs", "2", "--cos_lr_T", "2", "-b", str(8 // size), "--resume", "auto"]
    args = [*options, "--data-path", str(data), "--output-dir", str(root / "out")]
    url = f"file://{root}/meeting_place{attempt}"
    jobs = [
        processes.start(
            signalled_run, i, size, url, args, at if i == rank else None, number, calls[i], log=logs[i],
        )
        for i in range(size)
    ]  # fmt: skip
    for job in jobs:
        job.join(120)
    return [job.exitcode for job in jobs], logs[0].read_text(), calls[0].read_text().split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return imagenet_tree(tmp_path_factory.mktemp("data"), count=11)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Folders of runs of one and of two processes, by that number."""
    folders = {}
    for size in (1, 2):
        root = tmp_path_factory.mktemp(f"quiet{size}")
        statuses, printed, _ = signalled(root, data, size=size)
        assert statuses == [0] * size, printed
        folders[size] = only(root / "out")
    return folders


@pytest.mark.parametrize(
    ("size", "rank", "at", "number", "position"),
    [
        (1, 0, ("train", 2), signal.SIGTERM, (0, 2)),
        (1, 0, ("train", 3), signal.SIGINT, (0, 3)),
        (1, 0, ("train", BATCHES), signal.SIGUSR1, (0, BATCHES)),  # in the epoch's last training batch
        (1, 0, ("test", 2), signal.SIGUSR1, (0, BATCHES)),  # while the weights are tested
        (1, 0, ("test", BATCHES + 2), signal.SIGTERM, (0, BATCHES)),  # while the averaged ones are tested
        (1, 0, ("test", 2 * BATCHES), signal.SIGUSR1, (1, 0)),  # in the epoch's last batch
        (2, 1, ("train", 2), signal.SIGUSR1, (0, 3)),  # one process alone gets it, and the other hears a step later
        (2, 1, ("test", 2), signal.SIGTERM, (0, BATCHES)),
        (2, 0, ("test", BATCHES), signal.SIGUSR1, (0, BATCHES)),  # in a batch that the other one does not have
    ],
)
def test_a_signal_is_answered_at_once_and_nothing_is_trained_twice(
    undisturbed, data, tmp_path, size, rank, at, number, position
):
    statuses, printed, before = signalled(tmp_path, data, at, number, size, rank)
    assert set(statuses) == {75}, printed
    folder = only(tmp_path / "out")
    said = f"stopped: asked to stop; saved epoch {position[0] + 1}, batch {position[1]} in {folder / checkpoint.LATEST}"
    assert f"{said}: go on with --resume auto\n" in printed
    assert before.count(at[0]) <= at[1] + size  # it did not go on for long
    state = checkpoint.read(folder / checkpoint.LATEST)
    assert (state["epoch"], state["step"]) == position
    assert not (folder / "lock.json").exists()
    statuses, printed, after = signalled(tmp_path, data, size=size)
    assert statuses == [0] * size
    assert f"epoch {position[0] + 1}, batch {position[1]}\n" in printed
    assert [*before, *after].count("train") == 2 * BATCHES
    assert_same_run(folder, undisturbed[size])


def load_and_signal(args, number):
    import full_spike.imagenet.data as of_images

    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have what they start in the background ignore it
    load = of_images.load

    def then_signal(*given):
        os.kill(os.getpid(), number)
        return load(*given)

    of_images.load = then_signal
    return main(args)


def test_a_signal_before_training_has_nothing_to_save(data, tmp_path):
    args = [*ARGS, "--data-path", str(data), "--output-dir", str(tmp_path / "out")]
    for number, status, line in (
        (signal.SIGUSR1, 75, "stopped: asked to stop by SIGUSR1 with nothing to save: start it again\n"),
        (signal.SIGINT, 130, "error: interrupted\n"),
    ):
        log = tmp_path / f"log{number}"
        process = processes.start(load_and_signal, args, number, log=log)
        process.join(60)
        assert process.exitcode == status
        assert log.read_text() == line
    assert not (tmp_path / "out").exists()


def test_training_from_a_thread(data, tmp_path):
    """As notebooks and servers do, where Python handles no signals."""
    args = [*ARGS, "--epochs", "1", "--data-path", str(data), "--output-dir"]
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(main([*args, str(tmp_path / "thread")])))
    thread.start()
    thread.join(120)
    assert statuses == [0]
    succeed(TRAIN, *args, tmp_path / "main")
    assert_same_run(only(tmp_path / "thread"), only(tmp_path / "main"))


def test_an_epoch_is_kept_whatever_testing_it_meets(tmp_path):
    """Here an image that is cut off: once it is whole again, the run goes on to the test and trains nothing twice."""
    data = imagenet_tree(tmp_path / "data", count=6)
    image = sorted((data / "val").rglob("*.JPEG"))[-1]
    whole = image.read_bytes()
    args = (*ARGS, "--epochs", 1, "--data-path", data)
    succeed(TRAIN, *args, "--output-dir", tmp_path / "whole")
    image.write_bytes(whole[:100])
    process = start((*args, "--output-dir", tmp_path / "out"), tmp_path / "log")
    process.join(60)
    assert process.exitcode == 1
    assert f"error: cannot read the image {image}" in (tmp_path / "log").read_text()
    state = newest(tmp_path / "out")
    assert (state["epoch"], state["step"]) == (0, BATCHES)
    image.write_bytes(whole)
    text = succeed(TRAIN, *args, "--output-dir", tmp_path / "out", "--resume", "auto")
    assert f"epoch 1, batch {BATCHES}\n" in text
    assert_same_run(only(tmp_path / "out"), only(tmp_path / "whole"))


# Loading processes


def with_little_shared_memory(args):
    """A run in a container's /dev/shm, which holds next to nothing; 77 where that cannot be made."""
    libc, own, ids = ctypes.CDLL(None), Path("/proc/self"), (os.getuid(), os.getgid())
    if libc.unshare(0x10020000):  # CLONE_NEWUSER | CLONE_NEWNS
        return 77
    (own / "setgroups").write_text("deny")
    for name, number in zip(("uid_map", "gid_map"), ids, strict=True):
        (own / name).write_text(f"{number} {number} 1")
    if libc.mount(b"none", b"/dev/shm", b"tmpfs", 0, b"size=64k"):
        return 77
    return main(args)


@pytest.mark.parametrize("function", [main, with_little_shared_memory])
def test_what_loading_processes_lack_is_one_line(data, tmp_path, function):
    out, errors = tmp_path / "out", tmp_path / "errors"
    args = (*ARGS, "-j", 2, "--epochs", 100, "--checkpoint-every", 1000, "--train-crop-size", 96, "--data-path", data)
    args = (*args, "--output-dir", tmp_path / "runs")
    process = processes.start(function, [str(arg) for arg in args], log=out, errors=errors)
    if function is main:
        wait_for(lambda: out.exists() and "epoch 1/" in out.read_text(), "the first steps")
        os.kill(children(process.pid)[0], signal.SIGKILL)
    process.join(60)
    if process.exitcode == 77:
        pytest.skip("no namespaces of one's own here")
    assert process.exitcode == 1, out.read_text()
    lines = [line for line in errors.read_text().splitlines() if "This DataLoader will create" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: a loading process ended (")
    assert "a larger /dev/shm (docker's --shm-size), or load with -j 0" in lines[0]

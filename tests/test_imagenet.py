"""imagenet/train.py: the published command on several processes, and every way it can go wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from full_spike.utils import checkpoint
from support.command import ROOT, TORCHRUN, assert_same_run, call, launch, only, refused, run, run_together, succeed
from support.images import imagenet_tree

TRAIN = "imagenet.train"
SIZES = ("--train-crop-size", "16", "--val-resize-size", "18", "--val-crop-size", "16")
SIZES_IN_A_NAME = "traincropsize16_valresizesize18_valcropsize16"
SMALL = (*SIZES, "--cos_lr_T", "320", "--width", "4", "-b", "4", "-j", "0", "--device", "cpu")
# As in the release's README, but for the number of processes.
PUBLISHED = "--cos_lr_T 320 --model dsnn18 -b 64 --tb --print-freq 500 --amp --cache-dataset --connect_f OR --T 4"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return imagenet_tree(tmp_path_factory.mktemp("imagenet"))


def own_port():
    """No other process's: neither of those that systems give to connections, nor of another run of the tests."""
    return 30_000 + os.getpid() % 2_000


def test_the_published_command_runs_to_the_letter_and_resumes(data, tmp_path):
    """`cd imagenet; python -m torch.distributed.launch --nproc_per_node=2 --use_env train.py ... --epoch N`."""
    launcher = (
        "torch.distributed.launch",
        "--nproc_per_node=2",
        f"--master_port={own_port()}",
        "--use_env",
        "train.py",
    )
    args = (
        *PUBLISHED.split(),
        "--lr",
        0.1,
        "--output-dir",
        tmp_path / "logs",
        "--data-path",
        data,
        "--device",
        "cpu",
        *SIZES,
        "-j",
        1,
    )
    args = (*args, "--width", 4)
    first = launch(launcher, *args, "--epoch", 1, cwd=ROOT / "imagenet")
    assert first.returncode == 0, first.stdout + first.stderr
    folder = tmp_path / "logs" / f"dsnn18_b64_lr0.1_T4_wd1e-05_coslr320_sgd_cnf_OR_{SIZES_IN_A_NAME}_width4"
    assert {"checkpoint_latest.pth", "checkpoint_0.pth"} <= {p.name for p in folder.iterdir()}
    logs = folder.with_name(folder.name + "_logs")
    assert only(logs / "train", "events.out.tfevents.*")
    assert only(logs / "te", "events.out.tfevents.*")
    assert (logs / "args.txt").exists()
    assert first.stdout.count("parameters on 2 x cpu") == 1  # one process speaks
    assert "listed in" in first.stdout

    second = launch(launcher, *args, "--epoch", 2, "--resume", "auto", cwd=ROOT / "imagenet")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "epoch 2, batch 0" in second.stdout
    assert "from the list" in second.stdout
    epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [0, 1]


def test_any_number_of_processes_scores_every_image_once(data, tmp_path):
    """29 test images on one and on three processes: the same hits and counts, and the same loss."""
    tree = tmp_path / "data"
    shutil.copytree(data, tree)
    next((tree / "val").glob("*/0.JPEG")).unlink()
    args = (*SMALL, "--data-path", tree, "--output-dir", tmp_path)
    succeed(TRAIN, *args, "--epochs", 1)
    test = (*args, "--epochs", 1, "--test-only", "--resume", "auto")
    one = succeed(TRAIN, *test)
    three, *others = run_together(TRAIN, *test, processes=3)
    assert all(done.returncode == 0 for done in (three, *others)), three.stderr
    rows = [[line for line in text.splitlines() if line.endswith(" 29")] for text in (one, three.stdout)]
    assert [line.split()[0] for line in rows[0]] == ["fsnn", "aap", "sum"]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_schedulers_signal_saves_inside_the_epoch_and_asks_to_be_requeued(data, tmp_path, number):
    args = (*SMALL, "--data-path", data, "--epochs", 2, "--print-freq", 1, "--accumulate", 2, "-j", 2)
    succeed(TRAIN, *args, "--output-dir", tmp_path / "whole")
    started = subprocess.Popen(
        [sys.executable, "-m", TRAIN, *map(str, args), "--output-dir", str(tmp_path / "parts")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    for line in started.stdout:
        if line.startswith("epoch 1/2  "):
            os.killpg(started.pid, number)  # as schedulers do: the loading processes get it too
            break
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 75, errors
    assert errors.startswith("stopped: asked to stop; saved epoch 1, batch ")
    text = succeed(TRAIN, *args, "--output-dir", tmp_path / "parts", "--resume", "auto")
    assert "resumed from" in text
    assert_same_run(only(tmp_path / "whole"), only(tmp_path / "parts"))


def workers_of(launcher):
    """Process ids of a launcher's training processes."""
    return [int(pid) for pid in open(f"/proc/{launcher}/task/{launcher}/children").read().split()]


def test_a_job_whose_worker_is_killed_restarts_by_itself_to_the_same_weights(data, tmp_path):
    args = (*SMALL, "--data-path", data, "--epochs", 3, "--checkpoint-every", "1", "--resume", "auto")
    whole, _ = run_together(TRAIN, *args, "--output-dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", *TORCHRUN, "--nproc-per-node=2"]
    command += ["--max-restarts=2", "-m", TRAIN, *map(str, args), "--output-dir", str(tmp_path / "killed")]
    job = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(f"killed/*/{checkpoint.LATEST}")):  # the first one is written inside an epoch
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(workers_of(job.pid)[1], signal.SIGKILL)
    output, _ = job.communicate(timeout=240)
    assert job.returncode == 0, output
    assert "resumed from" in output
    assert_same_run(only(tmp_path / "whole"), only(tmp_path / "killed"))


# Wrong turns


@pytest.fixture
def folder(data, tmp_path):
    """A run of one epoch that later commands may continue."""
    succeed(TRAIN, *SMALL, "--data-path", data, "--epochs", 1, "--output-dir", tmp_path)
    return only(tmp_path, "dsnn18*")


def test_a_full_disk_is_one_line_and_the_checkpoint_before_it_survives(data, folder, tmp_path):
    before = checkpoint.read(folder / checkpoint.LATEST)["model"]
    size = (folder / checkpoint.LATEST).stat().st_size
    args = (*SMALL, "--data-path", data, "--epochs", 2, "--output-dir", tmp_path, "--resume", "auto")
    limited = ["bash", "-c", f'ulimit -f {size // 2048}; exec "$@"', "-", sys.executable, "-m", TRAIN, *map(str, args)]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: cannot write {folder / checkpoint.LATEST} (File too large)")
    assert "Traceback" not in done.stderr
    after = checkpoint.read(folder / checkpoint.LATEST)["model"]
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not list(folder.glob("*.partial"))


def test_a_full_disk_stops_every_process(data, folder, tmp_path):
    args = (*SMALL, "--data-path", data, "--epochs", 2, "--output-dir", tmp_path, "--resume", "auto")
    command = [sys.executable, "-m", *TORCHRUN, "--nproc-per-node=2", "-m", TRAIN]
    size = (folder / checkpoint.LATEST).stat().st_size
    limited = ["bash", "-c", f'ulimit -f {size // 2048}; exec "$@"', "-", *command, *map(str, args)]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert f"error: cannot write {folder / checkpoint.LATEST} (File too large)" in done.stderr
    assert checkpoint.read(folder / checkpoint.LATEST)


def test_an_output_folder_that_cannot_be_made(data, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(TRAIN, *SMALL, "--data-path", data, "--output-dir", tmp_path / "file", status=1)
    assert "Not a directory" in line


def test_a_missing_data_path(tmp_path):
    assert "ImageNet needs --data-path" in refused(TRAIN, *SMALL, status=2)
    line = refused(TRAIN, *SMALL, "--data-path", tmp_path / "none", status=1)
    assert f"there is no folder {tmp_path / 'none' / 'train'}" in line


def test_an_unreachable_rendezvous(data):
    env = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9", "LOCAL_RANK": "1"}
    line = refused(TRAIN, *SMALL, "--data-path", data, "--dist-timeout", 2, status=1, how=run, env=env)
    assert "process 1 of 2 could not meet the others at 127.0.0.1:9 within 2 s" in line


def test_world_size_without_a_launcher(data):
    assert "start with torchrun --nproc-per-node=4" in refused(
        TRAIN, *SMALL, "--data-path", data, "--world-size", 4, status=2
    )


def test_another_number_of_processes_is_for_between_epochs(data, tmp_path):
    args = (*SMALL, "--data-path", data, "--output-dir", tmp_path, "--resume", "auto")
    call(TRAIN, *SMALL, "--data-path", data, "--output-dir", tmp_path, "--epochs", 1)
    between, _ = run_together(TRAIN, *args, "--epochs", 2)
    assert between.returncode == 0, between.stderr
    assert "warning: options changed since the checkpoint (world_size 1 -> 2)" in between.stdout

    latest = only(tmp_path, "dsnn18*") / checkpoint.LATEST
    state = checkpoint.read(latest)
    checkpoint.write(latest, {**state, "step": 1})
    line = refused(TRAIN, *args, "--epochs", 3, status=1)
    assert "stopped inside epoch 3" in line
    assert "world_size 2 -> 1" in line

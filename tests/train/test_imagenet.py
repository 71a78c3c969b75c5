"""imagenet/train.py: the published command on several processes, and how it can go wrong."""

import os

import pytest

from support.command import ROOT, entries, launch, only, refused, row, run, run_together, succeed
from support.images import imagenet_tree

TRAIN = "full_spike.imagenet.train"
SIZES = ("--train-crop-size", "16", "--val-resize-size", "18", "--val-crop-size", "16")
SMALL = (*SIZES, "--cos_lr_T", "320", "--width", "4", "-b", "4", "-j", "0", "--device", "cpu")
# As in the release's README, but for the number of processes.
PUBLISHED = "--cos_lr_T 320 --model dsnn18 -b 64 --tb --print-freq 500 --amp --cache-dataset --connect_f OR --T 4"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    return imagenet_tree(tmp_path / "imagenet")


def test_the_published_command_runs_to_the_letter_and_resumes(data, tmp_path):
    """`cd imagenet; python -m torch.distributed.launch --nproc_per_node=2 --use_env train.py ... --epoch N`."""
    port = 30_000 + os.getpid() % 2_000  # neither one of those that systems give to connections, nor another run's
    launcher = ("torch.distributed.launch", "--nproc_per_node=2", f"--master_port={port}", "--use_env", "train.py")
    args = (*PUBLISHED.split(), "--lr", 0.1, "--output-dir", tmp_path / "logs", "--data-path", data, "--device", "cpu")
    args = (*args, *SIZES, "-j", 1, "--width", 4)
    first = launch(launcher, *args, "--epoch", 1, cwd=ROOT / "imagenet")
    assert first.returncode == 0, first.stdout + first.stderr
    folder = only(tmp_path / "logs", "*_width4*[!s]")
    assert folder.name.startswith("dsnn18_b64_lr0.1_T4_wd1e-05_coslr320_sgd_cnf_OR")
    assert {"checkpoint_latest.pth", "checkpoint_0.pth"} <= {p.name for p in folder.iterdir()}
    logs = folder.with_name(folder.name + "_logs")
    assert only(logs / "train", "events.out.tfevents.*")
    assert only(logs / "te", "events.out.tfevents.*")
    assert first.stdout.count("parameters on 2 x cpu") == 1  # one process speaks

    second = succeed(TRAIN, *args, "--epoch", 2, "--resume", "auto", how=run_together)
    assert "epoch 2, batch 0" in second
    assert [entry["epoch"] for entry in entries(folder)] == [0, 1]


def test_any_number_of_processes_scores_every_image_once(data, tmp_path):
    """29 test images on one and on three processes: the same hits and counts, and the same loss."""
    next((data / "val").glob("*/0.JPEG")).unlink()
    args = (*SMALL, "--data-path", data, "--output-dir", tmp_path / "out", "--epochs", 1)
    succeed(TRAIN, *args)
    test = (*args, "--test-only", "--resume", "auto")
    one, three = succeed(TRAIN, *test), succeed(TRAIN, *test, processes=3, how=run_together)
    for name in ("fsnn", "aap", "sum"):
        assert row(one, name) == row(three, name)
        assert row(one, name)[-1] == "29"


def test_wrong_turns_are_one_line(data, tmp_path):
    (tmp_path / "file").write_text("")
    common = (*SMALL, "--output-dir", tmp_path / "out")
    assert "needs --data-path" in refused(TRAIN, *common, status=2)
    line = refused(TRAIN, *common, "--data-path", tmp_path / "none", status=1)
    assert f"there is no folder {tmp_path / 'none' / 'train'}" in line
    line = refused(TRAIN, *common, "--data-path", data, "--output-dir", tmp_path / "file", status=1)
    assert "Not a directory" in line
    env = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9", "LOCAL_RANK": "1"}
    line = refused(TRAIN, *common, "--data-path", data, "--dist-timeout", 2, status=1, how=run, env=env)
    assert "process 1 of 2 could not meet the others at 127.0.0.1:9 within 2 s" in line

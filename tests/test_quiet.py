"""What is on the screen while one waits: the time left, seconds of compiling; and what is not: warnings of others."""

import os
import subprocess
import sys
import threading

import pytest

from full_spike.utils.distributed import World
from full_spike.utils.log import RunLog
from full_spike.utils.runtime.threads import share, threads_of_its_own
from full_spike.utils.train.clock import Clock, in_words
from support.command import ROOT, TINY, launch, succeed


def test_the_time_that_is_left_is_in_every_line_but_the_last(tmp_path):
    text = succeed("cifar.train", *TINY, "--epochs", 3, "--print-freq", 3, "--output-dir", tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 9
    assert all(line.split("  ")[-1].startswith("left 0:0") for line in lines[:-1])
    assert "left" not in lines[-1]


def test_what_is_left_is_in_proportion_to_what_was_done(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("utils.train.clock.time.monotonic", lambda: now[0])
    clock = Clock(2.5, 10)
    assert clock.left(2.5) == 0.0
    now[0] = 130.0
    assert clock.left(5.5) == pytest.approx(45.0)  # 3 epochs in 30 s, 4.5 are left
    clock.leave_out(15.0)
    assert clock.left(5.5) == pytest.approx(22.5)
    assert clock.left(10.0) == 0.0


def test_times_in_words():
    assert [in_words(s) for s in (0, 59.6, 3599, 3600, 360_000)] == [
        "0:00:00",
        "0:01:00",
        "0:59:59",
        "1:00:00",
        "100:00:00",
    ]


def test_seconds_are_counted_while_something_takes_long(monkeypatch):
    enough, said = threading.Event(), []

    class Log(RunLog):
        def say(self, text):
            said.append(text)
            if len(said) == 3:
                enough.set()

    with Log(World()).progress("epoch 1/2", 5) as progress, progress.waiting("compiling", every=0.01):
        assert enough.wait(60)
    count = len(said)
    assert all(line.startswith("epoch 1/2  compiling, 0 s") for line in said[:3])
    assert len(said) == count


def test_no_warning_about_cuda_home(tmp_path):
    """torch says where nvcc is if there is one and no GPU; no command here is told."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    said = []
    for silence in ("", "from full_spike.utils.errors import run_command\nrun_command(lambda: 0)\n"):
        code = f"{silence}import torch.utils.cpp_extension"
        env = {**os.environ, "CUDA_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        said.append("CUDA_HOME" in done.stderr)
    if not said[0]:
        pytest.skip("this torch says nothing of CUDA_HOME")
    assert not said[1]


def test_cores_are_shared():
    assert [share(cores, 2) for cores in (1, 2, 7, 8)] == [1, 1, 3, 4]


@pytest.mark.parametrize(
    ("env", "parent", "ours"),
    [
        ({}, {}, False),  # a single process: torch's own choice
        ({"LOCAL_WORLD_SIZE": "1"}, {}, False),
        ({"LOCAL_WORLD_SIZE": "2"}, {}, True),
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "3"}, {}, False),  # the user's
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "a"}, {}, True),  # torchrun's
        (
            {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "a"},
            {"OMP_NUM_THREADS": "1"},
            False,
        ),
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "a"}, None, False),
    ],
)
def test_what_the_user_has_set_stays(env, parent, ours):
    expected = share(len(os.sched_getaffinity(0)), 2) if ours else None
    assert threads_of_its_own(env, parent) == expected


THREADS = r"""
import os
from full_spike.utils import distributed
world = distributed.start("cpu")
import torch
os.write(1, f"threads {torch.get_num_threads()}\n".encode())  # at once, or the other's comes between
distributed.stop(world)
"""


def test_processes_of_torchrun_share_the_cores(tmp_path, monkeypatch):
    (tmp_path / "threads.py").write_text(THREADS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("OMP_NUM_THREADS")
    done = launch(("torch.distributed.run", "--standalone"), "--nproc-per-node=2", tmp_path / "threads.py")
    assert done.returncode == 0, done.stderr
    each = share(len(os.sched_getaffinity(0)), 2)
    assert [line for line in done.stdout.splitlines() if "threads" in line] == [f"threads {each}"] * 2


@pytest.mark.parametrize(
    "script", ["train_imagenet.sh", "train_dvsgesture.sh", "train_cifar10dvs.sh", "train_imagenet_nodes.sh"]
)
def test_launchers_share_the_cores_so_that_torchrun_says_nothing(tmp_path, script):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS"\n')
    python.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    env |= {"PYTHON": str(python), "NPROC": "2", "NNODES": "1", "RDZV": "localhost:1"}
    cores = int(subprocess.run(["nproc"], capture_output=True, text=True, check=True, env=env).stdout)
    for given in (None, "5"):
        done = subprocess.run(
            [ROOT / "scripts" / script, "data"],
            env=env | ({"OMP_NUM_THREADS": given} if given else {}),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == (given or str(share(cores, 2)))

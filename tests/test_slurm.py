"""Jobs under a SLURM of one machine (fake_slurm/), whose tasks are real processes with the real variables."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.jobs import Jobs, wait_for
from full_spike import models
from full_spike.imagenet.data import load
from full_spike.utils import launch
from full_spike.utils.cluster import slurm
from full_spike.utils.errors import UserError
from studies.grid import read_study
from support import processes
from support.command import assert_same_run, only
from support.images import imagenet_tree
from support.jobs import latest

ROOT = Path(__file__).parent.parent
# 32 pixels: on maps of one pixel torch's bfloat16 gradient of a strided convolution reads memory that nobody wrote
SMALL = (
    "--train-crop-size 32 --val-resize-size 32 --val-crop-size 32 --width 4 --T 2 -b 4 -j 1 --device cpu --epochs 3 "
    "--cos_lr_T 3 --lr 0.01 --checkpoint-every 1"
).split()


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """SLURM's commands on the path."""
    monkeypatch.setenv("PATH", f"{Path(__file__).parent / 'fake_slurm'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "slurm"))
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jobs = Jobs(tmp_path)
    yield jobs
    jobs.close()


@pytest.mark.slow
def test_a_job_is_queued_again_and_goes_on(cluster, tmp_path, monkeypatch):
    """scripts/train_imagenet.sbatch, where slurm.conf would have all tasks killed with the first one that ends."""
    monkeypatch.setenv("FAKE_SLURM_KILL_ON_BAD_EXIT", "1")
    data = imagenet_tree(tmp_path / "data")
    command = ("sbatch", "--ntasks-per-node=2", "scripts/train_imagenet.sbatch", data, *SMALL, "--output-dir")
    job = cluster.start(*command, tmp_path / "out")
    wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    number = cluster.printed(job).split("Submitted batch job ")[1].split()[0]
    subprocess.run(["scancel", "--signal=USR1", number], check=True)
    printed = cluster.succeed(job)
    assert "stopped: asked to stop; saved epoch" in printed
    assert "resumed from" in printed
    cluster.succeed(cluster.start(*command, tmp_path / "quiet"))
    assert_same_run(only(tmp_path / "quiet", "dsnn18*_width4"), only(tmp_path / "out", "dsnn18*_width4"))


def test_a_batch_script_is_a_process_alone(cluster, tmp_path):
    """It has the job's variables, but only tasks of srun have peers."""
    data = imagenet_tree(tmp_path / "data")
    options = (*SMALL, "--data-path", str(data), "--output-dir", str(tmp_path / "out"))
    assert imagenet.train.main([*options, "--epochs", "1"]) == 0
    script = tmp_path / "script"
    script.write_text(
        '#!/bin/sh\n#SBATCH --job-name=test\n#SBATCH --ntasks-per-node=2\nenv | grep ^SLURM_\nexec "$PYTHON" "$@"\n'
    )
    test = ("-m", "imagenet.train", *options, "--epochs", "1", "--test-only", "--resume", "auto")
    printed = cluster.succeed(cluster.start("sbatch", script, *test))
    assert "SLURM_NTASKS=2\n" in printed
    assert "SLURM_PROCID=0\n" in printed
    assert "parameters on 1 x cpu" in printed


@pytest.mark.slow
def test_an_array_of_jobs_trains_a_study(cluster, tmp_path):
    """The line of docs/RESULTS.md: each job trains one run, and submitting it again trains nothing twice."""
    study, runs = tmp_path / "tiny.yaml", tmp_path / "runs"
    study.write_text(
        "title: tiny\nscript: cifar.train\nseeds: [0, 1]\nrows: {or: {connect_f: OR}, and: {connect_f: AND}}\noptions: "
        "{dataset: digits, image_size: 8, model: fsnn18, width: 4, T: 2, epochs: 1, batch_size: 256, device: cpu}\n"
    )
    line = re.search(r"sbatch --array=0-(\d+) --wrap='(python scripts/study.py run) studies/digits.yaml(.*?)'",
                     (ROOT / "docs/RESULTS.md").read_text())  # fmt: skip
    assert int(line[1]) + 1 == len(read_study(ROOT / "studies/digits.yaml").runs())
    wrap = f"{line[2]} {study} --runs {runs}{line[3]}".replace("python", sys.executable, 1)
    printed = cluster.succeed(cluster.start("sbatch", "--array=0-3", f"--wrap={wrap}"))
    names = [f"{row}_seed{seed}" for seed in (0, 1) for row in ("or", "and")]
    assert re.findall(r"^tiny: (\w+)$", printed, re.MULTILINE) == names
    assert sorted(path.parent.name for path in runs.glob("tiny/*/checkpoint_latest.pth")) == sorted(names)
    assert "tiny: " not in cluster.succeed(cluster.start("sbatch", "--array=0-3", f"--wrap={wrap}"))


@pytest.mark.parametrize(("kill", "status"), [("", 137), ("=1", 137), ("=0", 75)])
def test_why_the_script_does_not_kill_on_bad_exit(cluster, tmp_path, monkeypatch, kill, status):
    """What srun's manual says of the statuses of tasks that end a little apart."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    folder = tmp_path / "slurm" / "1"
    folder.mkdir(parents=True)
    (folder / "steps").write_text("0")
    task = "[ $SLURM_PROCID = 0 ] || sleep 2; exit 75"
    assert subprocess.run(["srun", f"--kill-on-bad-exit{kill}", "sh", "-c", task]).returncode == status


def load_and_signal(options, world, T):
    os.kill(os.getpid(), signal.SIGUSR1)
    return load(options, world, T)


def train_and_signal(args):
    return launch.main(imagenet.train.parser, load_and_signal, models, args)


def test_a_signal_before_training_asks_to_be_queued_again(tmp_path):
    data = imagenet_tree(tmp_path / "data")
    args = [*SMALL, "--data-path", str(data), "--output-dir", str(tmp_path / "out")]
    process = processes.start(train_and_signal, args, log=tmp_path / "log")
    process.join(60)
    assert process.exitcode == 75
    assert (tmp_path / "log").read_text() == "stopped: asked to stop by SIGUSR1 with nothing to save: start it again\n"


TASK = {
    "SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1",
}  # fmt: skip


def test_a_tasks_variables(cluster):
    found = slurm.torch_variables({**TASK, "SLURM_STEP_NODELIST": "gpu[07-09,12],login", "SLURM_JOB_ID": "5"})
    assert found.pop("MASTER_PORT").isdigit()
    assert found == {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07"}
    given = {"MASTER_ADDR": "a", "MASTER_PORT": "5"}
    assert given.items() <= slurm.torch_variables({**TASK, **given, "SLURM_STEP_NODELIST": "gpu[07-09]"}).items()
    assert slurm.torch_variables({**TASK, "SLURM_STEP_NUM_TASKS": "1"}) == {}


def test_jobs_and_steps_meet_at_ports_of_their_own():
    ports = [
        slurm.torch_variables({**TASK, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})["MASTER_PORT"]
        for job in range(900, 1000)
        for step in range(3)
    ]
    assert len(set(ports)) == len(ports)
    assert all(15000 <= int(port) < 30000 for port in ports)


def test_a_node_list_without_scontrol_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot unfold SLURM's node list 'gpu\[07-09\]' .*: set MASTER_ADDR"):
        slurm.torch_variables({**TASK, "SLURM_STEP_NODELIST": "gpu[07-09]"})

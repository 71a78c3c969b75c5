"""Jobs under a SLURM of one machine (support/fake_slurm), whose tasks are real processes with the real variables."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from full_spike.imagenet.train import main
from full_spike.utils import distributed
from full_spike.utils.errors import UserError
from support.agents import Jobs, wait_for
from support.command import assert_same_run, only
from support.images import imagenet_tree
from support.jobs import latest

SLURM = Path(__file__).parents[1] / "support" / "fake_slurm"
# 32 pixels: on maps of one pixel torch's bfloat16 gradient of a strided convolution reads memory that nobody wrote
SMALL = (
    "--train-crop-size 32 --val-resize-size 32 --val-crop-size 32 --width 4 --T 2 -b 4 -j 1 --device cpu --epochs 3 "
    "--cos_lr_T 3 --lr 0.01 --checkpoint-every 1"
).split()


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """SLURM's commands on the path."""
    monkeypatch.setenv("PATH", f"{SLURM}:{os.environ['PATH']}")
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
    assert not cluster.living()
    cluster.succeed(cluster.start(*command, tmp_path / "quiet"))
    assert_same_run(only(tmp_path / "quiet", "dsnn18*size32"), only(tmp_path / "out", "dsnn18*size32"))


@pytest.mark.slow
def test_a_batch_script_is_a_process_alone(cluster, tmp_path):
    """It has the job's variables, but only tasks of srun have peers; each job of an array has a number of its own."""
    data = imagenet_tree(tmp_path / "data")
    options = (*SMALL, "--data-path", str(data), "--output-dir", str(tmp_path / "out"), "--epochs", "1")
    assert main([*options]) == 0
    test = f"'{sys.executable}' -m imagenet.train {' '.join(options)} --test-only --resume auto"
    wrap = f"--wrap=env | grep ^SLURM_; exec {test}"
    printed = cluster.succeed(cluster.start("sbatch", "--ntasks-per-node=2", "--array=0-1", wrap))
    assert printed.count("SLURM_NTASKS=2\n") == 2
    assert printed.count("SLURM_PROCID=0\n") == 2
    assert "SLURM_ARRAY_TASK_ID=1\n" in printed
    assert sum(line.startswith("fsnn ") and line.endswith(" 30") for line in printed.splitlines()) == 2


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


TASK = {
    "SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1",
}  # fmt: skip


def test_a_tasks_variables(cluster):
    assert distributed.in_slurm_step(TASK)
    assert not distributed.in_slurm_step({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"})
    found = distributed.slurm_variables({**TASK, "SLURM_STEP_NODELIST": "gpu[07-09,12],login", "SLURM_JOB_ID": "5"})
    assert found.pop("MASTER_PORT").isdigit()
    assert found == {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07"}
    given = {"MASTER_ADDR": "a", "MASTER_PORT": "5"}
    task = {**TASK, **given, "SLURM_STEP_NODELIST": "gpu[07-09]"}
    assert given.items() <= distributed.slurm_variables(task).items()
    assert distributed.slurm_variables({**TASK, "SLURM_STEP_NUM_TASKS": "1"}) == {}


def test_jobs_and_steps_meet_at_ports_of_their_own():
    ports = [
        distributed.slurm_variables({**TASK, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})["MASTER_PORT"]
        for job in range(900, 1000)
        for step in range(3)
    ]
    assert len(set(ports)) == len(ports)
    assert all(15000 <= int(port) < 30000 for port in ports)


def test_a_node_list_without_scontrol_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot unfold SLURM's node list 'gpu\[07-09\]' .*: set MASTER_ADDR"):
        distributed.slurm_variables({**TASK, "SLURM_STEP_NODELIST": "gpu[07-09]"})

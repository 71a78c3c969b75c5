"""Whole jobs: a run's folder belongs to one of them, no process outlives its own, and torchrun's restarts go on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from full_spike.cifar.train import main
from full_spike.utils import checkpoint
from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError
from full_spike.utils.run_folder import LOCK, locked
from support import processes
from support.agents import OWN_STORES, Jobs, children, wait_for
from support.command import assert_same_run, only
from support.images import imagenet_tree
from support.jobs import DIGITS, latest


@pytest.fixture
def jobs(tmp_path):
    jobs = Jobs(tmp_path)
    yield jobs
    jobs.close()


def start(root, log="log"):
    _, *args = DIGITS
    return processes.start(main, [*args, "--output-dir", str(root / "out")], log=root / log)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The folder of a run of one process that nothing disturbed."""
    root = tmp_path_factory.mktemp("quiet")
    process = start(root)
    process.join(120)
    assert process.exitcode == 0, (root / "log").read_text()
    return only(root / "out")


@pytest.fixture(scope="module")
def quiet_pair(tmp_path_factory):
    """The folder of a run of two processes that nothing disturbed."""
    root = tmp_path_factory.mktemp("quiet")
    jobs = Jobs(root)
    jobs.succeed(jobs.standalone(*DIGITS, "--output-dir", root / "out"))
    jobs.close()
    return only(root / "out")


# torchrun


@pytest.mark.slow
def test_workers_end_with_their_agent_and_a_new_job_takes_over(jobs, tmp_path):
    command = (*DIGITS, "--aa", "trivialaugment", "-j", "1", "--output-dir", tmp_path / "out")
    agent = jobs.standalone(*command, processes=1)
    wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    (worker,) = children(agent.pid)
    assert wait_for(lambda: children(worker), "a loading process")
    agent.kill()
    agent.wait()
    wait_for(lambda: not jobs.living(), "the end of all processes", limit=30)
    assert "resumed from" in jobs.succeed(jobs.standalone(*command, processes=1))
    jobs.succeed(jobs.standalone(*command[:-1], tmp_path / "quiet", processes=1))
    assert_same_run(only(tmp_path / "quiet"), only(tmp_path / "out"))


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_restarts_by_itself(quiet_pair, jobs, tmp_path):
    agent = jobs.standalone(*DIGITS, "--output-dir", tmp_path / "out")
    wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    os.kill(children(agent.pid)[1], signal.SIGKILL)
    assert "resumed from" in jobs.succeed(agent)
    assert_same_run(quiet_pair, only(tmp_path / "out"))
    assert not jobs.living()


def test_a_process_whose_parent_has_ended_before_it_could_ask_ends(jobs):
    """As a worker that still imported when its agent was killed."""
    code = "import os, time\nfrom full_spike.utils.errors import end_with_parent\nparent = os.getpid()\n"
    code += "if not os.fork():\n"
    code += "    while os.getppid() == parent: time.sleep(0.01)\n    end_with_parent()\n    time.sleep(600)"
    jobs.succeed(jobs.start(sys.executable, "-c", code))
    wait_for(lambda: not jobs.living(), "the end of the child", limit=30)


@pytest.mark.slow
def test_a_signal_to_the_agent_has_its_workers_save(jobs, tmp_path):
    """scripts/train_imagenet.sh: by SIGUSR1, which schedulers send, torchrun's agent would end, and so its workers."""
    data = imagenet_tree(tmp_path / "data")
    options = (
        "--device cpu --train-crop-size 32 --val-resize-size 32 --val-crop-size 32 --width 4 --T 2 -b 4 -j 0 "
        "--epochs 50 --checkpoint-every 1"
    ).split()
    agent = jobs.start(
        "bash", "scripts/train_imagenet.sh", data, *options, "--output-dir", tmp_path / "out",
        env={"NPROC": "2", "PYTHON": sys.executable, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    os.kill(agent.pid, signal.SIGUSR1)
    agent.wait(120)
    assert "stopped: asked to stop; saved epoch" in jobs.printed(agent)
    assert not jobs.living()


@pytest.mark.slow
def test_two_agents_of_which_one_loses_a_worker_and_then_one_is_replaced(quiet_pair, jobs, tmp_path):
    """As on two machines, with the switch of scripts/train_imagenet_nodes.sh that lets a machine be replaced."""
    agents = jobs.agents(2, *DIGITS, "--output-dir", tmp_path / "out", env=OWN_STORES)
    wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    os.kill(children(agents[1].pid)[0], signal.SIGKILL)
    wait_for(lambda: "resumed from" in "".join(map(jobs.printed, agents)), "going on")
    agents[0].kill()
    agents[0].wait()
    agents[0] = jobs.another_agent()
    assert "resumed from" in jobs.succeed(*agents)
    assert_same_run(quiet_pair, only(tmp_path / "out"))
    assert not jobs.living()


# Two jobs and one folder


def test_a_second_job_is_told_and_the_first_one_is_not_disturbed(quiet, tmp_path):
    first = start(tmp_path)
    wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    os.kill(first.pid, signal.SIGSTOP)
    try:
        second = start(tmp_path, "second")
        second.join(60)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert second.exitcode == 1
    folder = only(tmp_path / "out")
    (line,) = (line for line in (tmp_path / "second").read_text().splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: {folder} is in use by process {first.pid} on {socket.gethostname()}: wait for its")
    assert line.endswith(f"choose another --output-dir, or, if it is over, delete {folder / LOCK}")
    first.join(120)
    assert first.exitcode == 0
    assert_same_run(quiet, folder)
    assert not (folder / LOCK).exists()


def test_a_job_whose_folder_was_taken_writes_nothing_more(tmp_path):
    job = start(tmp_path)
    path = wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    os.kill(job.pid, signal.SIGSTOP)
    theirs = path.with_name(LOCK)
    theirs.write_text(json.dumps({**json.loads(theirs.read_text()), "host": "elsewhere", "token": "another"}))
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    os.kill(job.pid, signal.SIGCONT)
    job.join(60)
    assert job.exitcode == 1
    assert f"error: {theirs} is no longer this job's" in (tmp_path / "log").read_text()
    after = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    partial = {name for name in {*before, *after} if name.endswith(".partial")}  # it may have been stopped in a write
    assert {name: after[name] for name in after.keys() - partial} == {
        name: before[name] for name in before.keys() - partial - {checkpoint.LATEST, checkpoint.PREVIOUS}
    } | {name: after[name] for name in (checkpoint.LATEST, checkpoint.PREVIOUS) if name in after}


def leave(folder, **changes):
    """The lock of an owner that is the process above this one, but for the changes."""
    owner = {"host": socket.gethostname(), "pid": os.getppid(), "job": "", "token": "theirs", **changes}
    (folder / LOCK).write_text(json.dumps(owner))
    return folder / LOCK


@pytest.mark.parametrize(
    "changes", [{}, {"host": "elsewhere"}, {"host": "elsewhere", "pid": 1 << 22, "job": "SLURM job 8"}]
)
def test_an_owner_that_may_live_is_let_alone(tmp_path, changes):
    path = leave(tmp_path, **changes)
    before = path.read_bytes()
    began = time.monotonic()
    with pytest.raises(UserError, match=f"is in use by process .*delete {path}$"), locked(tmp_path, World()):
        pass
    assert time.monotonic() - began < 10
    assert path.read_bytes() == before
    assert only(tmp_path) == path


def take(folder):
    with locked(folder, World()) as check:
        assert json.loads((folder / LOCK).read_text())["token"] != "theirs"
        check()
    assert not list(folder.iterdir())


def test_an_owner_that_has_ended_makes_room(tmp_path, monkeypatch):
    child = subprocess.Popen(["sleep", "100"])
    child.kill()
    leave(tmp_path, pid=child.pid)
    take(tmp_path)  # its parent has not asked for its status yet
    child.wait()
    leave(tmp_path, pid=child.pid)
    take(tmp_path)
    leave(tmp_path, pid=os.getpid())  # a container that was started again
    take(tmp_path)
    (tmp_path / LOCK).write_bytes(b'{"host":')  # whose write was cut off
    take(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "8")  # queued again, on another machine
    leave(tmp_path, host="elsewhere", job="SLURM job 8")
    take(tmp_path)


def contend(folder, tried, end):
    """0 for the job that has the folder after everyone tried to get it, else 7."""
    try:
        with locked(folder, World()) as check:
            (tried / str(os.getpid())).touch()
            wait_for(end.exists, "everyone's try", limit=60)
            check()
    except UserError:
        (tried / str(os.getpid())).touch()
        return 7
    return 0


def test_one_of_many_gets_what_a_dead_one_held(tmp_path):
    folder, tried, end = (tmp_path / name for name in ("run", "tried", "end"))
    folder.mkdir()
    tried.mkdir()
    leave(folder, pid=1 << 22)
    contenders = [processes.start(contend, folder, tried, end, log=tmp_path / "log") for _ in range(6)]
    wait_for(lambda: len(list(tried.iterdir())) == 6, "everyone's try")
    end.touch()
    for process in contenders:
        process.join(30)
    assert sorted(process.exitcode for process in contenders) == [0, 7, 7, 7, 7, 7]
    assert not (folder / LOCK).exists()

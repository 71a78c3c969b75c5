"""A run's folder belongs to one job, and no process outlives the job that it belongs to."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.jobs import Jobs, children, wait_for
from full_spike.utils.cluster import lease
from full_spike.utils.cluster.holder import is_over, this_process
from full_spike.utils.cluster.lease import NAME, Lease
from full_spike.utils.errors import UserError
from support import processes
from support.command import assert_same_run, only
from support.images import imagenet_tree
from support.jobs import DIGITS, latest


@pytest.fixture
def jobs(tmp_path):
    jobs = Jobs(tmp_path)
    yield jobs
    jobs.close()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The folder of a run of one process that nothing disturbed."""
    root = tmp_path_factory.mktemp("quiet")
    process = start(root)
    process.join(120)
    assert process.exitcode == 0
    return only(root / "out")


def start(root, log="log"):
    module, *args = DIGITS
    assert module == "cifar.train"
    return processes.start(cifar.train.main, [*args, "--output-dir", str(root / "out")], log=root / log)


@pytest.mark.slow
def test_workers_end_with_their_agent_and_a_new_job_takes_over(quiet, jobs, tmp_path):
    command = (*DIGITS, "-j", "1", "--output-dir", tmp_path / "out")
    agent = jobs.standalone(*command, processes=1)
    wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    (worker,) = children(agent.pid)
    assert wait_for(lambda: children(worker), "a loading process")
    agent.kill()
    agent.wait()
    wait_for(lambda: not jobs.living(), "the end of all processes", limit=30)
    assert "resumed from" in jobs.succeed(jobs.standalone(*command, processes=1))
    assert_same_run(quiet, only(tmp_path / "out"))


def as_worker(jobs, script, *options):
    """A worker of torchrun, so its environment says, that a shell starts."""
    env = {"TORCHELASTIC_RUN_ID": "job", "RANK": "0", "WORLD_SIZE": "1"}
    return jobs.start("sh", "-c", script, "-", sys.executable, "-m", *DIGITS, *options, env=env)


def test_a_worker_whose_agent_is_gone_before_it_begins(jobs, tmp_path):
    status = tmp_path / "status"
    shell = as_worker(jobs, f'("$@"; echo $? > {status}) &', "--output-dir", tmp_path / "out")  # an orphan
    wait_for(lambda: status.exists() and status.read_text(), "its end")
    assert status.read_text() == "1\n"
    assert "error: the torchrun agent that started this process is gone" in jobs.printed(shell)
    assert not (tmp_path / "out").exists()


def test_a_worker_that_a_script_starts_ends_with_the_agent_too(jobs, tmp_path):
    """The agent is what has torch loaded; the script goes on."""
    script = ["sh", "-c", '"$@"; exit $?', "-", sys.executable, "-m", *DIGITS, "--output-dir", str(tmp_path / "out")]
    agent = jobs.start(
        sys.executable, "-c", f"import torch, subprocess; subprocess.run({script!r})",
        env={"TORCHELASTIC_RUN_ID": "job", "RANK": "0", "WORLD_SIZE": "1"},
    )  # fmt: skip
    wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    agent.kill()
    agent.wait()
    wait_for(lambda: not jobs.living(), "the end of all processes", limit=30)


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
    line = (tmp_path / "second").read_text().splitlines()[-1]
    folder = only(tmp_path / "out")
    assert line.startswith(f"error: {folder} is in use by process {first.pid} on {this_process()['host']}, whose last")
    assert line.endswith(f"choose another --output-dir; if it is over, delete {folder / NAME}")
    first.join(120)
    assert first.exitcode == 0
    assert_same_run(quiet, folder)
    assert not list(folder.glob(f"{NAME}*"))


def test_a_job_whose_folder_was_taken_writes_nothing_more(tmp_path):
    job = start(tmp_path)
    path = wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    os.kill(job.pid, signal.SIGSTOP)
    theirs = path.with_name(NAME)
    theirs.write_text(json.dumps({**json.loads(theirs.read_text()), "host": "elsewhere", "token": "another"}))
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    os.kill(job.pid, signal.SIGCONT)
    job.join(60)
    assert job.exitcode == 1
    assert "and now names process" in (tmp_path / "log").read_text().splitlines()[-1]
    after = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    partial = {name for name in after if name.endswith(".partial")}  # it may have been stopped in a write
    assert {name: after[name] for name in after.keys() - partial} == before


# Leases that are there already


def leave(folder, **changes):
    """The lease of a holder that is this process but for the changes."""
    (folder / NAME).write_text(json.dumps({**this_process(), "token": "theirs", **changes}))
    return folder / NAME


def state_and_start(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[19])


@pytest.mark.parametrize(
    "changes",
    [
        {},  # it runs: this very process
        {"host": "elsewhere"},
        {"host": "elsewhere", "pid": 1 << 22},
        {"namespace": "pid:[1]", "pid": 1 << 22},  # another container
        {"job": "SLURM job 8", "host": "elsewhere"},
    ],
)
def test_a_holder_that_may_live_is_let_alone(tmp_path, changes):
    path = leave(tmp_path, **changes)
    before = path.read_bytes()
    with pytest.raises(UserError, match="is in use by process"):
        Lease(path)
    assert path.read_bytes() == before
    assert only(tmp_path) == path


def take(path):
    ours = Lease(path)
    assert json.loads(path.read_text())["token"] == ours.holder["token"] != "theirs"
    ours.check()
    ours.release()
    assert not list(path.parent.iterdir())


def test_a_holder_that_has_ended_makes_room(tmp_path):
    child = subprocess.Popen(["sleep", "100"])
    _, started = state_and_start(child.pid)
    child.kill()
    wait_for(lambda: state_and_start(child.pid)[0] == "Z", "its end")
    take(leave(tmp_path, pid=child.pid, started=started))  # its parent has not asked for its status yet
    child.wait()
    take(leave(tmp_path, pid=child.pid, started=started))


def test_an_id_that_is_used_again_is_no_holder(tmp_path):
    take(leave(tmp_path, started=this_process()["started"] - 1))


def test_a_job_that_was_started_again_elsewhere_watches_for_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setattr(lease, "RENEWAL", 0.2)
    take(leave(tmp_path, host="elsewhere"))
    living = Lease(tmp_path / NAME)  # renews what then looks as if it came from another machine
    leave(tmp_path, host="elsewhere", token=living.holder["token"])
    monkeypatch.setattr(lease, "RENEWAL", 3.0)
    with pytest.raises(UserError, match=r"elsewhere \(torchrun job job\), whose last sign of life was 0 s ago"):
        Lease(tmp_path / NAME)
    living.release()
    assert not list(tmp_path.iterdir())


HERE = {
    "host": "a", "machine": "m", "boot": "b", "namespace": "n", "pid": os.getpid(), "started": 5, "job": "",
    "restart": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("there", "here", "over"),
    [
        ({"boot": "earlier"}, {}, True),  # the machine was started again
        ({"boot": "earlier", "machine": "other"}, {}, False),  # another one of the same name
        ({"boot": "earlier", "machine": ""}, {"machine": ""}, False),  # containers have no id
        ({"host": "b", "boot": "earlier"}, {}, False),
        ({"host": "b", "job": "SLURM job 8"}, {"job": "SLURM job 8", "restart": 1}, True),  # queued again
        ({"host": "b", "job": "SLURM job 8"}, {"job": "SLURM job 8"}, False),
        ({"host": "b", "job": "SLURM job 7"}, {"job": "SLURM job 8", "restart": 1}, False),
    ],
)
def test_what_is_known_of_a_holder(there, here, over):
    assert is_over({**HERE, **there}, {**HERE, **here}) == over


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"5", b"{}", b'{"token": "x"}', json.dumps({**HERE, "job": 5}).encode()]
)
def test_a_damaged_lease_is_one_line(tmp_path, content):
    path = tmp_path / NAME
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"lease.json is damaged.*delete it if none does$"):
        Lease(path)
    assert path.read_bytes() == content


def contend(path, everyone_tried):
    """7 if another one has it."""
    try:
        ours = Lease(path)
    except UserError:
        return 7
    while not everyone_tried.exists():
        time.sleep(0.02)
    ours.check()
    ours.release()
    return 0


def test_one_of_many_gets_what_a_dead_one_held(tmp_path):
    path = leave(tmp_path, started=this_process()["started"] - 1)
    end = tmp_path / "end"
    contenders = [processes.start(contend, path, end, log=tmp_path / "log") for _ in range(6)]
    wait_for(lambda: sum(not process.is_alive() for process in contenders) >= 5, "the others' refusal")
    end.touch()
    for process in contenders:
        process.join(30)
    assert sorted(process.exitcode for process in contenders) == [0, 7, 7, 7, 7, 7]
    assert not path.exists()

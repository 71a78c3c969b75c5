"""Jobs on several machines: real agents of torchrun, killed, replaced and left alone."""

import os
import signal

import pytest

from benchmarks.jobs import OWN_STORES, Jobs, children, wait_for
from support.command import assert_same_run, only
from support.jobs import DIGITS, latest


@pytest.fixture
def jobs(tmp_path):
    jobs = Jobs(tmp_path)
    yield jobs
    jobs.close()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The folder of a run of two processes that nothing disturbed."""
    root = tmp_path_factory.mktemp("quiet")
    jobs = Jobs(root)
    jobs.succeed(jobs.standalone(*DIGITS, "--output-dir", root / "out"))
    jobs.close()
    return only(root / "out")


@pytest.mark.slow
def test_two_agents_of_which_one_loses_a_worker(quiet, jobs, tmp_path):
    """Plain torchrun. Only the agent whose worker was killed counts a restart, or both do: they meet all the same."""
    agents = jobs.agents(2, *DIGITS, "--output-dir", tmp_path / "out")
    wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    os.kill(children(agents[1].pid)[0], signal.SIGKILL)
    assert "resumed from" in jobs.succeed(*agents)
    assert_same_run(quiet, only(tmp_path / "out"))


@pytest.mark.slow
def test_two_agents_of_which_one_loses_a_worker_and_then_one_is_replaced(quiet, jobs, tmp_path):
    """With the switch that lets a machine be replaced."""
    agents = jobs.agents(2, *DIGITS, "--output-dir", tmp_path / "out", env=OWN_STORES)
    wait_for(lambda: latest(tmp_path / "out"), "a checkpoint")
    os.kill(children(agents[1].pid)[0], signal.SIGKILL)
    wait_for(lambda: "resumed from" in "".join(map(jobs.printed, agents)), "going on")
    agents[0].kill()
    agents[0].wait()
    agents[0] = jobs.another_agent()
    assert "resumed from" in jobs.succeed(*agents)
    assert_same_run(quiet, only(tmp_path / "out"))

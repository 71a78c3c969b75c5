"""Runs a training script: in this process where that shows the same, in one of its own where it does not."""

import contextlib
import importlib
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

from full_spike.utils import checkpoint
from support.processes import run_module

ROOT = Path(__file__).parent.parent.parent
TORCHRUN = ("torch.distributed.run", "--standalone")

# A network and schedule that take a second an epoch.
TINY = ("--width", "4", "--T", "2", "--image-size", "8", "-b", "256", "-j", "0", "--device", "cpu")


def call(module, *args):
    """The script's main function, here: its status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = importlib.import_module(module).main([str(arg) for arg in args])
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


def run(module, *args, timeout=300, env=None):
    """`python -m module args` in a process of its own, but for the interpreter's start."""
    (done,) = run_module(module, *args, envs=[env or {}], timeout=timeout)
    return done


def run_together(module, *args, processes=2, timeout=300):
    """The same in several processes of one run, as torchrun would start them: what each printed, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        envs = [{"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(processes)} for i in range(processes)]
        return run_module(module, *args, "--dist-url", f"file://{folder}/meeting_place", envs=envs, timeout=timeout)


def succeed(module, *args, how=call, **kwargs):
    """Standard output of a run that must end well."""
    done = how(module, *args, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(module, *args, status, how=call, **kwargs):
    """The one line that a run which must fail says, checked for its form."""
    done = how(module, *args, **kwargs)
    assert done.returncode == status, (done.returncode, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if re.match(r"(error|stopped)( on rank \d+)?: ", line)]
    assert len(lines) == 1, done.stderr
    assert how is not call or done.stderr == f"{lines[0]}\n"
    return lines[0]


def launch(launcher, *args, cwd=ROOT, timeout=120):
    """`python -m launcher args`, for runs of several processes."""
    command = [sys.executable, "-m", *launcher, *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def only(folder, pattern="*"):
    (found,) = folder.glob(pattern)
    return found


def assert_same_run(a, b):
    """Two runs' newest checkpoints hold the same weights, optimizer and results."""
    ours, theirs = (checkpoint.read(folder / checkpoint.LATEST) for folder in (a, b))
    assert all(torch.equal(ours["model"][key], theirs["model"][key]) for key in ours["model"])
    for key, state in ours["optimizer"]["state"].items():
        assert all(torch.equal(state[name], theirs["optimizer"]["state"][key][name]) for name in state)
    for name in ("epoch", "step", "max_test_acc1"):
        assert ours[name] == theirs[name]

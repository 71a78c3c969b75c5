"""Runs a training script: in this process where that shows the same, in one of its own where it does not."""

import contextlib
import importlib
import io
import json
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

# A network that takes a second an epoch on the digits.
TINY = ("--width", "4", "--T", "2", "--image-size", "8", "-b", "256", "-j", "0", "--device", "cpu")


def call(module, *args):
    """The script's main function, here: its status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = importlib.import_module(module).main([str(arg) for arg in args])
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


def run(module, *args, timeout=120, env=None):
    """`python -m module args` in a process of its own, but for the interpreter's start."""
    (done,) = run_module(module, *args, envs=[env or {}], timeout=timeout)
    return done


def run_together(module, *args, processes=2, timeout=120):
    """The same in several processes of one run, as torchrun would start them: what each printed, by rank."""
    return run_ranks(module, *[args] * processes, timeout=timeout)


def run_ranks(module, *commands, folders=None, timeout=120):
    """The same with a command line of its own for each process, and perhaps a folder to work in."""
    with tempfile.TemporaryDirectory() as folder:
        envs = [{"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(len(commands))} for i in range(len(commands))]
        commands = [(*command, "--dist-url", f"file://{folder}/meeting_place") for command in commands]
        return run_module(module, commands=commands, envs=envs, folders=folders, timeout=timeout)


def succeed(module, *args, how=call, **kwargs):
    """Standard output of a run that must end well; of the main process, where there are several."""
    done = how(module, *args, **kwargs)
    for process in done if isinstance(done, list) else [done]:
        assert process.returncode == 0, process.stdout + process.stderr
    return (done[0] if isinstance(done, list) else done).stdout


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


def newest(out):
    """What the newest checkpoint of the one run in an output folder holds."""
    return checkpoint.read(only(out, f"*/{checkpoint.LATEST}"))


def entries(folder):
    """The lines of a run's metrics.jsonl, without how fast they came."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "images_per_second": None} for line in lines]


def row(text, readout):
    """The numbers that --test-only prints of a readout."""
    return next(line.split()[1:] for line in text.splitlines() if line.startswith(f"{readout} "))


def assert_same_run(a, b):
    """Two runs' newest checkpoints hold the same bits, and both have reported the same."""
    ours, theirs = (checkpoint.read(folder / checkpoint.LATEST) for folder in (a, b))
    for part in ("model", "ema"):
        if ours[part] is not None:
            assert ours[part].keys() == theirs[part].keys()
            assert all(torch.equal(value, theirs[part][key]) for key, value in ours[part].items()), part
    for key, state in ours["optimizer"]["state"].items():
        assert all(torch.equal(state[name], theirs["optimizer"]["state"][key][name]) for name in state)
    for name in ("epoch", "step", "max_test_acc1", "test_acc5_at_max_test_acc1", "lr_scheduler", "scaler"):
        assert ours[name] == theirs[name], name
    assert all(torch.equal(x, y) for x, y in zip(ours["random_states"], theirs["random_states"], strict=True))
    assert entries(a) == entries(b)

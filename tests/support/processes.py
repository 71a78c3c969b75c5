"""Processes forked from a server that has imported everything: starting a dozen takes as long as importing once."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.multiprocessing as mp

from full_spike.utils import distributed

context = multiprocessing.get_context("forkserver")
DATA_SETS = (
    "full_spike.cifar.data",
    "full_spike.cifar10dvs.data",
    "full_spike.dvsgesture.data",
    "full_spike.imagenet.data",
)
context.set_forkserver_preload(["pytest", *DATA_SETS, "full_spike.utils.testing", "torch.utils.tensorboard"])


def _exit_with(function, args, outputs, env):
    """function(*args), then the process ends with what that returned. All of its output goes to files, C code's too."""
    torch.set_num_threads(1)
    os.environ.update(env)
    multiprocessing.set_start_method("fork", force=True)  # for loading processes, as in any program
    for stream, path in zip((sys.stdout, sys.stderr), outputs, strict=True):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
        stream.reconfigure(line_buffering=True)
    try:
        status = function(*args)
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def start(function, *args, log, errors=None, env=None):
    """A process that ends with the status function(*args), its output appended to `log`, and to `errors` if given."""
    outputs = (str(log), str(errors or log))
    process = context.Process(target=_exit_with, args=(function, args, outputs, env or {}))
    process.start()
    return process


def _run_module(module, args, folder):
    if folder is not None:
        os.chdir(folder)
    sys.argv = [module, *args]
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_module(module, *args, commands=None, envs=({},), folders=None, timeout=120):
    """`python -m module args` in a process for each of `envs`: what each printed, and the status that it ended with.

    Args:
        commands: instead of `args`, those of each process.
        folders: that each process works in.
    """
    commands, folders = commands or [args] * len(envs), folders or [None] * len(envs)
    with tempfile.TemporaryDirectory() as folder:
        files = [(os.path.join(folder, f"out{i}"), os.path.join(folder, f"err{i}")) for i in range(len(envs))]
        started = [
            start(_run_module, module, [str(arg) for arg in command], place, log=out, errors=err, env=env)
            for command, place, (out, err), env in zip(commands, folders, files, envs, strict=True)
        ]
        try:
            for process in started:
                process.join(timeout)
                assert process.exitcode is not None, f"{module} did not end within {timeout} s"
        finally:
            for process in started:
                process.kill()
        done = []
        for process, paths in zip(started, files, strict=True):
            out, err = (Path(path).read_text() for path in paths)
            done.append(SimpleNamespace(returncode=process.exitcode, stdout=out, stderr=err))
        return done


def join_run(rank, results, size, meeting_place, function, *args):
    """One of `size` processes that meet there: keeps what function(world, *args) returns."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    world = distributed.start("cpu", dist_url=meeting_place, timeout=60)
    results[rank] = function(world, *args)
    distributed.stop(world)


def in_each(size, join, *args):
    """join(rank, results, *args) in `size` processes; the results by rank."""
    with mp.Manager() as manager:
        results = manager.dict()
        mp.start_processes(join, (results, *args), nprocs=size, start_method="forkserver")
        return [results[rank] for rank in range(size)]


def on_processes(size, function, *args):
    """function(world, *args) in `size` real processes over gloo; what each returned, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        return in_each(size, join_run, size, f"file://{folder}/meeting_place", function, *args)

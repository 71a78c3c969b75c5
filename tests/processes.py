"""Processes forked from a server that has imported everything: starting a dozen takes as long as importing once."""

import io
import multiprocessing
import os
import sys
import tempfile

import torch
import torch.multiprocessing as mp

from utils.runtime import distributed

# Imported from the root of the repository; what tests/ holds comes on top in each process, and takes no time.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["pytest", "cifar.train", "cifar10dvs.train", "dvsgesture.train", "imagenet.train", "spikingjelly.datasets.utils"]
)


def _log_and_exit(function, log, *args):
    torch.set_num_threads(1)
    with open(log, "a") as file:
        sys.stdout = sys.stderr = io.TextIOWrapper(file.buffer, write_through=True)
        status = function(*args)
        sys.stdout.flush()
    os._exit(status)


def start(function, *args, log):
    """function(*args) in a process of its own, whose status is what it returns, and whose output goes to `log`."""
    process = context.Process(target=_log_and_exit, args=(function, str(log), *args))
    process.start()
    return process


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

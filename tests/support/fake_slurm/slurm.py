#!/usr/bin/env python3
"""A SLURM of one machine for tests: sbatch, srun, scontrol and scancel, whichever name this file is called by.

Real processes with SLURM's variables, as its manual describes them. Jobs live in the folder $FAKE_SLURM.

    sbatch [--ntasks-per-node=N] SCRIPT [ARGS]    run the job, queued again as often as it asks for, and wait for it
    sbatch [--array=FIRST-LAST] --wrap=COMMAND    the same of a script that is this command; an array's jobs in turn
    srun [--kill-on-bad-exit[=0|1]] [--wait=SECONDS] COMMAND    start the job's tasks and wait for them
    scontrol requeue JOB                          end the job and have sbatch start it again
    scontrol show hostnames LIST                  the names in a list such as a[01-03,7],b
    scancel --signal=NAME JOB                     to all processes of the job's steps, but not to its script

Where slurm.conf says KillOnBadExit=1, tests set FAKE_SLURM_KILL_ON_BAD_EXIT=1.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path


def job_folder(job):
    return Path(os.environ["FAKE_SLURM"]) / str(job)


def options(args, known):
    """({name: value} of the leading options, what follows them)."""
    found = {}
    while args and args[0].startswith("-"):
        name, _, value = args[0].partition("=")
        if name not in known:
            sys.exit(f"unknown option {name}")
        found[name] = value
        args = args[1:]
    return found, args


def kill_groups(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)


def sbatch(args):
    given, rest = options(args, {"--ntasks-per-node", "--array", "--wrap"})
    job = 100_000 + os.getpid()
    print("Submitted batch job", job, flush=True)
    folder = job_folder(job)
    folder.mkdir(parents=True)
    if "--wrap" in given:
        rest = [folder / "script"]
        rest[0].write_text(f"#!/bin/sh\n#SBATCH --job-name=wrap\n#SBATCH --ntasks-per-node=1\n{given['--wrap']}\n")
    if "--array" not in given:
        return run_job(job, given, *rest)
    first, last = map(int, given["--array"].split("-"))
    array = {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_COUNT": last - first + 1}
    array |= {"SLURM_ARRAY_TASK_MIN": first, "SLURM_ARRAY_TASK_MAX": last}
    tasks = range(first, last + 1)  # each is a job with a number of its own
    return max(run_job(job + i, given, *rest, **array, SLURM_ARRAY_TASK_ID=task) for i, task in enumerate(tasks))


def run_job(job, given, script, *rest, **array):
    directives = dict(re.findall(r"^#SBATCH (--[a-z-]+)=?(\S*)", Path(script).read_text(), re.MULTILINE)) | given
    tasks = directives["--ntasks-per-node"]
    folder = job_folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    env = {
        "SLURM_JOB_ID": job, "SLURM_JOBID": job, "SLURM_JOB_NAME": directives["--job-name"], "SLURM_NTASKS": tasks,
        "SLURM_NPROCS": tasks, "SLURM_NTASKS_PER_NODE": tasks, "SLURM_TASKS_PER_NODE": tasks, "SLURM_NNODES": 1,
        "SLURM_JOB_NUM_NODES": 1, "SLURM_JOB_NODELIST": "localhost", "SLURM_NODELIST": "localhost",
        "SLURM_SUBMIT_DIR": os.getcwd(), "SLURM_NODEID": 0, "SLURM_PROCID": 0, "SLURM_LOCALID": 0, **array,
    }  # fmt: skip
    for restart in range(10):
        if restart:
            env["SLURM_RESTART_COUNT"] = restart
        (folder / "steps").write_text("0")
        (folder / "tasks").write_text("")
        batch = subprocess.Popen(
            ["bash", script, *rest], env=os.environ | {k: str(v) for k, v in env.items()}, start_new_session=True
        )
        (folder / "batch").write_text(str(batch.pid))
        status = batch.wait()
        kill_groups(map(int, (folder / "tasks").read_text().split()), signal.SIGKILL)
        requeue = folder / "requeue"
        if not requeue.exists():
            return status
        requeue.unlink()
    raise AssertionError("queued again too often")


def srun(args):
    given, command = options(args, {"--kill-on-bad-exit", "--wait"})
    kill = os.environ.get("FAKE_SLURM_KILL_ON_BAD_EXIT", "0")
    if "--kill-on-bad-exit" in given:
        kill = given["--kill-on-bad-exit"] or "1"
    patience = float(given.get("--wait") or "inf") or float("inf")
    folder = job_folder(os.environ["SLURM_JOB_ID"])
    step = int((folder / "steps").read_text())
    (folder / "steps").write_text(str(step + 1))
    tasks = []
    for task in range(int(os.environ["SLURM_NTASKS"])):
        env = {
            "SLURM_STEP_ID": step, "SLURM_STEPID": step, "SLURM_STEP_NUM_TASKS": os.environ["SLURM_NTASKS"],
            "SLURM_STEP_NUM_NODES": 1, "SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": task, "SLURM_LOCALID": task,
            "SLURM_NODEID": 0,
        }  # fmt: skip
        tasks.append(
            subprocess.Popen(command, env=os.environ | {k: str(v) for k, v in env.items()}, start_new_session=True)
        )
        with open(folder / "tasks", "a") as file:
            file.write(f"{tasks[-1].pid}\n")
    first_end = None
    while any(task.poll() is None for task in tasks):
        ended = [task.returncode for task in tasks if task.poll() is not None]
        if ended and first_end is None:
            first_end = time.monotonic()
        too_long = first_end is not None and time.monotonic() - first_end > patience
        if too_long or (kill == "1" and any(ended)):
            kill_groups([task.pid for task in tasks if task.poll() is None], signal.SIGKILL)
        time.sleep(0.01)
    # "the highest exit code of all tasks run or the highest signal" + 128
    return max(code if code >= 0 else 128 - code for code in (task.returncode for task in tasks))


def scontrol(args):
    if args[0] == "requeue":
        folder = job_folder(args[1])
        (folder / "requeue").touch()
        kill_groups([int((folder / "batch").read_text())], signal.SIGTERM)
        time.sleep(10)  # this process is one of the job's: it does not get here
    elif args[:2] == ["show", "hostnames"]:
        for prefix, numbers in re.findall(r"([^,\[]+)(?:\[([^\]]+)\])?,?", args[2]):
            for part in numbers.split(",") if numbers else [""]:
                first, _, last = part.partition("-")
                for number in range(int(first), int(last or first) + 1) if part else [None]:
                    print(prefix if number is None else f"{prefix}{number:0{len(first)}}")
    else:
        sys.exit(f"unknown command {args}")


def scancel(args):
    given, (job,) = options(args, {"--signal"})
    kill_groups(map(int, (job_folder(job) / "tasks").read_text().split()), signal.Signals[f"SIG{given['--signal']}"])


if __name__ == "__main__":
    commands = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "scancel": scancel}
    sys.exit(commands[Path(sys.argv[0]).name](sys.argv[1:]))

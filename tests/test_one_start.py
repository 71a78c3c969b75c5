"""All processes of a run begin at the same point, whatever each machine's folders hold."""

import os
import shutil
from argparse import Namespace

import pytest
import torch

from full_spike.utils import checkpoint
from full_spike.utils.checkpoints.resume import find, require_alike
from full_spike.utils.errors import UserError
from support import processes
from support.command import TINY, assert_same_run, only, run_together, succeed

ARGS = (*TINY, "--cos_lr_T", "3", "--ema-decay", "0.9")


def join(rank, size, meeting_place, args):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    return cifar.train.main([str(arg) for arg in (*args, "--dist-url", meeting_place)])


def on_machines(folder, *commands):
    """A run of one process for each of the commands: (what each printed, the statuses)."""
    folder.mkdir(parents=True)
    logs = [folder / f"log{rank}" for rank in range(len(commands))]
    url = f"file://{folder}/meeting_place"
    jobs = [processes.start(join, i, len(commands), url, args, log=logs[i]) for i, args in enumerate(commands)]
    for job in jobs:
        job.join(120)
    return [log.read_text() for log in logs], [job.exitcode for job in jobs]


def train(folder, *commands):
    printed, statuses = on_machines(folder, *commands)
    assert set(statuses) == {0}, printed
    return printed


def refused(folder, *commands):
    """The line in which the main process says why no process trains."""
    (first, *others), statuses = on_machines(folder, *commands)
    assert 0 not in statuses
    assert all("its error says why" in printed for printed in others)
    assert "Traceback" not in first
    (line,) = [line for line in first.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Output folders of runs of two processes: after all of three epochs, after one, and after two."""
    root = tmp_path_factory.mktemp("parts")
    train(root / "a", *[(*ARGS, "--epochs", 3, "--output-dir", root / "whole")] * 2)
    train(root / "b", *[(*ARGS, "--epochs", 1, "--output-dir", root / "older")] * 2)
    shutil.copytree(root / "older", root / "newer")
    train(root / "c", *[(*ARGS, "--epochs", 2, "--output-dir", root / "newer", "--resume", "auto")] * 2)
    return root


@pytest.mark.parametrize("seen", ["older", "nothing"])
def test_a_machine_that_sees_an_older_folder_goes_on_where_the_main_one_does(parts, tmp_path, seen):
    for name in ("newer", "older"):
        shutil.copytree(parts / name, tmp_path / name)
    commands = [(*ARGS, "--epochs", 3, "--output-dir", tmp_path / name, "--resume", "auto") for name in ("newer", seen)]
    printed, _ = train(tmp_path / "run", *commands)
    assert "epoch 3, batch 0" in printed
    assert_same_run(only(parts / "whole"), only(tmp_path / "newer"))
    averaged = [
        checkpoint.read(only(root) / checkpoint.LATEST)["ema"] for root in (parts / "whole", tmp_path / "newer")
    ]
    assert all(torch.equal(averaged[0][name], averaged[1][name]) for name in averaged[0])


def test_a_named_checkpoint_is_read_by_the_main_process_alone(parts, tmp_path):
    path = only(parts / "newer") / checkpoint.LATEST
    test = (*ARGS, "--test-only", "--resume")
    alone = succeed("cifar.train", *test, path)
    printed, _ = train(tmp_path / "run", (*test, path), (*test, tmp_path / "none.pth"))
    rows = [[line for line in text.splitlines() if line.endswith(" 360")] for text in (alone, printed)]
    assert len(rows[0]) == 3
    assert rows[0] == rows[1]


def read_published(world, path):
    """What each process gets, of whom the others can read no such file."""
    _, content = find(str(path) if world.is_main else "none.pth", path.parent, print, world)
    return content["args"].model, content["model"]["a"].tolist()


def test_a_published_checkpoint_comes_with_its_namespace(tmp_path):
    torch.save({"model": {"a": torch.arange(3)}, "args": Namespace(model="sew_resnet18")}, tmp_path / "published.pth")
    read = processes.on_processes(2, read_published, tmp_path / "published.pth")
    assert read == [("sew_resnet18", [0, 1, 2])] * 2


def test_a_checkpoint_that_the_main_process_cannot_read_stops_all(parts, tmp_path):
    path = only(parts / "newer") / checkpoint.LATEST
    commands = [(*ARGS, "--epochs", 3, "--output-dir", tmp_path, "--resume", p) for p in (tmp_path / "none.pth", path)]
    assert "there is no checkpoint" in refused(tmp_path / "run", *commands)


def test_other_options_in_one_process_stop_all(tmp_path):
    common = (*ARGS, "--epochs", 1, "--output-dir", tmp_path)
    for number, other in enumerate((("--lr", "0.05"), ("--print-freq", "3"), ("--tb",), ("-b", "128"))):
        line = refused(tmp_path / str(number), common, (*common, *other))
        assert "not the same in process 1 as in the main one: start all processes with the same command" in line


def compare(world, *changes):
    """What process 2 hears of its own state, changed in these places."""
    state = {
        "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)},
        "optimizer": {"state": {0: {"step": 3}}, "groups": [{"lr": 0.1}]},
    }
    if world.rank == 2:
        for name, change in changes:
            change(state[name])
    try:
        require_alike(state, world)
    except UserError as error:
        return str(error)


def flip_lowest_bit(weights):
    weights["b"].view(torch.int16)[1] ^= 1


def reshape(weights):
    weights["a"] = weights["a"].view(3, 2)


def step_more(optimizer):
    optimizer["state"][0]["step"] += 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([("weights", flip_lowest_bit)], "weights"),
        ([("weights", reshape)], "weights"),
        ([("optimizer", step_more)], "optimizer"),
        ([("weights", reshape), ("optimizer", step_more)], "weights, optimizer"),
    ],
)
def test_any_difference_is_found(changes, named):
    lines = processes.on_processes(3, compare, *changes)
    assert lines[0].startswith(f"{named}: not the same in process 2 as in the main one")
    assert set(lines[1:]) == {"comparing the processes failed in the main process: its error says why"}


def test_no_difference_is_none():
    assert processes.on_processes(3, compare) == [None] * 3


def test_four_processes_that_go_on_end_with_the_bits_of_four_that_never_stopped(tmp_path):
    """Sums of more than two numbers depend on their order, and so on how gradients are put together to be sent."""
    args = (*ARGS, "-b", "64", "--resume", "auto", "--output-dir")
    for folder, epochs in (("whole", 2), ("parts", 1), ("parts", 2)):
        for process in run_together("cifar.train", *args, tmp_path / folder, "--epochs", epochs, processes=4):
            assert process.returncode == 0, process.stderr
    assert_same_run(only(tmp_path / "whole"), only(tmp_path / "parts"))

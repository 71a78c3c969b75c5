"""Several processes against one: the same counts, the same stop, the same start."""

import shutil

import pytest
import torch
import torch.distributed as dist

from full_spike.utils import checkpoint
from full_spike.utils.checkpoint import require_alike
from full_spike.utils.data.loading import EpochSampler
from full_spike.utils.distributed import Consensus, World
from full_spike.utils.errors import UserError
from full_spike.utils.interrupts import NOTHING, SAVE, STOP, Interrupts
from full_spike.utils.options import interval
from full_spike.utils.seed import derive, get_rng_state, seed_everything, set_rng_state
from support.command import assert_same_run, only, row, run_ranks, run_together, succeed
from support.images import image_tree
from support.processes import on_processes

TRAIN = "full_spike.cifar.train"


def stop_steps(world):
    """When each process learns that process 1 asked to stop at its third step."""
    consensus = Consensus(world)
    seen = []
    for step in range(6):
        seen.append(consensus.exchange(STOP if world.rank == 1 and step == 2 else NOTHING))
    return [*seen, consensus.settle()]


def test_all_processes_stop_at_the_same_step():
    expected = [NOTHING, NOTHING, NOTHING, STOP, NOTHING, NOTHING, NOTHING]
    assert on_processes(3, stop_steps) == [expected] * 3


def random_streams(world):
    seed_everything(5, world.rank)
    state = get_rng_state(world.device)
    first = torch.rand(3).tolist()
    states = world.gather(state)
    set_rng_state(states[world.rank], world.device)
    return first, torch.rand(3).tolist()


def test_each_process_has_its_own_stream_the_same_in_each_rerun():
    one, again = on_processes(2, random_streams), on_processes(2, random_streams)
    assert one == again
    assert one[0] != one[1]
    assert all(first == restored for first, restored in one)


def main_only_failure(world):
    try:
        with world.main_only("the work") as main:
            if main:
                raise OSError(28, "No space left on device")
    except Exception as error:
        dist.barrier()  # nobody is left waiting
        return f"{type(error).__name__}: {error}"


def test_a_failure_of_the_main_process_stops_all():
    first, second = on_processes(2, main_only_failure)
    assert first == "OSError: [Errno 28] No space left on device"
    assert second == "UserError: the work failed in the main process: its error says why"


def test_an_epoch_goes_on_where_it_stopped_and_the_next_one_differs():
    sampler = EpochSampler(range(50), 8, World(), seed=1)
    sampler.start_at(3)
    whole = list(sampler)
    assert len(whole) == len(sampler) == 50
    sampler.start_at(3, first_batch=4)
    assert list(sampler) == whole[32:]
    assert len(sampler) == 18
    sampler.start_at(4)
    assert [i for _, i in sampler] != [i for _, i in whole]


def test_derived_seeds_fill_32_bits_evenly():
    """torch's CPU generator takes the low 32 bits: near numbers must differ there."""
    seeds = {derive(2020, epoch, index) & 0xFFFFFFFF for epoch in range(10) for index in range(1000)}
    assert len(seeds) > 9_990
    ones = sum(bin(seed).count("1") for seed in seeds) / (32 * len(seeds))
    assert ones == pytest.approx(0.5, abs=0.01)


def test_intervals():
    assert interval("500") == ("steps", 500.0)
    assert interval("20steps") == ("steps", 20.0)
    assert interval("1.5min") == ("minutes", 1.5)
    interrupts = Interrupts(World(), "3")
    answers = []
    for _ in range(7):
        answers.append(interrupts.after_step())
        if answers[-1] == SAVE:
            interrupts.saved()
    assert answers == [NOTHING, NOTHING, SAVE, NOTHING, NOTHING, SAVE, NOTHING]


# All processes begin at the same point, whatever each machine's folders hold


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The options of a run of two processes, of three steps an epoch."""
    data = image_tree(tmp_path_factory.mktemp("data") / "images", count=6)
    options = "--image-size 8 --width 2 --T 2 -b 2 -j 0 --device cpu --cos_lr_T 3 --ema-decay 0.9".split()
    return (*options, "--dataset", "folder", "--data-path", data)


def refused(*commands):
    """The line in which the main process says why no process trains."""
    first, *others = run_ranks(TRAIN, *commands)
    assert 0 not in {done.returncode for done in (first, *others)}
    assert all("its error says why" in done.stderr for done in others)
    assert "Traceback" not in first.stderr
    (line,) = first.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def parts(run, tmp_path_factory):
    """Output folders of runs of two processes: after all of three epochs, after one, and after two."""
    root = tmp_path_factory.mktemp("parts")
    succeed(TRAIN, *run, "--epochs", 3, "--output-dir", root / "whole", how=run_together)
    succeed(TRAIN, *run, "--epochs", 1, "--output-dir", root / "older", how=run_together)
    shutil.copytree(root / "older", root / "newer")
    succeed(TRAIN, *run, "--epochs", 2, "--output-dir", root / "newer", "--resume", "auto", how=run_together)
    return root


@pytest.mark.parametrize("seen", ["older", "nothing"])
def test_a_machine_that_sees_an_older_folder_goes_on_where_the_main_one_does(run, parts, tmp_path, seen):
    for name in ("newer", "older"):
        shutil.copytree(parts / name, tmp_path / name)
    commands = [(*run, "--epochs", 3, "--output-dir", tmp_path / name, "--resume", "auto") for name in ("newer", seen)]
    assert "epoch 3, batch 0" in succeed(TRAIN, *commands, how=run_ranks)
    assert_same_run(only(parts / "whole"), only(tmp_path / "newer"))


def test_a_named_checkpoint_is_read_by_the_main_process_alone(run, parts, tmp_path):
    path = only(parts / "newer") / checkpoint.LATEST
    test = (*run, "--test-only", "--resume")
    alone = succeed(TRAIN, *test, path)
    printed = succeed(TRAIN, (*test, path), (*test, tmp_path / "none.pth"), how=run_ranks)
    assert all(row(alone, name) == row(printed, name) for name in ("fsnn", "aap", "sum"))
    train = [(*run, "--epochs", 3, "--output-dir", tmp_path, "--resume", p) for p in (tmp_path / "none.pth", path)]
    assert "there is no checkpoint" in refused(*train)


def test_other_options_in_one_process_stop_all(run, tmp_path):
    common = (*run, "--epochs", 1, "--output-dir", tmp_path)
    for other in (("--lr", "0.05"), ("--tb",), ("-b", "3"), ("--resume", "auto")):
        line = refused(common, (*common, *other))
        assert "not the same in process 1 as in the main one: start all processes with the same command" in line
    assert not list(tmp_path.iterdir())


def compare(world, *changes):
    """What each process hears when process 2 has changed its own state in these places."""
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
        ([], None),
        ([("weights", flip_lowest_bit)], "weights"),
        ([("weights", reshape)], "weights"),
        ([("weights", reshape), ("optimizer", step_more)], "weights, optimizer"),
    ],
)
def test_any_difference_is_found(changes, named):
    lines = on_processes(3, compare, *changes)
    if named is None:
        assert lines == [None] * 3
    else:
        assert lines[0].startswith(f"{named}: not the same in process 2 as in the main one")
        assert set(lines[1:]) == {"comparing the processes failed in the main process: its error says why"}


def test_four_processes_that_go_on_end_with_the_bits_of_four_that_never_stopped(run, tmp_path):
    """Sums of more than two numbers depend on their order, and so on how gradients are put together to be sent."""
    args = (*run, "-b", 1, "--resume", "auto", "--output-dir")
    for folder, epochs in (("whole", 2), ("parts", 1), ("parts", 2)):
        succeed(TRAIN, *args, tmp_path / folder, "--epochs", epochs, processes=4, how=run_together)
    assert_same_run(only(tmp_path / "whole"), only(tmp_path / "parts"))

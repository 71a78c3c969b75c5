"""Several processes against one: the same gradients, the same counts, the same stop."""

import os
import time

import pytest
import torch
import torch.distributed as dist
from torch import nn

from full_spike.models import create_model
from full_spike.utils.data.loading import EpochSampler, EvaluationSampler, SeededSamples
from full_spike.utils.distributed import Consensus, World
from full_spike.utils.optim import OptimOptions, make_optimizer, make_schedule
from full_spike.utils.seed import derive, get_rng_state, seed_everything, set_rng_state
from full_spike.utils.train.interrupts import NOTHING, SAVE, STOP, Interrupts, parse_interval
from full_spike.utils.train.step import Trainer
from support.processes import in_each, join_run, on_processes


def sum_over_processes(world):
    return int(world.sum(torch.tensor(world.rank + 1)))


def join_attempt(rank, results, restart_counts, port):
    os.environ.update(TORCHELASTIC_RUN_ID="job", TORCHELASTIC_RESTART_COUNT=str(restart_counts[rank]))
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if rank == 0 and sum(restart_counts):
        time.sleep(1.0)  # the other one finds the dead one's address before this one's is there
    join_run(rank, results, 2, "env://", sum_over_processes)


def test_processes_that_were_restarted_do_not_call_dead_ones():
    """The store outlives them, as torchrun's does, and each agent counts its own restarts."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for restart_counts in ((0, 0), (0, 1), (1, 1), (1, 1)):
        assert in_each(2, join_attempt, restart_counts, store.port) == [3, 3]


def losses_of_ten_steps(world, batch_size):
    """The mean loss over all processes of ten steps on 160 samples, in float64, batch norm's statistics frozen."""
    torch.manual_seed(0)
    model = create_model("dsnn18", num_classes=5, T=2, stem="cifar", width=4).double()
    options = OptimOptions(epochs=3, lr=0.05, weight_decay=1e-4)
    optimizer = make_optimizer(model, options)
    trainer = Trainer(model, optimizer, make_schedule(optimizer, options), world)
    trainer.wrapped.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(160, 3, 8, 8, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, 5, (160,), generator=generator)
    sampler = EpochSampler(images, batch_size, world, seed=2)
    indices = torch.tensor([index for _, index in sampler])
    losses = []
    for batch in indices.split(batch_size):
        _, loss = trainer.step(images[batch], classes[batch])
        losses.append((world.sum(loss) / world.size).item())
    return losses


def test_two_processes_of_8_follow_the_curve_of_one_of_16():
    one = losses_of_ten_steps(World(), 16)
    two = on_processes(2, losses_of_ten_steps, 8)
    assert len(one) == 10
    assert len({round(loss, 3) for loss in one}) > 5  # it does train
    for losses in two:
        assert losses == pytest.approx(one, rel=1e-5)


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


@pytest.mark.parametrize("length", [29, 30, 31])
def test_samplers_deal_out_every_sample(length):
    data = list(range(length))
    worlds = [World(rank=rank, size=3) for rank in range(3)]
    tested = [i for world in worlds for i in EvaluationSampler(data, world)]
    assert sorted(tested) == data
    samplers = [EpochSampler(data, 4, world, seed=0) for world in worlds]
    trained = [index for sampler in samplers for _, index in sampler]
    assert set(trained) == set(data)
    assert len(trained) == 3 * samplers[0].share < length + 3
    single = [index for _, index in EpochSampler(data, 12, World(), seed=0)]
    merged = [index for turn in zip(*(list(s) for s in samplers), strict=True) for _, index in turn]
    assert merged[:length] == single


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


def test_a_samples_randomness_depends_on_seed_epoch_and_index_alone():
    class Noise:
        def __getitem__(self, index):
            return torch.rand(2).tolist()

        def __len__(self):
            return 10

    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = SeededSamples(Noise(), 7)
    draws = {(epoch, index): one[epoch, index] for epoch in range(3) for index in range(3)}
    assert torch.equal(torch.get_rng_state(), before)
    assert len({tuple(v) for v in draws.values()}) == 9
    assert SeededSamples(Noise(), 7)[2, 1] == draws[2, 1]
    assert SeededSamples(Noise(), 8)[2, 1] != draws[2, 1]


def test_derived_seeds_fill_32_bits_evenly():
    """torch's CPU generator takes the low 32 bits: near numbers must differ there."""
    seeds = {derive(2020, epoch, index) & 0xFFFFFFFF for epoch in range(10) for index in range(1000)}
    assert len(seeds) > 9_990
    ones = sum(bin(seed).count("1") for seed in seeds) / (32 * len(seeds))
    assert ones == pytest.approx(0.5, abs=0.01)


def test_intervals():
    assert parse_interval("500") == ("steps", 500.0)
    assert parse_interval("20steps") == ("steps", 20.0)
    assert parse_interval("1.5min") == ("minutes", 1.5)
    interrupts = Interrupts(World(), "3")
    answers = []
    for _ in range(7):
        answers.append(interrupts.after_step())
        if answers[-1] == SAVE:
            interrupts.saved()
    assert answers == [NOTHING, NOTHING, SAVE, NOTHING, NOTHING, SAVE, NOTHING]

"""Training on devices that are not here: is any tensor made on the wrong one, does any step wait for a value?

Fake tensors have a device and no values. Without a GPU, torch carries those of a CUDA device through a forward pass,
and those of the CPU through a whole step.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from full_spike.models import create_model, list_models, model_options
from full_spike.utils.distributed import World
from full_spike.utils.losses import DUAL, SINGLE, readouts, streams_loss
from full_spike.utils.metrics import Meter
from full_spike.utils.optim import OptimOptions, make_optimizer, make_schedule
from full_spike.utils.train.step import Trainer
from support.processes import on_processes

NAMES = [n for n in list_models() if n.endswith(("18", "50", "wide7b"))]
OPTIONS = {"num_classes": 5, "T": 2, "stem": "cifar", "width": 4, "neuron": "PLIF", "in_channels": 3}


def small(name):
    return create_model(name, **{k: v for k, v in OPTIONS.items() if k in model_options(name)})


def names_of(name):
    return DUAL if name.startswith("dsnn") else SINGLE


@pytest.mark.parametrize("name", NAMES)
def test_a_forward_pass_stays_on_a_cuda_device(name):
    with FakeTensorMode():
        with torch.device("cuda:0"):
            model = small(name)
        images = torch.randn(4, 3, 16, 16, device="cuda:0")
        target = torch.zeros(4, dtype=torch.int64, device="cuda:0")
        outputs = model(images)
        loss = streams_loss(outputs, target, 0.1)
        meter = Meter(names_of(name), torch.device("cuda:0"))
        meter.update(readouts(outputs), target, loss)
    assert {x.device for x in (*readouts(outputs).values(), loss, meter.sums)} == {torch.device("cuda:0")}


def test_a_tensor_of_another_device_would_be_noticed():
    with FakeTensorMode():
        model = small("dsnn18")
        with pytest.raises(RuntimeError, match="cuda"):
            model(torch.randn(4, 3, 16, 16, device="cuda:0"))


def step_without_values(name, after=lambda _: None):
    with FakeTensorMode():
        world = World()
        model = small(name)
        options = OptimOptions(lr=0.1, weight_decay=1e-4)
        optimizer = make_optimizer(model, options)
        trainer = Trainer(model, optimizer, make_schedule(optimizer, options), world)
        meter = Meter(names_of(name), world.device)
        target = torch.zeros(4, dtype=torch.int64)
        logits, loss = trainer.step(torch.randn(4, 3, 16, 16), target)
        meter.update(logits, target, loss)
        after(loss)
    return trainer


@pytest.mark.parametrize("name", NAMES)
def test_a_step_waits_for_no_value(name):
    """Forward, backward, optimizer and metrics: nothing is read off the device."""
    trainer = step_without_values(name)
    assert len(trainer.optimizer.state) == len(list(trainer.model.parameters()))


def test_a_value_that_is_read_would_be_noticed():
    with pytest.raises(RuntimeError, match="_local_scalar_dense"):
        step_without_values("dsnn18", after=lambda loss: loss.item())


def synchronised_steps(world, device, synchronise=torch.nn.SyncBatchNorm.convert_sync_batchnorm):
    """All weights and statistics after three steps in training mode on 16 samples, dealt out to the processes."""
    torch.manual_seed(0)
    model = create_model("dsnn18", num_classes=5, T=2, width=4, stem="cifar").double().to(device)
    config = model.config
    model = synchronise(model) if world.size > 1 else model
    model.config = config
    options = OptimOptions(epochs=3, lr=0.05)
    optimizer = make_optimizer(model, options)
    place = World(world.rank, world.size, world.local_rank, torch.device(device), world.control)
    trainer = Trainer(model, optimizer, make_schedule(optimizer, options), place)
    trainer.wrapped.train()
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        images = torch.randn(16, 3, 8, 8, generator=generator, dtype=torch.float64).to(device)
        target = torch.randint(0, 5, (16,), generator=generator).to(device)
        trainer.step(images[world.rank :: world.size], target[world.rank :: world.size])
    return {key: value.double().flatten().tolist() for key, value in model.state_dict().items()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has synchronised batch norm for GPUs alone")
def test_synchronised_batch_norm_makes_two_processes_equal_one():
    """Both on one GPU, over gloo. Each norms by the statistics of all 16 samples, and keeps those."""
    one = synchronised_steps(World(), "cuda:0")
    for two in on_processes(2, synchronised_steps, "cuda:0"):
        assert two == {key: pytest.approx(value, rel=1e-8, abs=1e-10) for key, value in one.items()}

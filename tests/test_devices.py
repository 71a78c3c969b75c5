"""Training on devices that are not here: is any tensor made on the wrong one, does any step wait for a value?

Fake tensors have a device and no values. Without a GPU, torch carries those of a CUDA device through a forward pass,
and those of the CPU through a whole step.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models import create_model, list_models, model_options
from utils.runtime.distributed import World
from utils.train.metrics import Meter
from utils.train.objectives import DUAL, SINGLE, readouts, streams_loss
from utils.train.optim import OptimOptions, make_optimizer, make_schedule
from utils.train.step import Trainer

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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_synchronised_batch_norm_runs_on_a_gpu():
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(create_model("dsnn18", num_classes=5, T=2, width=4)).cuda()
    logits, _ = model.eval()(torch.randn(2, 3, 32, 32, device="cuda"))
    assert logits.device.type == "cuda"

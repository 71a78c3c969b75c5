"""Schedules against their closed forms, and which parameters decay."""

import math

import pytest
import torch
from torch import nn

from full_spike.cifar.train import make_parser
from full_spike.models import create_model
from full_spike.utils.errors import UsageError
from full_spike.utils.optim import SCHEDULES, make_optimizer, make_schedule
from full_spike.utils.options import parse

LR = 0.4


def arguments(**options):
    """A run's, by name."""
    flags = {name: name.replace("_", "-") for name in options} | {"weight_decay": "wd"}
    given = [f"--{flags[k]}" if v is True else f"--{flags[k]}={v}" for k, v in options.items() if v is not False]
    return parse(make_parser(), given)


def rates(epochs, steps=1, start_epoch=0, **options):
    """The learning rate of each epoch, or of each of its `steps` where the schedule counts them."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    args = arguments(epochs=epochs, lr=LR, start_epoch=start_epoch, **options)
    schedule = make_schedule(optimizer, args, steps)
    found = []
    for _ in range((epochs - start_epoch) * steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def cosine(share, lowest=0.0):
    return lowest + (LR - lowest) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize("lowest", [0.0, 0.1])
def test_cosine(lowest):
    assert rates(20, min_lr=lowest) == pytest.approx([cosine(t / 20, lowest) for t in range(20)])


def test_step():
    found = rates(192, lr_scheduler="step", step_size=64, gamma=0.1)
    assert found == pytest.approx([0.4 * 0.1 ** (t // 64) for t in range(192)])


@pytest.mark.parametrize("kind", ["cosine", "step"])
def test_a_warm_up_comes_first(kind):
    plain, warmed = (
        rates(10, lr_scheduler=kind, step_size=4),
        rates(15, lr_scheduler=kind, step_size=4, warmup_epochs=5),
    )
    assert warmed[0] == pytest.approx(0.004)
    assert warmed[:5] == sorted(warmed[:5])
    assert warmed[5:] == pytest.approx(plain)


@pytest.mark.parametrize("kind", ["cosine", "step"])
def test_a_warm_up_from_a_given_rate_and_a_cool_down(kind):
    options = {"lr_scheduler": kind, "step_size": 4, "min_lr": 0.1}
    found = rates(20, warmup_epochs=5, warmup_lr=0.2, cooldown_epochs=5, **options)
    assert found[:5] == pytest.approx([0.2 + 0.2 * t / 5 for t in range(5)])
    assert found[5:15] == pytest.approx(rates(10, **options))
    assert found[15:] == pytest.approx([0.1] * 5)


@pytest.mark.parametrize("kind", ["cosine", "cosine-timm"])
def test_the_rate_may_change_at_every_step(kind):
    options = {"lr_scheduler": kind, "warmup_epochs": 2, "warmup_lr": 0.2, "cooldown_epochs": 3, "min_lr": 0.1}
    found = rates(12, steps=7, sched_on_updates=True, **options)
    first, period = (0, 9) if kind == "cosine-timm" else (2, 7)
    assert found[:14] == pytest.approx([0.2 + 0.2 * t / 14 for t in range(14)])
    assert found[14:63] == pytest.approx([cosine((t / 7 - first) / period, 0.1) for t in range(14, 63)])
    assert found[63:] == pytest.approx([0.1] * 21)
    assert rates(12, steps=7, sched_on_updates=True, start_epoch=4, **options) == pytest.approx(found[28:])


def test_steps_of_the_rate_are_epochs_apart_however_it_is_counted():
    found = rates(6, steps=5, sched_on_updates=True, lr_scheduler="step", step_size=2)
    assert found == pytest.approx([0.4 * 0.1 ** (t // 10) for t in range(30)])


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_schedule_goes_on_as_it_was_saved(kind):
    """Whatever it would have become by the options of the run that goes on."""
    options = {"lr_scheduler": kind, "epochs": 12, "lr": LR, "warmup_epochs": 2}
    then, now = (
        arguments(**options, min_lr=0.1, cooldown_epochs=2, step_size=2),
        arguments(**options, min_lr=0.2, cooldown_epochs=4, step_size=3, gamma=0.5),
    )
    found = []
    for resumed in (then, now):
        weight = nn.Parameter(torch.zeros(1))
        optimizers = [torch.optim.SGD([weight], lr=LR) for _ in range(2)]
        schedules = [make_schedule(optimizer, o) for optimizer, o in zip(optimizers, (then, resumed), strict=True)]
        for _ in range(5):
            optimizers[0].step()
            schedules[0].step()
        optimizers[1].load_state_dict(optimizers[0].state_dict())
        schedules[1].load_state_dict(schedules[0].state_dict())
        rates = []
        for _ in range(7):
            rates.append(optimizers[1].param_groups[0]["lr"])
            optimizers[1].step()
            schedules[1].step()
        found.append(rates)
    assert found[0] == found[1]
    assert len(set(found[0])) > 2


def test_a_warm_up_as_long_as_the_cosine_is_refused():
    with pytest.raises(UsageError, match="leaves nothing of --cos_lr_T 5"):
        rates(5, warmup_epochs=5)
    rates(5, lr_scheduler="step", warmup_epochs=5)


# Optimizers


def adam(w, gradients, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    """Algorithm 1 of arXiv:1412.6980; decoupled: of arXiv:1711.05101."""
    m = v = 0.0
    for t, gradient in enumerate(gradients, 1):
        if decoupled:
            w = w - lr * weight_decay * w
        else:
            gradient = gradient + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * gradient**2
        w = w - lr * (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)) ** 0.5 + eps)
    return w


def momentum(w, gradients, lr, momentum=0.9, weight_decay=0.0):
    velocity = 0.0
    for gradient in gradients:
        velocity = momentum * velocity + gradient + weight_decay * w
        w = w - lr * velocity
    return w


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"optimizer": "sgd", "momentum": 0.8}, lambda w, g: momentum(w, g, 0.01, 0.8, 0.1)),
        ({"optimizer": "adam", "betas": "0.8,0.9"}, lambda w, g: adam(w, g, 0.01, (0.8, 0.9), 1e-8, 0.1)),
        ({"optimizer": "adam", "eps": 0.5}, lambda w, g: adam(w, g, 0.01, eps=0.5, weight_decay=0.1)),
        ({"optimizer": "adamw"}, lambda w, g: adam(w, g, 0.01, weight_decay=0.1, decoupled=True)),
    ],
    ids=["sgd", "adam, betas", "adam, eps", "adamw"],
)
def test_optimizers_are_their_published_rules(options, rule):
    model = nn.Linear(3, 1, bias=False).double()
    start = model.weight.detach().clone()
    optimizer = make_optimizer(model, arguments(lr=0.01, weight_decay=0.1, **options))
    gradients = torch.randn(5, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for gradient in gradients:
        model.weight.grad = gradient
        optimizer.step()
    torch.testing.assert_close(model.weight.detach(), rule(start, gradients), rtol=1e-12, atol=0)


# Weight decay


class Parts(nn.Module):
    """One of each kind of parameter."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.pos_embed = nn.Parameter(torch.ones(1, 9, 4))
        self.token = nn.Parameter(torch.ones(1, 1, 4))
        self.slope = nn.Parameter(torch.ones(()))
        nn.init.ones_(self.norm.bias)

    def no_weight_decay(self):
        return {"token"}


def decayed(model, **options):
    """Names of the parameters that a step without gradients changes."""
    optimizer = make_optimizer(model, arguments(lr=0.1, weight_decay=0.1, **options))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_biases_and_position_embeddings_may_be_left_from_decaying(optimizer):
    every = {name for name, _ in Parts().named_parameters()}
    assert decayed(Parts(), optimizer=optimizer) == every
    assert decayed(Parts(), optimizer=optimizer, decay_weights_only=True) == {"conv.weight", "head.weight"}


@pytest.mark.parametrize("name", ["dsnn18", "dsnn_7b"])
def test_of_a_network_convolutions_and_the_head_decay(name):
    model = create_model(name, num_classes=3, T=2, width=4, neuron="PLIF")
    weights = {f"{n}.weight" for n, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert decayed(model, decay_weights_only=True) == weights

"""Schedules against their closed forms."""

import math

import pytest
import torch

from utils.runtime.errors import UsageError
from utils.train.optim import OptimOptions, make_schedule


def rates(epochs, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = make_schedule(optimizer, OptimOptions(epochs=epochs, **options))
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine():
    assert rates(20) == pytest.approx([0.2 * (1 + math.cos(math.pi * t / 20)) for t in range(20)])


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


def test_a_warm_up_as_long_as_the_cosine_is_refused():
    with pytest.raises(UsageError, match="leaves nothing of --cos_lr_T 5"):
        rates(5, warmup_epochs=5)
    rates(5, lr_scheduler="step", warmup_epochs=5)

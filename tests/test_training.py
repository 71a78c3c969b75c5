"""What a step computes with each option of the recipe: against closed forms, torch's own parts, or one process."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from full_spike.models import create_model, use_fused
from full_spike.models.fused import available
from full_spike.utils.data.loading import EpochSampler
from full_spike.utils.distributed import World
from full_spike.utils.losses import streams_loss
from full_spike.utils.metrics import Meter
from full_spike.utils.optim import OptimOptions, make_optimizer, make_schedule
from full_spike.utils.train.config import Recipe
from full_spike.utils.train.step import Trainer
from support.processes import on_processes

SPIKFORMER = "ds_spikformer_4_384"
SIZES = {
    "dsnn18": {"width": 4, "stem": "cifar"},
    SPIKFORMER: {"width": 16, "heads": 2, "depth": 1},
    "plain_7b": {"width": 4},
}


def network(name="dsnn18", **options):
    """A small one in float64 whose norms keep their statistics: those of a batch depend on how it is dealt out."""
    torch.manual_seed(0)
    model = create_model(name, **{"num_classes": 5, "T": 2, **SIZES[name], **options}).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.2, 0.6)
            module.bias.data.uniform_(0.2, 0.6)
            if name == SPIKFORMER:  # whose LIF neurons take in half of a current
                module.bias.data += 1.0
            module.eval()
    return model


def trainer_of(model, world=None, *, optim=None, **options):
    optim = OptimOptions(**{"epochs": 3, "lr": 0.05, "weight_decay": 1e-4, **(optim or {})})
    optimizer = make_optimizer(model, optim)
    return Trainer(model, optimizer, make_schedule(optimizer, optim), world or World(), **options)


def samples(shape=(64, 3, 8, 8), dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=dtype), torch.arange(64) % 5


def flat(module):
    """All of a module's state in one row of numbers."""
    return torch.cat([value.detach().double().flatten() for value in module.state_dict().values()]).tolist()


# Several processes


def train(world, batch_size, group=1, name="dsnn18", fused=False, ema_decay=None):
    """64 samples, each step on the mean gradient of `group` batches: (weights, averaged weights) at the end."""
    model = use_fused(network(name), fused)
    events = model.event_frames
    trainer = trainer_of(model, world, ema_decay=ema_decay)
    images, target = samples((64, 2, 16, 16) if events else (64, 3, 8, 8))
    order = torch.tensor([index for _, index in EpochSampler(images, batch_size, world, seed=2)])
    for i, batch in enumerate(order.split(batch_size)):
        x = images[batch].expand(2, -1, -1, -1, -1) if events else images[batch]
        trainer.step(x, target[batch], group=group, update=(i + 1) % group == 0)
    assert available()  # or what is fused fell back
    return flat(model), None if trainer.ema is None else flat(trainer.ema)


def train_with(world, options):
    return train(world, **options)


@pytest.mark.parametrize(
    ("alone", "together"),
    [
        ({}, {"group": 2, "batch_size": 4}),
        ({"ema_decay": 0.7}, {"ema_decay": 0.7, "batch_size": 8}),
        ({"name": "plain_7b"}, {"name": "plain_7b", "fused": True, "batch_size": 8}),
        (
            {"name": SPIKFORMER, "ema_decay": 0.7},
            {"name": SPIKFORMER, "ema_decay": 0.7, "group": 2, "batch_size": 4, "fused": True},
        ),
    ],
    ids=["accumulation", "averaged weights", "fused layers", "all three for a transformer"],
)
def test_two_processes_end_with_the_weights_of_one(alone, together):
    """2 processes x 8 samples, or x 2 batches x 4 samples, are the 16 that one process sees in a step."""
    weights, averaged = train(World(), 16, **alone)
    start = flat(network(alone.get("name", "dsnn18")))
    assert math.dist(weights, start) > 0.01  # it does train
    for theirs, their_averaged in on_processes(2, train_with, together):
        assert theirs == pytest.approx(weights, rel=1e-9, abs=1e-11)
        assert their_averaged == (None if averaged is None else pytest.approx(averaged, rel=1e-9, abs=1e-11))


# One process


def test_averaged_weights_are_the_recursion():
    """a <- decay a + (1 - decay) w at each update, and at none of the batches between; the first update is a copy."""
    model = network()
    trainer = trainer_of(model, ema_decay=0.7)
    images, target = samples()
    weight = model.conv1.weight
    averaged = None
    for i in range(6):
        trainer.step(images[i::6], target[i::6], group=2, update=i % 2 == 1)
        if i % 2 == 1:
            averaged = weight.detach().clone() if averaged is None else 0.7 * averaged + 0.3 * weight.detach()
            torch.testing.assert_close(trainer.ema.module.conv1.weight.detach(), averaged, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(averaged, weight, rtol=1e-3)


CLASSES = torch.tensor([0, 3, 1, 1, 2, 0])
SHARES = 0.7 * F.one_hot(CLASSES, 4).double() + 0.3 * F.one_hot(CLASSES.roll(1), 4).double()


@pytest.mark.parametrize("target", [CLASSES, SHARES], ids=["classes", "mixed samples"])
def test_label_smoothing_is_its_formula(target):
    """Cross entropy with (1 - e) on the class and e / classes on every class, summed over the streams."""
    generator = torch.Generator().manual_seed(0)
    outputs = tuple(torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    shares = F.one_hot(target, 4).double() if target.ndim == 1 else target
    for smoothing in (0.0, 0.1):
        wanted = (1 - smoothing) * shares + smoothing / 4
        expected = [-(wanted * logits.log_softmax(1)).sum(1).mean().item() for logits in outputs]
        assert streams_loss(outputs, target, smoothing).item() == pytest.approx(sum(expected), rel=1e-12)
        assert streams_loss(outputs[0], target, smoothing).item() == pytest.approx(expected[0], rel=1e-12)


def test_label_smoothing_is_in_the_objective():
    trainer = trainer_of(network(), label_smoothing=0.1)
    images, target = samples()
    with torch.no_grad():
        expected = streams_loss(trainer.model(images), target, 0.1)
    assert trainer.step(images, target)[1] == expected


def test_the_pathways_loss_is_weighed_and_left_out_from_its_epoch_on():
    """The gradient is the trunk's own and w times the pathway's; at 0 the pathway does not move the trunk."""
    images, target = samples()
    model = network()
    shares = []
    for stream in (0, 1):
        model.zero_grad()
        F.cross_entropy(model(images)[stream], target).backward()
        shares.append({n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()})
    for weight in (0.0, 0.5, 3.0):
        model.zero_grad()
        streams_loss(model(images), target, aap_weight=weight).backward()
        for name, parameter in model.named_parameters():
            expected = shares[0][name] + weight * shares[1][name]
            assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-6), (name, weight)
    recipe = Recipe(aap_weight=0.5, aap_off_epoch=3)
    assert [recipe.aap_weight_in(epoch) for epoch in range(5)] == [0.5, 0.5, 0.5, 0.0, 0.0]
    assert {Recipe(aap_weight=0.5).aap_weight_in(epoch) for epoch in range(5)} == {0.5}


def test_a_hit_in_mixed_samples_is_one_of_the_class_with_the_largest_share():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    meters = [Meter(("output",), torch.device("cpu")) for _ in range(2)]
    for meter, target in zip(meters, (CLASSES, SHARES), strict=True):
        meter.update({"output": logits}, target)
    (_, plain), (_, mixed) = (meter.read(World()) for meter in meters)
    assert 0 < plain["output"].acc1 < 100
    assert (mixed["output"].acc1, mixed["output"].acc5) == (plain["output"].acc1, plain["output"].acc5)
    assert mixed["output"].loss == pytest.approx(-(SHARES * logits.log_softmax(1)).sum(1).mean().item())


@pytest.mark.parametrize("half", [None, torch.float16], ids=["float32", "float16 with loss scaling"])
def test_gradients_are_shortened_all_together(half):
    """A step of SGD without momentum then goes as far as the rate times the norm, in the direction that it had."""
    images, target = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 5
    start = Small()
    moves = []
    for norm in (None, 1e6, 0.05):
        options = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
        trainer = trainer_of(copy.deepcopy(start), optim=options, clip_grad_norm=norm, amp_dtype=half)
        for i in range(2):  # the norm is of the mean over both batches
            trainer.step(images[:, i::2], target[i::2], group=2, update=i == 1)
        moves.append(torch.tensor(flat(trainer.model)) - torch.tensor(flat(start)))
    free, loose, short = moves
    assert torch.equal(free, loose)
    assert free.norm() > 0.02
    assert short.norm().item() == pytest.approx(0.1 * 0.05, rel=1e-3)
    assert F.cosine_similarity(short, free, dim=0).item() == pytest.approx(1.0, abs=1e-5)


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
        ({"optimizer": "adam", "betas": (0.8, 0.9)}, lambda w, g: adam(w, g, 0.01, (0.8, 0.9), 1e-8, 0.1)),
        ({"optimizer": "adam", "eps": 0.5}, lambda w, g: adam(w, g, 0.01, eps=0.5, weight_decay=0.1)),
        ({"optimizer": "adamw"}, lambda w, g: adam(w, g, 0.01, weight_decay=0.1, decoupled=True)),
    ],
    ids=["sgd", "adam, betas", "adam, eps", "adamw"],
)
def test_optimizers_are_their_published_rules(options, rule):
    model = nn.Linear(3, 1, bias=False).double()
    start = model.weight.detach().clone()
    optimizer = make_optimizer(model, OptimOptions(**{"lr": 0.01, "weight_decay": 0.1, **options}))
    gradients = torch.randn(5, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for gradient in gradients:
        model.weight.grad = gradient
        optimizer.step()
    torch.testing.assert_close(model.weight.detach(), rule(start, gradients), rtol=1e-12, atol=0)


class Small(nn.Module):
    """A linear network with one spiking layer, which compiles in seconds."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = {}
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        self.neuron = create_model("fsnn18", num_classes=2, T=2, width=4).blocks()[0].sn1

    def forward(self, x):
        return self.head(self.neuron(self.stem(x).expand(2, -1, -1)).mean(0))


def test_loss_scaling_in_float16():
    """The scale cancels out of a step. A step whose gradients overflow is left out, and the scale halved."""
    images, target = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 5
    model = Small()
    trainer = trainer_of(model, amp_dtype=torch.float16, ema_decay=0.5)
    plain = trainer_of(copy.deepcopy(model))
    scale = trainer.scaler.get_scale()
    assert scale > 1
    before = flat(model)
    for step in (trainer.step, plain.step):
        step(images, target)
    moved = math.dist(flat(plain.model), before)
    assert math.dist(flat(model), flat(plain.model)) < 0.02 * moved
    assert trainer.scaler.get_scale() == scale

    weights, averaged = flat(model), flat(trainer.ema)
    trainer.scaler.update(1e30)
    trainer.step(images, target)
    assert flat(model) == weights
    assert flat(trainer.ema) == averaged
    assert trainer.scaler.get_scale() == pytest.approx(5e29)
    assert not trainer_of(model, amp_dtype=torch.bfloat16).scaler.is_enabled()


def test_a_compiled_network_takes_the_same_steps():
    from torch._dynamo.utils import counters

    images, target = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 5
    model = Small()
    compiled, plain = trainer_of(model, compiled=True), trainer_of(copy.deepcopy(model))
    graphs = counters["stats"]["unique_graphs"]
    for trainer in (plain, compiled):
        for _ in range(3):
            trainer.step(images, target)
    assert counters["stats"]["unique_graphs"] > graphs
    assert math.dist(flat(model), flat(plain.model)) < 1e-5
    assert set(compiled.state()["model"]) == set(model.state_dict())  # names are those of the network itself

"""What a step computes with each option of the recipe: against closed forms, torch's own parts, or one process."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from full_spike.cifar.train import make_parser
from full_spike.models import create_model, use_fused
from full_spike.models.fused import available
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.loading import EpochSampler
from full_spike.utils.distributed import World
from full_spike.utils.engine import Run, _read_meter, average, train_epoch, train_step
from full_spike.utils.errors import UserError
from full_spike.utils.losses import DualStreamLoss, readouts
from full_spike.utils.metrics import Meter
from full_spike.utils.options import parse
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


def run_of(model, options="", world=None):
    """A run of this network that has not begun, on data that are never read."""
    data = TensorDataset(torch.zeros(64, 1), torch.zeros(64))
    args = parse(make_parser(), ["--device", "cpu", *"-j 0 --epochs 3 --lr 0.05 --wd 1e-4".split(), *options.split()])
    criterion = DualStreamLoss(args.label_smoothing, args.aap_weight, args.aap_off_epoch)
    return Run(model, criterion, Datasets(data, data, 5), args, world or World())


def step(run, images, target, group=1, update=True):
    return train_step(run, images, target, group, update)[1]


def samples(shape=(64, 3, 8, 8), dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=dtype), torch.arange(64) % 5


def small_samples():
    return samples((1, 64, 8), torch.float32)


def flat(module):
    """All of a module's state in one row of numbers."""
    return torch.cat([value.detach().double().flatten() for value in module.state_dict().values()]).tolist()


# Several processes


def train(world, batch_size, group=1, name="dsnn18", fused=False, options=""):
    """64 samples, each step on the mean gradient of `group` batches: (weights, averaged weights, losses) at the end."""
    model = use_fused(network(name), fused)
    events = model.event_frames
    run = run_of(model, options, world)
    images, target = samples((64, 2, 16, 16) if events else (64, 3, 8, 8))
    order = torch.tensor([index for _, index in EpochSampler(images, batch_size, world, seed=2)])
    losses = []
    for i, batch in enumerate(order.split(batch_size)):
        x = images[batch].expand(2, -1, -1, -1, -1) if events else images[batch]
        loss = step(run, x, target[batch], group, (i + 1) % group == 0)
        losses.append((world.sum(loss) / world.size).item())
    assert available()  # or what is fused fell back
    return flat(model), None if run.ema is None else flat(run.ema), losses


def train_with(world, options):
    return train(world, **options)


AVERAGED = "--ema-decay 0.7"


@pytest.mark.parametrize(
    ("alone", "together"),
    [
        ({}, {"batch_size": 8}),
        ({}, {"group": 2, "batch_size": 4}),
        ({"options": AVERAGED}, {"options": AVERAGED, "batch_size": 8}),
        ({"name": "plain_7b"}, {"name": "plain_7b", "fused": True, "batch_size": 8}),
        (
            {"name": SPIKFORMER, "options": AVERAGED},
            {"name": SPIKFORMER, "options": AVERAGED, "group": 2, "batch_size": 4, "fused": True},
        ),
    ],
    ids=["plain", "accumulation", "averaged weights", "fused layers", "all three for a transformer"],
)
def test_two_processes_end_with_the_weights_of_one(alone, together):
    """2 processes x 8 samples, or x 2 batches x 4 samples, are the 16 that one process sees in a step."""
    weights, averaged, losses = train(World(), 16, **alone)
    start = flat(network(alone.get("name", "dsnn18")))
    assert math.dist(weights, start) > 0.01  # it does train
    for theirs, their_averaged, their_losses in on_processes(2, train_with, together):
        assert theirs == pytest.approx(weights, rel=1e-9, abs=1e-11)
        assert their_averaged == (None if averaged is None else pytest.approx(averaged, rel=1e-9, abs=1e-11))
        if "group" not in together:
            assert their_losses == pytest.approx(losses, rel=1e-9)


# One process


def test_averaged_weights_are_the_recursion():
    """a <- decay a + (1 - decay) w at each update, and at none of the batches between; the first update is a copy."""
    model = network()
    run = run_of(model, AVERAGED)
    images, target = samples()
    weight = model.conv1.weight
    averaged = None
    for i in range(6):
        step(run, images[i::6], target[i::6], 2, i % 2 == 1)
        if i % 2 == 1:
            averaged = weight.detach().clone() if averaged is None else 0.7 * averaged + 0.3 * weight.detach()
            torch.testing.assert_close(run.ema.module.conv1.weight.detach(), averaged, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(averaged, weight, rtol=1e-3)


def test_averaged_weights_are_torchs_bit_for_bit():
    model = network()
    ours, theirs = (AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True) for _ in range(2))
    for i in range(3):
        with torch.no_grad():
            for value in (*model.parameters(), *model.buffers()):
                value += i + 1
        average(ours, model, 0.7)
        theirs.update_parameters(model)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


class _NothingIsRead(TorchDispatchMode):
    """A block in which no number may leave a tensor: for that the CPU would wait for a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", ["--amp", "--clip-grad-norm 1 --label-smoothing 0.1 --accumulate 2"])
@pytest.mark.parametrize("name", SIZES)
def test_a_step_and_its_metrics_read_no_number(name, options):
    run = run_of(network(name), options)
    images, target = samples((4, 3, 8, 8))
    target = target[:4]
    if run.model.event_frames:
        images = images[:, :2].expand(2, 4, 2, 8, 8)
    with _NothingIsRead():
        for update in (False, True):
            outputs, loss = train_step(run, images, target, 2, update)
            run.meter.update(readouts(outputs), target, loss)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            loss.item()


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
        criterion = DualStreamLoss(smoothing)
        assert criterion(outputs, target).item() == pytest.approx(sum(expected), rel=1e-12)
        assert criterion(outputs[0], target).item() == pytest.approx(expected[0], rel=1e-12)


def test_label_smoothing_is_in_the_objective():
    run = run_of(network(), "--label-smoothing 0.1")
    images, target = samples()
    with torch.no_grad():
        expected = DualStreamLoss(0.1)(run.model(images), target)
    assert step(run, images, target) == expected


def test_the_pathways_loss_is_weighed_and_left_out_from_its_epoch_on():
    """The gradient is the trunk's own and w times the pathway's; at 0 the pathway does not move the trunk."""
    images, target = samples()
    model = network()
    shares = []
    for stream in (0, 1):
        model.zero_grad()
        F.cross_entropy(model(images)[stream], target).backward()
        shares.append({n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()})
    off_from_2 = DualStreamLoss(aap_weight=0.5, aap_off_epoch=2)
    for criterion, epoch, weight in (
        (DualStreamLoss(), 5, 1.0),
        (DualStreamLoss(aap_weight=0.0), 0, 0.0),
        (DualStreamLoss(aap_weight=3.0), 9, 3.0),
        (off_from_2, 1, 0.5),
        (off_from_2, 2, 0.0),
        (off_from_2, 3, 0.0),
    ):
        model.zero_grad()
        criterion.epoch = epoch
        criterion(model(images), target).backward()
        for name, parameter in model.named_parameters():
            expected = shares[0][name] + weight * shares[1][name]
            assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-6), (name, weight)


def test_a_hit_in_mixed_samples_is_one_of_the_class_with_the_largest_share():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    meters = [Meter(("output",), torch.device("cpu")) for _ in range(2)]
    for meter, target in zip(meters, (CLASSES, SHARES), strict=True):
        meter.update({"output": logits}, target)
    (_, plain), (_, mixed) = (meter.read(World()) for meter in meters)
    assert 0 < plain["output"].acc1 < 100
    assert (mixed["output"].acc1, mixed["output"].acc5) == (plain["output"].acc1, plain["output"].acc5)
    assert mixed["output"].loss == pytest.approx(-(SHARES * logits.log_softmax(1)).sum(1).mean().item())


@pytest.mark.parametrize("half", ["", "--amp --amp-dtype fp16"], ids=["float32", "float16 with loss scaling"])
def test_gradients_are_shortened_all_together(half):
    """A step of SGD without momentum then goes as far as the rate times the norm, in the direction that it had."""
    images, target = small_samples()
    start = Small()
    moves = []
    for clip in ("", "--clip-grad-norm 1e6", "--clip-grad-norm 0.05"):
        run = run_of(copy.deepcopy(start), f"--lr 0.1 --momentum 0 --wd 0 {clip} {half}")
        for i in range(2):  # the norm is of the mean over both batches
            step(run, images[:, i::2], target[i::2], 2, i == 1)
        moves.append(torch.tensor(flat(run.model)) - torch.tensor(flat(start)))
    free, loose, short = moves
    assert torch.equal(free, loose)
    assert free.norm() > 0.02
    assert short.norm().item() == pytest.approx(0.1 * 0.05, rel=1e-3)
    assert F.cosine_similarity(short, free, dim=0).item() == pytest.approx(1.0, abs=1e-5)


def test_loss_scaling_in_float16():
    """The scale cancels out of a step. A step whose gradients overflow is left out, and the scale halved."""
    images, target = small_samples()
    model = Small()
    run = run_of(model, "--amp --amp-dtype fp16 --ema-decay 0.5")
    plain = run_of(copy.deepcopy(model))
    scale = run.scaler.get_scale()
    assert scale > 1
    before = flat(model)
    for each in (run, plain):
        step(each, images, target)
    moved = math.dist(flat(plain.model), before)
    assert math.dist(flat(model), flat(plain.model)) < 0.02 * moved
    assert run.scaler.get_scale() == scale

    weights, averaged = flat(model), flat(run.ema)
    run.scaler.update(1e30)
    step(run, images, target)
    assert flat(model) == weights
    assert flat(run.ema) == averaged
    assert run.scaler.get_scale() == pytest.approx(5e29)
    assert not run_of(model, "--amp --amp-dtype bf16").scaler.is_enabled()


def test_a_compiled_network_takes_the_same_steps():
    from torch._dynamo.utils import counters

    images, target = small_samples()
    model = Small()
    compiled, plain = run_of(model, "--compile"), run_of(copy.deepcopy(model))
    graphs = counters["stats"]["unique_graphs"]
    for run in (plain, compiled):
        for _ in range(3):
            step(run, images, target)
    assert counters["stats"]["unique_graphs"] > graphs
    assert math.dist(flat(model), flat(plain.model)) < 1e-5
    assert set(compiled.model.state_dict()) == set(plain.model.state_dict())  # names are the network's own


def test_nan_in_the_inputs_is_named():
    """The loss stays finite: a comparison with NaN is false, so neurons are silent."""
    images, target = samples()
    images[20] = math.nan
    model = create_model("dsnn18", num_classes=5, T=2, **SIZES["dsnn18"]).double()
    args = parse(make_parser(), "--device cpu -j 0 --epochs 1 -b 8 --print-freq 99".split())
    data = TensorDataset(images, target)
    run = Run(model, DualStreamLoss(), Datasets(data, data, 5), args, World())
    run.loaders = run.loaders._replace(train=DataLoader(data, batch_size=8))
    train_epoch(run)
    with pytest.raises(UserError, match="inputs hold NaN in batch 3 of epoch 1: look at how"):
        _read_meter(run)

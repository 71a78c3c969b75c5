"""What must hold on the device that training runs on: `pytest -m "" tests/train/test_device.py --device cuda`.

The suite runs them on the CPU, where they show that they test what they should; benchmarks/gpu.py runs them on a GPU.
"""

import contextlib
import copy
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.faults import differing_bits
from full_spike.cifar.data import load
from full_spike.cifar.train import make_parser
from full_spike.models import create_model, use_fused
from full_spike.models.connect import MEMBRANE, JoinLayer, get_join
from full_spike.models.layers import spike, spike_and_join
from full_spike.models.neuron import neuron_factory
from full_spike.utils import checkpoint, engine
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.distributed import World, data_parallel
from full_spike.utils.losses import DualStreamLoss
from full_spike.utils.options import parse
from support.command import ROOT, assert_same_run, only


@pytest.fixture
def device(request):
    """As `job` prepares it for a run with --deterministic."""
    device = torch.device(request.config.getoption("--device"))
    if device.type == "cuda":
        engine._choose_kernels(deterministic=True)
    return device


def samples(dtype=torch.float64, size=32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 3, size, size, generator=generator, dtype=dtype), torch.arange(32) % 5


def network(dtype=torch.float64, **options):
    torch.manual_seed(0)
    return create_model("dsnn18", num_classes=10, T=2, width=8, **options).to(dtype)


def run_of(device, options="", dtype=torch.float32, digits=False):
    """A run of a small network that has not begun, on noise or on the digits."""
    args = parse(make_parser(), f"--device {device} -j 0 -b 8 --lr 0.05 --epochs 3 --print-freq 999 {options}".split())
    world = World(device=device)
    noise = TensorDataset(*samples(dtype))
    data = load(args, world) if digits else Datasets(noise, noise, 5)
    return engine.Run(network(dtype, in_channels=1 if digits else 3), DualStreamLoss(), data, args, world)


def steps(run, count):
    images, target = (x.to(run.world.device) for x in samples(next(run.model.parameters()).dtype))
    return [engine.train_step(run, images, target, 1, True)[1].item() for _ in range(count)]


# Layers


def layer(device, dtype, neuron, surrogate, join, static, layout, fused=True):
    """(output, own spikes, gradients) of a layer whose numbers are such that no membrane comes near the threshold.

    Its inputs are -1 and 1, as many of each: so batch norm finds mean 0 and deviation 1, and its scale and shift put
    all currents on multiples of 1/16, moved by 1/128, which no four steps add up to the threshold.
    """
    T, N, C, H, W = 4, 2, 6, 9, 7
    generator = torch.Generator().manual_seed(3)
    shown = 1 if static else T
    balanced = torch.stack([torch.randperm(shown * N * H * W, generator=generator) % 2 for _ in range(C)])
    x = (balanced.view(C, shown, N, H, W).permute(1, 2, 0, 3, 4) * 2 - 1).double()
    identity = (torch.rand(T, N, C, H, W, generator=generator) < 0.4).double()
    upstream = torch.randn(2, T, N, C, H, W, generator=generator).bfloat16().to(device)  # exact in each dtype but fp16
    x, identity = (
        value.to(device, dtype).flatten(0, 1).contiguous(memory_format=layout).unflatten(0, value.shape[:2])
        .requires_grad_() for value in (x, identity)
    )  # fmt: skip
    precision = torch.promote_types(dtype, torch.float32)
    norm = nn.BatchNorm2d(C, eps=1e-12).to(device, precision)
    norm.weight.data.copy_(torch.tensor([7.0, 9.0, 12.0, 15.0, 18.0, 20.0]) / 16)
    norm.bias.data.copy_(torch.tensor([5.0, 4.0, 7.0, 6.0, 9.0, 11.0]) / 16 + 1 / 128)
    node = use_fused(neuron_factory(neuron, surrogate=surrogate)(), fused).to(device, precision)
    if join is None:
        o = s = spike((nn.Identity(), norm), node, x, T if static else None)
    else:
        how = MEMBRANE if join == "MEMBRANE" else get_join(join)
        o, s = spike_and_join((nn.Identity(), norm), node, x, JoinLayer(how), identity)
    ((o * upstream[0].to(dtype)).sum() + (s * upstream[1].to(dtype)).sum()).backward()
    of = (x, *(() if join is None else (identity,)), norm.weight, norm.bias, *node.parameters())
    return o.detach(), s.detach(), [value.grad for value in of]


LAYERS = [
    ("IF", "sigmoid", "OR", False), ("LIF", "atan", "IAND", False), ("PLIF", "sigmoid", "XOR", False),
    ("IF", "atan", "ADD", False), ("LIF", "sigmoid", "AND", False), ("PLIF", "atan", "MEMBRANE", False),
    ("IF", "sigmoid", None, True), ("LIF", "sigmoid", None, True), ("PLIF", "atan", None, False),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_fused_layers_are_those_of_float64_on_the_cpu(device, case, dtype):
    layout = (torch.contiguous_format, torch.channels_last)[LAYERS.index(case) % 2]
    o, s, gradients = layer(device, dtype, *case, layout)
    expected_o, expected_s, expected = layer(torch.device("cpu"), torch.float64, *case, layout, fused=False)
    assert 0.05 < expected_s.mean() < 0.95
    assert torch.equal(o.cpu().double(), expected_o)
    assert torch.equal(s.cpu().double(), expected_s)
    for ours, theirs in zip(gradients, expected, strict=True):
        tolerance = 16 * torch.finfo(dtype).eps * theirs.abs().max().item()
        torch.testing.assert_close(ours.cpu().double(), theirs, rtol=0, atol=tolerance)


# Steps


@pytest.mark.parametrize("options", ["", "--optimizer adamw --clip-grad-norm 1 --ema-decay 0.5 --channels-last"])
def test_steps_are_those_of_the_cpu(device, options):
    """In float64, where rounding moves no spike; on a GPU with its own optimizer."""
    runs = [run_of(where, options, torch.float64) for where in (device, torch.device("cpu"))]
    losses = [steps(run, 3) for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0][2] != losses[0][0]
    for part in ("model", "ema"):
        ours, theirs = (engine._state(run)[part] for run in runs)
        for name in ours or ():
            torch.testing.assert_close(ours[name].cpu(), theirs[name], rtol=1e-7, atol=1e-9)


def test_float16_leaves_out_a_step_that_overflows_and_goes_on_from_a_checkpoint(device, tmp_path):
    options = f"--amp --amp-dtype fp16 --ema-decay 0.5 --fused --output-dir {tmp_path}"
    run = run_of(device, options)
    steps(run, 2)
    run.scaler.update(2.0**10)
    before = copy.deepcopy(run.model.fc.weight)
    steps(run, 1)
    assert not torch.equal(run.model.fc.weight, before)
    run.scaler.update(1e30)
    before = copy.deepcopy(run.model.fc.weight)
    steps(run, 1)
    assert torch.equal(run.model.fc.weight, before)
    assert run.scaler.get_scale() == pytest.approx(5e29)
    run.scaler.update(2.0**12)
    run.folder.mkdir()
    engine.save(run)

    again = run_of(device, f"{options} --resume {run.folder / checkpoint.LATEST}")
    engine.resume(again, None)
    assert steps(run, 3) == steps(again, 3)
    assert differing_bits(engine._state(run), engine._state(again)) == 0


@contextlib.contextmanager
def no_waiting(device):
    """A block in which whatever makes the CPU wait for a GPU is an error."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("options", "digits"),
    [
        ("", False),
        ("--amp --amp-dtype fp16 --clip-grad-norm 1", False),
        ("--amp --amp-dtype bf16 --fused --ema-decay 0.9", False),
        ("--adam --accumulate 2 --image-size 16 -b 256 --hflip 0.5 --random-erase 0.5 --mixup 0.5 --cutmix 1", True),
    ],
)
def test_an_epoch_never_waits_for_the_device(device, options, digits):
    run = run_of(device, options, digits=digits)
    engine.train_epoch(run)  # compiles, picks kernels, reads the data
    run.epoch, run.step = 1, 0
    with no_waiting(device):
        engine.train_epoch(run)
    assert math.isfinite(engine._read_meter(run)[0])


# Processes


def gradients_of(rank, size, backend, folder, device):
    """This process's share of a batch: the loss and the gradients that all agree on, kept in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    model, synchronised = network(), device.type == "cuda"
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if synchronised else with_fixed_norms(model)
    wrapped = data_parallel(model.to(device), World(rank, size, 0, device))
    images, target = (x[rank::size].to(device) for x in samples())
    DualStreamLoss()(wrapped(images), target).backward()
    torch.save({name: p.grad.cpu() for name, p in model.named_parameters()}, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def with_fixed_norms(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.3)
            module.eval()
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "size"), [("nccl", 1), ("gloo", 2)])
def test_processes_agree_on_the_gradients_of_one(device, tmp_path, backend, size):
    """One process over NCCL, and two over gloo on one device, where batch norm is over both."""
    if device.type == "cpu" and backend == "nccl":
        pytest.skip("NCCL is for GPUs")
    mp.start_processes(gradients_of, (size, backend, str(tmp_path), device), nprocs=size, start_method="spawn")
    model = network() if device.type == "cuda" else with_fixed_norms(network())
    images, target = (x.to(device) for x in samples())
    DualStreamLoss()(model.to(device)(images), target).backward()
    for rank in range(size):
        found = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad.cpu(), rtol=1e-7, atol=1e-10)


# The real script


@pytest.mark.slow
@pytest.mark.parametrize("half", ["", "--amp"])
def test_a_killed_run_goes_on_inside_its_epoch_with_the_same_bits(device, tmp_path, half):
    command = (
        f"cifar.train --device {device} --deterministic --fused {half} --stem imagenet --width 8 --T 2 --image-size 16 "
        "-b 64 -j 1 --epochs 2 --ema-decay 0.9 --checkpoint-every 5 --resume auto --output-dir"
    ).split()

    def start(name):
        return subprocess.Popen([sys.executable, "-m", *command, str(tmp_path / name)], cwd=ROOT)

    quiet, killed = start("quiet"), start("killed")
    while killed.poll() is None and not list(tmp_path.glob(f"killed/*/{checkpoint.LATEST}")):
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (newest,) = tmp_path.glob(f"killed/*/{checkpoint.LATEST}")
    assert checkpoint.read(newest)["step"] > 0
    assert quiet.wait(300) == 0
    assert start("killed").wait(300) == 0
    assert_same_run(only(tmp_path / "quiet"), only(tmp_path / "killed"))

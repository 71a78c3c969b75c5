"""What the benchmarks compare must be the same network."""

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import neuron as stock_neuron
from torch import nn

from benchmarks import gpu
from benchmarks.common import compare, kept_bytes, parser, products, reset, stock
from benchmarks.faults import differing_bits
from benchmarks.memory import peak
from full_spike.models import create_model
from full_spike.utils import checkpoint
from support.agents import ROOT, children, wait_for


@torch.no_grad()
def test_the_stock_network_has_spikingjellys_nodes_and_our_logits():
    torch.manual_seed(0)
    model = create_model("dsnn18", width=4, num_classes=5, T=3, connect_f="OR").eval()
    theirs = stock(model)
    nodes = [type(m) for m in theirs.modules() if isinstance(m, stock_neuron.BaseNode)]
    assert set(nodes) == {stock_neuron.IFNode}
    assert not any(type(m) is stock_neuron.IFNode for m in model.modules())
    for _ in range(2):  # the second pass shows that `reset` clears the membranes
        images = torch.randn(2, 3, 32, 32)
        for ours, expected in zip(model(images), theirs(images), strict=True):
            assert torch.equal(ours, expected)
        reset(theirs)


def test_sides_take_turns():
    calls = []
    sides = {name: (lambda name=name: calls.append(name), False) for name in ("a", "b")}
    sides["slow"] = (lambda: time.sleep(0.05), False)
    medians = compare(sides, "", parser(None).parse_args(["--repeats", "2"]))
    assert calls == ["a", "b"] * 3
    assert medians["slow"] >= 0.05 > medians["a"]


def test_kept_bytes_by_hand():
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Sigmoid(), nn.Linear(20, 5), nn.Sigmoid())
    # the input is not counted; kept are both sigmoids' outputs [3, 20] (also the second layer's input) and [3, 5]
    assert kept_bytes(model, torch.randn(3, 10)) == 4 * (3 * 20 + 3 * 5)


def test_kept_bytes_under_autocast_are_of_maps_not_of_cast_weights():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    with torch.autocast("cpu", torch.bfloat16):  # kept: the input cast, and the second layer's input
        assert kept_bytes(model, torch.randn(2, 3, 6, 6)) == 2 * (2 * 3 * 36 + 2 * 8 * 16)


@pytest.mark.parametrize(("backward", "passes"), [(False, (1, 1)), (True, (2, 3))])
def test_the_bound_counts_every_convolution(backward, passes):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1, stride=2))
    side, gflop = products(model, torch.randn(2, 3, 6, 6), backward=backward)
    side()
    first, second = 2 * 2 * 36 * 8 * 27, 2 * 2 * 9 * 4 * 8
    assert gflop * 1e9 == pytest.approx(passes[0] * first + passes[1] * second)


def test_differing_bits_of_checkpoints():
    ours = {"a": torch.tensor([1.0, -0.0]), "b": [1, (2.0,)]}
    assert differing_bits(ours, {"a": torch.tensor([1.0, -0.0]), "b": [1, (2.0,)]}) == 0
    assert differing_bits(ours, {"a": torch.tensor([1.0, 0.0]), "b": [1, (3.0,)]}) == 1 + 64
    assert differing_bits(ours, {"a": torch.tensor([1.0])}) == 128 + 64


def _a_mebibyte_for_each_image(_name, args):
    b"1" * (300 * 2**20)  # freed before the step: it must neither hide what the step takes nor be counted
    return lambda: b"1" * (args.batch_size * 2**20)


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
@pytest.mark.parametrize("keep", [True, False])
def test_the_peak_is_what_a_step_takes_whatever_was_held_before(keep):
    args = argparse.Namespace(device="cpu", batch_size=64, size=1)
    assert peak(_a_mebibyte_for_each_image, "", keep, args) == pytest.approx(64, abs=8)


GPU = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--out"]


def results(folder):
    path = folder / gpu.RESULTS
    return gpu.read(path) if path.exists() else []


def test_the_gpus_program_goes_on_after_a_killed_item_and_keeps_what_it_had(tmp_path, capsys):
    process = subprocess.Popen([*GPU, str(tmp_path), "--only", "device", "alone", "profile"], cwd=ROOT)
    wait_for(lambda: results(tmp_path), "the first result")
    (worker,) = children(process.pid)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(results(tmp_path)) > 2, "a result of the next process")
    (worker,) = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), "the end of what it started")

    first, second, third = results(tmp_path)[:3]
    assert (first["item"], third["item"]) == ("device", f"{gpu.ALONE}: 4 x 32 x 32")
    assert second == {"item": "profile", "error": "its process ended with status -9"}
    gpu.table(tmp_path)
    assert re.search(rf"\| {third['item']} \| \d+ \| 1.00 \| 0.0 \| \d+ \| 1.00 \|", capsys.readouterr().out)


@pytest.mark.slow
def test_the_gpus_program_runs_whole_on_a_cpu(tmp_path):
    """But for the device tests, which run by themselves, and minutes of torch's compiler."""
    items = gpu.items(argparse.Namespace(device="cpu", out=tmp_path))
    names = [name for name in items if name != "tests" and "compiled" not in name]
    options = "--minutes 30 --train 0.5 -- --dataset digits --image-size 8 --width 4 --T 2 -b 256 -j 0 --epochs 500"
    subprocess.run([*GPU, str(tmp_path), "--only", *names, "train", *options.split()], cwd=ROOT, check=True)
    lines = {line["item"]: line for line in results(tmp_path)}
    assert {*names, "train"} <= set(lines)
    assert [name for name, line in lines.items() if "error" in line] == []
    assert lines["train"]["status"] == 75  # asked to stop, it has saved
    (newest,) = tmp_path.glob("train/*/checkpoint_latest.pth")
    assert checkpoint.read(newest)["epoch"] > 0

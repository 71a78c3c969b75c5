"""The kernels for CUDA, run by Triton's interpreter on the CPU, against spikingjelly's nodes and torch's batch norm.

Triton reads TRITON_INTERPRET when it is imported, so a process of its own runs all but the first tests of this file.
"""

import copy
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

from full_spike.models import fused, use_fused  # noqa: E402
from full_spike.models.connect import JOINS, MEMBRANE, Join, JoinLayer  # noqa: E402
from full_spike.models.fused import autograd, triton_kernels  # noqa: E402
from full_spike.models.fused.rule import KINDS, Operands, Rule  # noqa: E402
from full_spike.models.neuron import neuron_factory  # noqa: E402

INTERPRETED = triton.knobs.runtime.interpret
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that test_interpreted starts")
compiled = pytest.mark.skipif(INTERPRETED, reason="compiles")


@compiled
def test_interpreted():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert re.search(r"^[0-9]+ passed", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert done.returncode == 0, done.stdout


class NoGPU:
    """A driver of no device, for which kernels compile and are not launched."""

    launcher_cls = staticmethod(lambda source, metadata: lambda *args, **options: None)

    def __init__(self):
        self.utils = self
        self.get_current_target = lambda: triton.backends.compiler.GPUTarget("cuda", 90, 32)
        self.get_current_device = self.get_current_stream = lambda *_: 0
        self.load_binary = lambda *_: (0, 0, 0, 0, 1024)
        self.get_device_properties = lambda _: {"max_shared_mem": 2**17}


@compiled
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_kernels_compile_and_contract_nothing_but_batch_norm(dtype, tmp_path, monkeypatch):
    """For an H100, without one: a fused multiply-add for each element and time step, and no other."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", NoGPU())
    x = torch.zeros(4, 1024, 64, 1, dtype=dtype)
    scale = torch.zeros(64, dtype=torch.promote_types(dtype, torch.float32))
    rule = Rule("atan", 2.0, join=JOINS["XOR"])
    operands = Operands(x, scale, scale, scale[:1], x, scale)
    triton_kernels.forward(operands, rule)
    triton_kernels.backward(operands, x, x, rule)
    triton_kernels.apply_(x, x, scale, scale, scale)
    code = {file.name: file.read_text() for file in tmp_path.rglob("*.ptx")}
    fused_adds = {name: len(re.findall(r"fma\.rn\.f(?:32|64)", text)) for name, text in code.items()}
    if dtype == torch.bfloat16:
        assert fused_adds == {"_forward.ptx": 4 * 8, "_backward.ptx": 4 * 4, "_apply.ptx": 0}
    assert set(fused_adds) == {"_forward.ptx", "_backward.ptx", "_apply.ptx"}


@pytest.fixture
def kernels(monkeypatch):
    """In place of the CPU's, with small tiles, and a multiply-add that rounds once, as a device's does."""

    def fma(_, x, y, z):
        wide = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
        return triton.runtime.interpreter.TensorHandle(wide.astype(z.data.dtype), z.dtype.scalar)

    monkeypatch.setattr(triton.runtime.interpreter.InterpreterBuilder, "create_fma", fma)
    monkeypatch.setitem(autograd.KERNELS, "cpu", triton_kernels)
    monkeypatch.setattr(triton_kernels, "THREADS", 32)
    monkeypatch.setattr(triton_kernels, "PROGRAMS", 3)


def reference(y, node, norm, join, identity, T):
    """The layer's modules one by one."""
    current = y if norm is None else norm(y.flatten(0, 1)).unflatten(0, y.shape[:2])
    if T is not None:
        current = current.expand(T, *y.shape[1:])
    if join is not None and join.acts_on == "current":
        current = join(current, identity)
    s = node(current)
    return (join(s, identity) if join is not None and join.acts_on == "spikes" else s), s


def check(
    T, shape, neuron="IF", join=None, surrogate="sigmoid", dtype=torch.float32, *,
    last=True, static=False, norm="batch", threshold=1.0, gain=1.0, tau=2.0, own=True,
):  # fmt: skip
    """A layer of [T, N, C, H, W] by the kernels and by its modules: spikes bit for bit, gradients within rounding.

    Returns the share of elements that fired.
    """
    torch.manual_seed(0)
    node = neuron_factory(neuron, surrogate=surrogate, tau=tau)(threshold=threshold, gain=gain)
    batch_norm = torch.nn.BatchNorm2d(shape[1])
    with torch.no_grad():
        batch_norm.weight.normal_(1.0, 0.5), batch_norm.bias.normal_(0.5 / gain)
        batch_norm.weight.mul_(1.0 / gain)
    batch_norm.train(norm == "batch")
    y = torch.randn(1 if static else T, *shape) / (1.0 if norm else gain)
    identity = torch.randint(0, 2, (T, *shape)).float() if join else None
    of_o, of_s = torch.randn(2, T, *shape).to(dtype)
    if last:
        y = y.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, y.shape[:2])

    def run(function, values, dtype, parameters):
        modules = [use_fused(node), batch_norm if norm else None, JoinLayer(join) if join else None]
        modules = [copy.deepcopy(m) if m is None else copy.deepcopy(m).to(parameters) for m in modules]
        if function is reference:
            use_fused(modules[0], False)
        leaves = [
            None if x is None else x.detach().to(dtypes[0]).to(dtype).requires_grad_() for x in (values, identity)
        ]
        o, s = function(leaves[0], *modules, leaves[1], T if static else None)
        loss = (o * of_o).sum()
        if own and o is not s:
            loss = loss + (s * of_s).sum()
        loss.backward()
        with_parameters = [p for module in modules if module is not None for p in module.parameters()]
        return o.detach(), s.detach(), [p.grad for p in (*leaves, *with_parameters) if p is not None]

    dtypes = dtype, torch.promote_types(dtype, torch.float32)
    o, s, gradients = run(fused.layer, y, *dtypes)
    expected_o, expected_s, _ = run(reference, y, dtypes[1], dtypes[1])
    assert o.dtype == s.dtype == dtype
    assert torch.equal(o, expected_o.to(dtype))
    assert torch.equal(s, expected_s.to(dtype))
    # contiguous: of one image one pixel wide, torch's batch norm on the CPU gives a wrong gradient if channels lie last
    _, exact_s, exact = run(reference, y.contiguous(), torch.float64, torch.float64)
    assert torch.equal(exact_s, expected_s)  # else the seed is one where rounding decides
    for gradient, truth in zip(gradients, exact, strict=True):
        # of half types dL/dc is rounded, and then dL/dx; what is summed over all elements cancels
        tolerance = 1e-5 if gradient.ndim < 5 else max(1e-6, 2 * torch.finfo(dtype).eps)
        torch.testing.assert_close(gradient.double(), truth, rtol=tolerance, atol=tolerance * float(truth.abs().max()))
    return float(s.float().mean())


def connect_odd(*, identity, residual):
    return 0.25 + 2.0 * residual - 0.5 * identity * (3.0 - residual)


@interpreted
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("join", [None, MEMBRANE, *JOINS.values(), Join("odd", "spikes", None, connect_odd)])
@pytest.mark.parametrize("neuron", KINDS)
def test_every_neuron_and_join(neuron, join):
    surrogate = "atan" if join in (MEMBRANE, JOINS["XOR"]) else "sigmoid"
    last = neuron != "LIF"
    assert 0.01 < check(3, (2, 19, 3, 2) if last else (3, 2, 7, 5), neuron, join, surrogate, last=last) < 0.99


@interpreted
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("seed", range(16))
def test_layers_drawn_at_random(seed, monkeypatch):
    draw = random.Random(seed)
    last = draw.random() < 0.5
    shape = [draw.randint(1, 3), draw.randint(1, 20 if last else 3), *(draw.randint(1, 3 if last else 9) for _ in "HW")]
    monkeypatch.setattr(triton_kernels, "WIDE", draw.choice([0, 2**31]))
    join = draw.choice([None, MEMBRANE, *JOINS.values()])
    static = join is None and draw.random() < 0.5
    scaled = {"threshold": 0.5, "gain": 0.125} if join is not MEMBRANE and draw.random() < 0.3 else {}
    check(
        draw.choice([1, 2, 4, 5]), shape, draw.choice(KINDS), join, draw.choice(["sigmoid", "atan"]),
        draw.choice([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
        last=last, static=static, norm=draw.choice(["batch", "running", None]),
        own=draw.random() < 0.5, tau=draw.choice([2.0, 3.0]), **scaled,
    )  # fmt: skip


@interpreted
@pytest.mark.usefixtures("kernels")
def test_many_time_steps():
    check(32, (2, 3, 2, 3), "PLIF", JOINS["OR"])

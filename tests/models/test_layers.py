"""Layers against torch's own."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from full_spike.models.layers import HalvingDepthwise, TokenLinear, conv1x1, conv3x3


@pytest.mark.parametrize("size", [(8, 6), (7, 7), (1, 1), (2, 5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_halving_depthwise_convolution_is_torchs(size, memory_format):
    torch.manual_seed(0)
    ours = HalvingDepthwise(3).double().to(memory_format=memory_format)
    theirs = nn.Conv2d(3, 3, 3, stride=2, padding=1, groups=3, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    results = []
    for layer in (ours, theirs):
        x.grad = None
        y = layer(x)
        y.sin().sum().backward()
        results.append((y.detach(), x.grad, layer.weight.grad))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_the_halving_depthwise_convolution_under_autocast():
    torch.manual_seed(0)
    layer, x = HalvingDepthwise(4), torch.randn(2, 4, 9, 9, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        expected = nn.functional.conv2d(x, layer.weight, stride=2, padding=1, groups=4)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    y.float().square().sum().backward()
    assert x.grad.dtype == layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_linear_layer_over_tokens_under_autocast(bias, memory_format):
    """Its outputs are torch's convolution's, its gradients those of float64 within what bfloat16 rounds."""
    torch.manual_seed(0)
    layer = TokenLinear(24, 16, bias=bias).to(memory_format=memory_format)
    for parameter in layer.parameters():
        parameter.data = parameter.data.bfloat16().float()
    exact = nn.Conv2d(24, 16, 1, bias=bias).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(6, 24, 5, 3).bfloat16().float().to(memory_format=memory_format).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert torch.equal(y, nn.functional.conv2d(x, layer.weight, layer.bias))
        with torch.no_grad():
            assert torch.equal(y, layer(x))
    gradient = torch.randn_like(y)
    y.backward(gradient)
    exact(exact_x).backward(gradient.double())
    with torch.no_grad():
        assert torch.equal(y, copy.deepcopy(layer).bfloat16()(x.bfloat16()))
    ours, theirs = [x, *layer.parameters()], [exact_x, *exact.parameters()]
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad.dtype == torch.float32
        assert (a.grad.double() - b.grad).norm() <= 2**-8 * b.grad.norm()


@pytest.mark.parametrize("make", [conv1x1, conv3x3])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (1, 4), (2, 2)])
def test_gradients_on_maps_of_one_column_in_bfloat16(make, size):
    """torch's own are whatever memory held before: here it holds large numbers."""
    torch.manual_seed(0)
    for channels in (8, 16, 32, 64):
        layer = make(channels, 2 * channels, 2)
        exact = torch.nn.Conv2d(channels, 2 * channels, layer.kernel_size, 2, layer.padding, bias=False).double()
        exact.load_state_dict({name: value.bfloat16().double() for name, value in layer.state_dict().items()})
        layer = layer.bfloat16()
        for _ in range(4):
            blocks = [torch.full((count,), 1e30) for count in (1000, 2304, 4608, 9216, 18432, 73728)]
            del blocks
            x, exact.weight.grad, layer.weight.grad = torch.rand(60, channels, *size).bfloat16(), None, None
            y, expected = layer(x), exact(x.double())
            torch.testing.assert_close(y.double(), expected, rtol=0.02, atol=0.02)
            gradient = torch.rand_like(y)
            y.backward(gradient)
            expected.backward(gradient.double())
            largest = exact.weight.grad.abs().max().item()
            torch.testing.assert_close(
                layer.weight.grad.double(),
                exact.weight.grad,
                rtol=0.0,
                atol=8 * torch.finfo(torch.bfloat16).eps * largest,
            )


def test_a_stride_along_one_position_changes_nothing_in_double_precision():
    layer = conv3x3(3, 5, 2).double()
    for size in ((1, 1), (4, 1), (1, 5)):
        x = torch.rand(2, 3, *size, dtype=torch.float64)
        expected = torch.nn.functional.conv2d(x, layer.weight, stride=2, padding=1)
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


NARROW = """
import torch
from full_spike.models import create_model

torch.manual_seed(0)
for width in (4, 6):
    model = create_model("dsnn18", width=width, num_classes=3, stem="cifar", T=2).to(memory_format=torch.channels_last)
    for _ in range(20):
        images = torch.rand(4, 3, 16, 16).to(memory_format=torch.channels_last)
        sum(logits.square().sum() for logits in model(images)).backward()
print(all(p.grad.isfinite().all() for p in model.parameters()))
"""


@pytest.mark.parametrize("isa", [{}, {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}])
def test_narrow_networks_train_channels_last(isa):
    """On CPUs without AVX-512 as well, where torch's gradient of a strided 1x1 convolution writes past its memory."""
    command = [sys.executable, "-c", NARROW]
    done = subprocess.run(command, env=os.environ | isa, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-2000:]


def test_a_strided_1x1_convolution_is_torchs():
    torch.manual_seed(0)
    for size in ((8, 6), (7, 5), (1, 1), (1, 4)):
        layer = conv1x1(3, 5, 2).double()
        x = torch.rand(2, 3, *size, dtype=torch.float64, requires_grad=True)
        expected = nn.functional.conv2d(x, layer.weight, stride=2)
        y = layer(x)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        gradient = torch.randn_like(y)
        ours = torch.autograd.grad(y, (x, layer.weight), gradient)
        theirs = torch.autograd.grad(expected, (x, layer.weight), gradient)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)

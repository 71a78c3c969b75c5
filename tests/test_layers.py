"""Layers against torch's own."""

import pytest
import torch
from torch import nn

from models.layers import HalvingDepthwise


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

"""What the benchmarks compare must be the same network."""

import torch
from spikingjelly.activation_based import neuron as stock_neuron

from benchmarks.common import compare, reset, stock
from models import create_model


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


def test_sides_take_turns(capsys):
    calls = []
    sides = {name: (lambda name=name: calls.append(name), False) for name in ("a", "b")}
    medians = compare(sides, 2, torch.device("cpu"))
    assert calls == ["a", "b"] * 3
    assert medians.keys() == {"a", "b"}
    assert "median" in capsys.readouterr().out

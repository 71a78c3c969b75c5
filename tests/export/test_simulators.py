"""Networks in NIR on norse, whose neurons nirtorch puts into a network: every layer's spikes are those of PyTorch.

spikingjelly, which the export itself runs, is tested beside the other runtimes. One time step is dt = 1.
"""

import nir
import nirtorch
import norse.torch
import pytest
import torch

from full_spike import exact
from full_spike.utils.export.graph import SPIKING
from full_spike.utils.export.nir import symbol, to_nir
from full_spike.utils.export.run import round_input
from full_spike.utils.measure.hooks import hooked
from support.deployed import inputs, network


def on_norse(graph):
    def number(values):
        return torch.from_numpy(values).float()

    def integrate(node):
        return norse.torch.IAFCell(norse.torch.IAFParameters(number(node.v_threshold), number(node.v_reset)))

    def leak(node):
        values = (1 / number(node.tau), number(node.v_leak), number(node.v_threshold), number(node.v_reset))
        return norse.torch.LIFBoxCell(norse.torch.LIFBoxParameters(*values), dt=1.0)

    def affine(node):  # nirtorch's leaves out the bias
        linear = torch.nn.Linear(*reversed(node.weight.shape))
        linear.weight.data, linear.bias.data = number(node.weight), number(node.bias)
        return linear

    # nirtorch's Flatten is of one image without the dimension of the batch
    own = {nir.IF: integrate, nir.LIF: leak, nir.Affine: affine, nir.Flatten: lambda _node: torch.nn.Flatten()}
    return nirtorch.nir_to_torch(graph, own)


@torch.no_grad()
def simulated(net, names, frames):
    """(spikes [T, N, C, H, W] by layer, logits [N, classes])."""
    seen = {name: [] for name in names}
    state, logits = None, []
    with hooked(
        net.get_submodule(symbol(name)).register_forward_hook(lambda _m, _args, out, to=to: to.append(out[0]))
        for name, to in seen.items()
    ):
        for frame in frames:
            output, state = net(frame, state)
            logits.append(output)
    return {name: torch.stack(spikes) for name, spikes in seen.items()}, torch.stack(logits).mean(0)


@pytest.mark.parametrize(
    ("name", "connect_f", "options"),
    [
        ("fsnn18", "OR", {"neuron": "IF", "stem": "imagenet"}),
        ("fsnn18", "IAND", {"neuron": "IF"}),
        ("fsnn_7b", "AND", {"neuron": "LIF"}),
        ("fsnn_7b", "XOR", {"neuron": "IF"}),
    ],
)
def test_norse_fires_the_same_spikes_on_200_images(name, connect_f, options):
    model = network(name, connect_f, **options)
    x = round_input(inputs(model, 200))
    runner = exact(model, x.shape[-2:])
    spikes, logits = runner.spikes(x)
    names = [node.name for node in runner.graph.of(*SPIKING)]
    frames = x if x.ndim == 5 else [x] * runner.graph.T
    theirs, their_logits = simulated(on_norse(to_nir(runner.graph)), names, frames)
    assert [layer for layer in names if not torch.equal(theirs[layer], spikes[layer])] == []
    assert sum(float(layer.sum()) for layer in spikes.values()) > 0
    torch.testing.assert_close(their_logits, logits, rtol=0, atol=1e-5)
    assert torch.equal(their_logits.argmax(1), logits.argmax(1))

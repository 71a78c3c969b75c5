"""Networks in NIR on simulators that others wrote: every layer's spikes are those of PyTorch.

nirtorch makes a network of the nodes, the simulators its neurons; one time step is dt = 1.
"""

import nir
import nirtorch
import norse.torch
import pytest
import torch
from full_spike.models import graph
from full_spike.utils.export.nir_graph import write_nir
from full_spike.utils.export.runtimes import spiking_nodes
from full_spike.utils.measure.hooks import hooked
from spikingjelly.activation_based.nir_exchange import import_from_nir
from support.deployed import inputs, network


def on_spikingjelly(described):
    return import_from_nir(described, dt=1.0)


def on_norse(described):
    def number(values):
        return torch.from_numpy(values).float()

    def integrate(node):
        return norse.torch.IAFCell(norse.torch.IAFParameters(number(node.v_threshold), number(node.v_reset)))

    def leak(node):
        given = (1 / number(node.tau), number(node.v_leak), number(node.v_threshold), number(node.v_reset))
        return norse.torch.LIFBoxCell(norse.torch.LIFBoxParameters(*given), dt=1.0)

    def affine(node):  # nirtorch's leaves out the bias
        linear = torch.nn.Linear(*reversed(node.weight.shape))
        linear.weight.data, linear.bias.data = number(node.weight), number(node.bias)
        return linear

    # nirtorch's Flatten is of one image without the dimension of the batch
    own = {nir.IF: integrate, nir.LIF: leak, nir.Affine: affine, nir.Flatten: lambda _node: torch.nn.Flatten()}
    return nirtorch.nir_to_torch(described, own)


SIMULATORS = {"spikingjelly": on_spikingjelly, "norse": on_norse}


@torch.no_grad()
def simulated(net, names, frames):
    """(spikes [T, N, C, H, W] by layer, logits [N, classes])."""
    seen = {name: [] for name in names}

    def keep(name):
        return lambda _module, _args, output: seen[name].append(output[0])

    state, logits = None, []
    with hooked(net.get_submodule(name.replace(".", "_")).register_forward_hook(keep(name)) for name in names):
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
@pytest.mark.parametrize("simulator", list(SIMULATORS))
def test_simulators_fire_the_same_spikes_on_200_images(simulator, name, connect_f, options):
    model = network(name, connect_f, **options)
    x = graph.round_input(inputs(model, 200))
    runner = graph.exact(model, x.shape[-2:])
    spikes, logits = runner.spikes(x)
    names = [node.name for node in spiking_nodes(runner.graph)]
    net = SIMULATORS[simulator](write_nir(runner.graph))
    theirs, their_logits = simulated(net, names, x if x.ndim == 5 else [x] * runner.graph.T)
    assert [layer for layer in names if not torch.equal(theirs[layer], spikes[layer])] == []
    assert sum(float(layer.sum()) for layer in spikes.values()) > 0
    torch.testing.assert_close(their_logits, logits, rtol=0, atol=1e-5)
    assert torch.equal(their_logits.argmax(1), logits.argmax(1))

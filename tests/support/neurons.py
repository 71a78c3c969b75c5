"""spikingjelly's own neurons, to compare with."""

from spikingjelly.activation_based import neuron as stock
from spikingjelly.activation_based import surrogate as stock_surrogate

STOCK = {"IF": stock.IFNode, "LIF": stock.LIFNode, "PLIF": stock.ParametricLIFNode}
STOCK_SURROGATE = {"sigmoid": stock_surrogate.Sigmoid(4.0), "atan": stock_surrogate.ATan(2.0)}


def run(node, x, weights):
    x = x.clone().requires_grad_()
    spikes = node(x)
    (spikes * weights).sum().backward()
    return spikes.detach(), x.grad, [p.grad for p in node.parameters()]

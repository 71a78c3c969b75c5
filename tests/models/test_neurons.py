"""Neurons against spikingjelly's stock nodes, surrogates against their closed forms, gates against truth tables."""

import copy
import math
import pickle
import re

import pytest
import torch
from spikingjelly.activation_based import functional, monitor
from spikingjelly.activation_based import neuron as stock_neuron
from spikingjelly.activation_based import surrogate as stock_surrogate

from full_spike.models.connect import BOOLEAN_FUNCTIONS, CONNECT_FUNCTIONS, JoinLayer, get_join
from full_spike.models.neuron import NEURONS, SURROGATES, neuron_factory, use_fused
from full_spike.utils.measure.certificate import certify
from support.networks import lively, small
from support.neurons import STOCK, STOCK_SURROGATE, run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("T", [1, 2, 4, 8])
@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
@pytest.mark.parametrize("name", sorted(STOCK))
def test_nodes_equal_spikingjellys(name, surrogate, T, dtype):
    torch.manual_seed(T)
    x, weights = torch.randn(2, T, 3, 4, 5, 5, dtype=dtype) * 1.5
    ours = neuron_factory(name, surrogate=surrogate)().to(dtype)
    theirs = STOCK[name](step_mode="m", detach_reset=True, surrogate_function=STOCK_SURROGATE[surrogate]).to(dtype)
    spikes, gradient, of_parameters = run(ours, x, weights)
    expected, expected_gradient, expected_of_parameters = run(theirs, x, weights)
    assert 0 < spikes.mean() < 1
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(of_parameters, expected_of_parameters, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(STOCK))
def test_dynamics_in_plain_python(name):
    """Charge, fire at >= 1, reset to 0, written out per neuron (IF, LIF tau=2, PLIF tau0=2)."""
    x = [0.6, 0.5, 1.9, -0.3, 1.3, 2.5, 0.1, 0.95]
    v, expected = 0.0, []
    for current in x:
        v = v + current if name == "IF" else v + (current - v) / 2.0
        expected.append(float(v >= 1.0))
        v = 0.0 if v >= 1.0 else v
    spikes = neuron_factory(name)().double()(torch.tensor(x, dtype=torch.float64).view(-1, 1))
    assert spikes.flatten().tolist() == expected


@pytest.mark.parametrize(("alpha", "threshold", "gain"), [(1.5, 1.0, 1.0), (4.0, 0.6, 1.0), (4.0, 0.5, 0.125)])
@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
@pytest.mark.parametrize("name", sorted(STOCK))
def test_a_neuron_computes_what_its_spec_says(name, surrogate, alpha, threshold, gain):
    """Spikes in plain Python from the spec alone, and the spec from what the neuron was made of."""
    make = neuron_factory(name, tau=3.5, surrogate=surrogate, alpha=alpha)
    node = make(threshold=threshold, gain=gain).double()
    if name == "PLIF":
        torch.nn.init.constant_(node.w, 0.3)  # as if learned
    spec = node.spec
    assert (spec.kind, spec.surrogate, spec.alpha, spec.standard) == (name, surrogate, alpha, True)
    assert (spec.threshold, spec.gain) == (threshold, gain)
    assert spec.tau == (None if name == "IF" else 3.5)
    assert (spec.rate is not None) == (name == "PLIF") == (spec.rate is not None and spec.rate.requires_grad)
    rate = 1.0 if spec.tau is None else 1.0 / spec.tau
    if spec.rate is not None:
        rate = spec.rate.item()
    currents = [spec.threshold / spec.gain * x for x in (0.6, 0.5, 1.9, 3.3, -0.3, 2.3, 4.5, 0.1, 0.95)]
    v, expected = 0.0, []
    for current in currents:
        v = v + spec.gain * current if name == "IF" else v + (spec.gain * current - v) * rate
        expected.append(float(v >= spec.threshold))
        v = 0.0 if v >= spec.threshold else v
    assert node(torch.tensor(currents, dtype=torch.float64).view(-1, 1)).flatten().tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_a_spec_names_what_is_none_of_ours():
    class Other(NEURONS["IF"]):
        pass

    assert Other().spec.kind == "Other"
    node = NEURONS["LIF"](surrogate_function=stock_surrogate.Erf(), detach_reset=True)
    assert (node.spec.surrogate, node.spec.standard) == ("Erf", True)
    for options in ({"v_reset": None}, {"detach_reset": False}, {"decay_input": False}):
        assert not NEURONS["LIF"](**{"detach_reset": True, **options}).spec.standard


@pytest.mark.parametrize("tau", [1.5, 7.3])
@pytest.mark.parametrize("name", sorted(STOCK))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_firing_current_fires_at_every_step(name, tau, dtype):
    node = neuron_factory(name, tau=tau)(threshold=0.5, gain=0.25)
    assert node(torch.full((9, 1), node.firing_current(), dtype=dtype)).all()
    assert not node(torch.full((9, 1), 0.98 * node.firing_current(), dtype=dtype))[0].any()


def derivative(surrogate, alpha, u):
    """The surrogate's, at a distance u from the threshold."""
    if surrogate == "sigmoid":
        fired = 1.0 / (1.0 + math.exp(-alpha * u))
        return alpha * fired * (1.0 - fired)
    return (alpha / 2.0) / (1.0 + (math.pi / 2.0 * alpha * u) ** 2)


def in_plain_python(name, surrogate, alpha, rate, x, weights):
    """(spikes, dL/dx, dL/d(1/tau)) of one neuron and L = sum over t of weights[t] * spikes[t], by the chain rule.

    h_t = v_{t-1} + x_t (IF) or v_{t-1} + (x_t - v_{t-1}) rate, s_t = [h_t >= 1], v_t = (1 - s_t) h_t. No gradient goes
    through the reset, so dv_t/dh_t = 1 - s_t.
    """
    keep, take = (1.0, 1.0) if name == "IF" else (1.0 - rate, rate)
    v, before, charged, spikes = 0.0, [], [], []
    for current in x:
        h = v + current if name == "IF" else v + (current - v) * rate
        before.append(v)
        charged.append(h)
        spikes.append(float(h >= 1.0))
        v = 0.0 if h >= 1.0 else h
    grad_v, grad_x, grad_rate = 0.0, [0.0] * len(x), 0.0
    for t in reversed(range(len(x))):
        grad_h = weights[t] * derivative(surrogate, alpha, charged[t] - 1.0) + grad_v * (1.0 - spikes[t])
        grad_x[t] = grad_h * take
        grad_rate += grad_h * (x[t] - before[t])
        grad_v = grad_h * keep
    return spikes, grad_x, grad_rate


@pytest.mark.parametrize(("fused", "alpha"), [(False, None), (False, 3.0), (True, None)])
@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
@pytest.mark.parametrize("name", sorted(STOCK))
def test_spikes_and_gradients_in_plain_python(name, surrogate, alpha, fused):
    """Written out neuron by neuron, apart from spikingjelly, whose classes ours derive from."""
    T, tau = (2, 2.0) if fused else (6, 3.7)  # fused: kernels that other tests compile as well
    torch.manual_seed(4)
    x, weights = torch.randn(2, T, 40, dtype=torch.float64)
    x = 3.0 * x
    node = use_fused(neuron_factory(name, tau=tau, surrogate=surrogate, alpha=alpha)().double(), fused)
    spikes, grad_x, grad_parameters = run(node, x, weights)
    alpha = alpha or {"sigmoid": 4.0, "atan": 2.0}[surrogate]
    rate = 1.0 / (1.0 + math.exp(-node.w.item())) if name == "PLIF" else 1.0 / tau  # w was rounded to float32
    assert rate == pytest.approx(1.0 / tau, rel=1e-6)
    columns = [
        in_plain_python(name, surrogate, alpha, rate, x[:, i].tolist(), weights[:, i].tolist())
        for i in range(x.shape[1])
    ]
    assert 0.1 < spikes.mean() < 0.9
    assert spikes.T.tolist() == [fired for fired, _, _ in columns]
    expected = torch.tensor([gradient for _, gradient, _ in columns], dtype=torch.float64).T
    torch.testing.assert_close(grad_x, expected, rtol=1e-9, atol=1e-12)
    if name == "PLIF":  # 1/tau = sigmoid(w)
        grad_w = sum(grad_rate for _, _, grad_rate in columns) * rate * (1.0 - rate)
        assert [g.item() for g in grad_parameters] == [pytest.approx(grad_w, rel=1e-9)]
    else:
        assert grad_parameters == []


@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
def test_surrogate_gradients_are_their_closed_forms(surrogate, alpha):
    """At T = 1 an IF neuron is a step at 1, and its gradient is the surrogate's alone."""
    x = torch.linspace(-2.0, 4.0, 61, dtype=torch.float64).view(1, -1).requires_grad_()
    neuron_factory("IF", surrogate=surrogate, alpha=alpha)()(x).sum().backward()
    expected = [derivative(surrogate, alpha, value - 1.0) for value in x.detach().flatten().tolist()]
    assert x.grad.flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_the_reset_is_detached():
    """With the reset out of the graph, d s_2 / d x_1 of an IF neuron is 0 after a spike and the surrogate's else."""
    for first, carried in ((1.5, 0.0), (0.5, 1.0)):
        x = torch.tensor([[first], [0.2]], dtype=torch.float64, requires_grad=True)
        neuron_factory("IF")()(x)[1].sum().backward()
        u = first * carried + 0.2 - 1.0
        s = 1.0 / (1.0 + math.exp(-4.0 * u))
        assert x.grad[0].item() == pytest.approx(carried * 4.0 * s * (1.0 - s), rel=1e-12)


@pytest.mark.parametrize(("name", "current", "T"), [("IF", 0.0015, 1024), ("LIF", 1.05, 256), ("PLIF", 1.05, 256)])
def test_half_precision_integrates_in_float32(name, current, T):
    """The last charges before the threshold are below bfloat16's spacing there (1/256): summed in it, none fires."""
    x = torch.full((T, 1), current, dtype=torch.bfloat16)
    node = neuron_factory(name, tau=50.0)()
    spikes = node(x)
    assert spikes.dtype == torch.bfloat16
    assert torch.equal(spikes.float(), node(x.float()))
    assert spikes.sum() >= 1


def test_nodes_keep_no_state():
    node = neuron_factory("LIF")()
    node(torch.randn(4, 2, 3))
    assert node.v == 0.0


OTHERS = {  # spikingjelly's, with what ours are made with
    "CLIF": lambda surrogate: stock_neuron.ComplementaryLIFNode(tau=3.0, surrogate_function=surrogate, step_mode="m"),
    "ILIF": lambda _: stock_neuron.ILIFNode(tau=3.0, detach_reset=True, step_mode="m"),
    "TernaryLIF": lambda surrogate: stock_neuron.TernaryLIFNode(
        tau=3.0, surrogate_function=surrogate, detach_reset=True, step_mode="m"
    ),
    "PSN": lambda surrogate: stock_neuron.PSN(4, surrogate),
}


@pytest.mark.parametrize("name", OTHERS)
def test_neurons_of_other_papers_are_spikingjellys(name):
    assert OTHERS.keys() | STOCK.keys() == NEURONS.keys()
    torch.manual_seed(0)
    x, weights = 2 * torch.randn(2, 4, 3, 5)
    theirs = OTHERS[name](stock_surrogate.Sigmoid(4.0))
    ours = neuron_factory(name, tau=3.0, T=4)()
    ours.load_state_dict(theirs.state_dict())
    for _ in range(2):  # from rest at each call
        theirs.reset() if hasattr(theirs, "reset") else None
        for a, b in zip(run(ours, x, weights)[:2], run(theirs, x, weights)[:2], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(NEURONS))
def test_the_certificate_says_which_neurons_fire_spikes(name):
    model = lively(small("fsnn18", neuron=name))
    certificate = certify(model, [(torch.randn(4, 3, 32, 32), None)])
    assert certificate.holds == (name not in ("ILIF", "TernaryLIF"))
    value = {"TernaryLIF": "-1", "ILIF": r"\d"}.get(name)
    expected = rf"no: \S+ reads {value}, which is no spike" if value else "yes: only 0 and 1"
    assert re.search(expected, certificate.lines()[0])


class Mine(stock_neuron.SimpleBaseNode):
    """A soft reset, and a leak of a quarter of what is left."""

    def __init__(self):
        super().__init__(v_reset=None, surrogate_function=stock_surrogate.Erf(), detach_reset=True)

    def neuronal_charge(self, x):
        self.v = 0.75 * self.v + x


def test_a_node_of_ones_own_and_a_surrogate_may_be_handed_in():
    x = [0.6, 0.7, 2.5, -0.3, 0.5, 2.0]
    v, expected = 0.0, []
    for current in x:
        v = 0.75 * v + current
        expected.append(float(v >= 1.0))
        v -= expected[-1]
    node = neuron_factory(Mine)()
    for _ in range(2):
        currents = torch.tensor(x).view(-1, 1).requires_grad_()
        assert node(currents).flatten().tolist() == expected
    copy.deepcopy(node)  # it kept no graph
    assert pickle.loads(pickle.dumps(node)).gain == 1.0
    spikformers = neuron_factory(Mine)(threshold=0.5, gain=0.5)
    assert torch.equal(spikformers(torch.tensor(x).view(-1, 1)), node(torch.tensor(x).view(-1, 1)))
    node = neuron_factory("LIF", surrogate=stock_surrogate.PiecewiseQuadratic(alpha=0.5))()
    assert type(node.surrogate_function) is stock_surrogate.PiecewiseQuadratic
    assert node.spec.surrogate == "PiecewiseQuadratic"


@pytest.mark.parametrize("neuron", ["IF", "PLIF", Mine])
def test_single_steps_are_refused_with_what_does_them(neuron):
    node = neuron_factory(neuron)()
    functional.set_step_mode(node, "s")
    with pytest.raises(ValueError, match=r"use full_spike\.Stream for one step at a time"):
        node(torch.ones(2, 3))


@pytest.mark.parametrize("fused", [False, True])
def test_spikingjellys_monitor_reads_the_membranes(fused):
    """In plain Python: IF with a hard reset."""
    net = torch.nn.Sequential(use_fused(neuron_factory("IF")(), fused))
    net[0].store_v_seq = True
    seen = monitor.AttributeMonitor("v_seq", pre_forward=False, net=net, instance=stock_neuron.BaseNode)
    net(torch.tensor([[0.25], [0.5], [0.5], [0.25]], dtype=torch.bfloat16))
    assert seen["0"][0].flatten().tolist() == [0.25, 0.75, 0.0, 0.25]
    assert net[0].v == 0.0


TRUTH = {  # (identity, residual) -> output, residual first in no table: IAND is identity AND NOT residual
    "ADD": {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 2},
    "AND": {(0, 0): 0, (0, 1): 0, (1, 0): 0, (1, 1): 1},
    "IAND": {(0, 0): 0, (0, 1): 0, (1, 0): 1, (1, 1): 0},
    "OR": {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 1},
    "XOR": {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 0},
}


@pytest.mark.parametrize("name", sorted(CONNECT_FUNCTIONS))
def test_connect_functions_are_their_truth_tables(name):
    for (identity, residual), expected in TRUTH[name].items():
        out = CONNECT_FUNCTIONS[name](identity=torch.tensor(float(identity)), residual=torch.tensor(float(residual)))
        assert out.item() == expected


@pytest.mark.parametrize("name", sorted(CONNECT_FUNCTIONS))
def test_a_join_as_a_module_says_what_it_is(name):
    layer = JoinLayer(get_join(name))
    assert list(layer.state_dict()) == list(layer.parameters()) == []
    assert (layer.name, layer.acts_on) == (name, "spikes")
    boolean = max(TRUTH[name].values()) < 2
    assert layer.cost == ("logic" if boolean else "addition")
    assert (name in BOOLEAN_FUNCTIONS) == boolean
    (neutral,) = [r for r in (0, 1) if all(TRUTH[name][i, r] == i for i in (0, 1))]
    assert layer.join.neutral() == neutral
    identity, residual = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert layer(residual, identity).tolist() == list(TRUTH[name].values())


def test_connect_functions_take_no_positional_operands():
    with pytest.raises(TypeError):
        CONNECT_FUNCTIONS["IAND"](torch.ones(1), torch.ones(1))

"""Networks described layer by layer: exact in floats, in integers, and one time step at a time."""

import copy
import dataclasses
import functools
import itertools

import pytest
import torch
from full_spike.models import CONNECT_FUNCTIONS, create_model, fold_batchnorm, graph
from full_spike.utils.export.compare import model_spikes
from full_spike.utils.export.graph import fast
from full_spike.utils.export.graph.quantize import powers_of_two, rounded_weight
from full_spike.utils.export.graph.run import gate
from full_spike.utils.measure.counter import ExactCounter
from support.deployed import digits, inputs, network
from torch import nn

SPIKFORMER = {"width": 16, "heads": 2, "depth": 1, "patch": 2}
NETWORKS = [
    ("fsnn18", "OR", {}),
    ("fsnn18", "IAND", {"stem": "imagenet"}),
    ("fsnn50", "XOR", {"neuron": "LIF"}),
    ("fsnn_7b", "AND", {}),
    ("fsnn_wide7b", "OR", {"neuron": "IF"}),
    ("fs_spikformer_4_384", "OR", SPIKFORMER),
]
EACH = pytest.mark.parametrize(("name", "connect_f", "options"), NETWORKS)


def spikes_of(model, x):
    names = [node.name for node in graph.describe(model, x.shape[-2:]).nodes if node.kind in ("fire", "gate", "pool")]
    return model_spikes(model, names, x)


def differing(a, b):
    return sum(int((a[name].bool() != b[name].bool()).sum()) for name in a)


@EACH
def test_folding_changes_no_spike_in_float64(name, connect_f, options):
    model = network(name, connect_f, **options).double()
    x = inputs(model, 32).double()
    with torch.no_grad():
        before, logits = spikes_of(model, x)
        after, folded_logits = spikes_of(fold_batchnorm(model), x)
    assert differing(before, after) == 0
    assert torch.equal(logits.argmax(1), folded_logits.argmax(1))


@pytest.mark.parametrize(("name", "connect_f", "options"), [each for each in NETWORKS if each[0] != "fsnn50"])
def test_folding_changes_no_class_of_the_test_images_in_float32(name, connect_f, options):
    """On all 360; few membranes are within rounding of the threshold, and few spikes follow from them."""
    model = network(name, connect_f, **options)
    x = inputs(model, 360)
    with torch.no_grad():
        before, logits = spikes_of(model, x)
        after, folded_logits = spikes_of(fold_batchnorm(model), x)
    assert torch.equal(logits.argmax(1), folded_logits.argmax(1))
    assert differing(before, after) <= 1e-5 * sum(spikes.numel() for spikes in before.values())


@EACH
def test_what_is_described_does_what_the_network_does(name, connect_f, options):
    """But for membranes within float32's rounding of the threshold, and what follows from them."""
    model = network(name, connect_f, **options)
    x = inputs(model, 32)
    ours, logits = graph.exact(model, x.shape[-2:]).spikes(x)
    theirs, expected = spikes_of(model, x)
    assert ours.keys() == theirs.keys()
    assert differing(ours, theirs) <= 0.001 * sum(s.numel() for s in theirs.values())
    assert float((logits.argmax(1) == expected.argmax(1)).float().mean()) == 1.0


@pytest.mark.parametrize("neuron", ["IF", "LIF"])
def test_a_neurons_gain_and_threshold_are_described(neuron):
    """A gain of 2 and a threshold of 3 are those of 1 with all weights times 2/3."""
    model = network("fsnn18", "OR", neuron=neuron)
    changed = copy.deepcopy(model)
    node = changed.layer1[0].sn1
    node.gain, node.v_threshold = 2.0, 3.0
    plain = graph.exact(changed, (14, 14))
    x = digits(32)
    ours, theirs = plain.spikes(x)[0], spikes_of(changed, x)[0]
    assert differing(ours, theirs) <= 0.001 * sum(s.numel() for s in theirs.values())
    assert differing(ours, spikes_of(model, x)[0]) > 0
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for value in (scaled.layer1[0].conv1[1].weight, scaled.layer1[0].conv1[1].bias):
            value *= 2 / 3
    a, b = (graph.quantize(m, [x]).spikes(x)[0] for m in (changed, scaled))
    assert differing(a, b) <= 0.002 * sum(s.numel() for s in a.values())


@pytest.mark.parametrize("name", ["sew_resnet18", "spiking_resnet18", "sew_7b", "plain_7b"])
def test_other_networks_are_described_too(name):
    torch.manual_seed(0)
    model = create_model(name, width=4, num_classes=10, T=4).eval()
    x = torch.randn(4, 3, 32, 32) if "resnet" in name else torch.poisson(torch.full((4, 4, 2, 32, 32), 0.4))
    torch.testing.assert_close(graph.exact(model, (32, 32))(x), model(x))


@EACH
def test_sums_are_exact_in_any_order(name, connect_f, options):
    """The body's in float32, with inputs in another order; so they equal those in float64."""
    model = network(name, connect_f, **options)
    x = inputs(model, 8)
    runner = graph.exact(model, x.shape[-2:])
    generator = torch.Generator().manual_seed(0)
    for node in runner.graph.of_kind("conv"):
        if node is runner.graph.stem:
            continue
        spikes = torch.randint(0, 2, (4, *runner.graph.shape_of(node.inputs[0])), generator=generator).float()
        order = torch.randperm(spikes.shape[1], generator=generator)
        args = node.stride, node.padding
        y = nn.functional.conv2d(spikes, node.weight, node.bias, *args)
        shuffled = nn.functional.conv2d(spikes[:, order], node.weight[:, order], node.bias, *args)
        double = nn.functional.conv2d(spikes.double(), node.weight.double(), node.bias.double(), *args)
        assert torch.equal(y, shuffled)
        assert torch.equal(y.double(), double)


@EACH
@pytest.mark.parametrize("bits", [None, 8])
def test_one_time_step_at_a_time_is_the_same(name, connect_f, options, bits):
    model = network(name, connect_f, **options)
    x = inputs(model, 8)
    if bits and name.startswith("fs_spikformer"):
        with pytest.raises(ValueError, match="is attention, which integer networks have not"):
            graph.quantize(model, [x], bits)
        return
    runner = graph.exact(model, x.shape[-2:]) if bits is None else graph.quantize(model, [x], bits)
    whole, logits = runner.spikes(x)
    stream, seen = graph.Stream(runner), {}
    for _ in range(2):  # `reset` forgets
        stream.reset()
        seen.clear()
        for frame in x if x.ndim == 5 else [x] * 4:
            last = stream.step(frame, lambda name, spikes: seen.setdefault(name, []).append(spikes))
    assert torch.equal(last, logits)
    assert all(torch.equal(torch.cat(seen[name]), whole[name]) for name in whole)


# Integers


def in_floats(model, runner):
    """The integer network as one of spikingjelly's neurons in float64, whole numbers in place of weights."""
    plain = fold_batchnorm(model).double()
    modules = dict(plain.named_modules())
    for node in runner.graph.of_kind("fire"):
        assert node.fraction == 0
        conv = modules[node.inputs[0]]
        conv.weight.data = runner.graph.node(node.inputs[0]).weight.double()
        conv.bias = nn.Parameter(node.bias.double())
        modules[node.name].v_threshold = node.threshold.double()[:, None, None]
    head = modules[runner.graph.head.name]
    head.weight.data, head.bias.data = runner.graph.head.weight.double(), runner.graph.head.bias.double()
    return plain


@pytest.mark.parametrize(("name", "connect_f"), [("fsnn18", "OR"), ("fsnn34", "IAND"), ("fsnn_7b", "XOR")])
def test_an_integer_network_is_what_stock_neurons_do_with_whole_numbers(name, connect_f):
    model = network(name, connect_f, neuron="IF")
    x = inputs(model, 16)
    runner = graph.quantize(model, [x], 8)
    spikes, logits = runner.spikes(x)
    plain = in_floats(model, runner)
    values = runner.quantised(x).double() - runner.graph.zero
    theirs, _ = spikes_of_plain(plain, runner, values)
    assert differing(spikes, theirs) == 0
    last = theirs[runner.graph.head.inputs[0]]
    expected = last.sum((0, 3, 4)) @ runner.graph.head.weight.double().T + 4 * runner.graph.head.bias
    assert torch.equal(logits.double(), expected)


def spikes_of_plain(plain, runner, x):
    return model_spikes(plain, [n.name for n in runner.graph.nodes if n.kind in ("fire", "gate", "pool")], x)


def counted(model, runner, x):
    """Additions by layer, by the exact counter on the network above."""
    plain = in_floats(model, runner)
    with ExactCounter(plain) as counter, torch.no_grad():
        plain(runner.quantised(x).double() - runner.graph.zero)
    return {row.name: round(row.ac * counter.images) for row in counter.rows() if row.kind in ("conv", "avg pool")}


def test_weights_lie_on_their_grid_and_units_fit_the_thresholds():
    model = network("fsnn18", "OR")
    for bits, most in ((8, 127), (4, 7)):
        runner = graph.quantize(model, [digits(32)], bits)
        for node in runner.graph.of_kind("conv"):
            assert node.weight.dtype == torch.int8
            assert int(node.weight.abs().max()) == most
        for node in runner.graph.of_kind("fire"):
            assert node.threshold.dtype == node.bias.dtype == torch.int32
            assert int(node.threshold.min()) > 0


@pytest.mark.parametrize("piece", [fast.PIECE, 1 << 14])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_fast_way_gives_the_same_integers(bits, piece, monkeypatch):
    """All images at once, and in sections whose pieces are of one image or a few, the last of them smaller."""
    monkeypatch.setattr(fast, "PIECE", piece)
    for name, connect_f in (("fsnn18", "IAND"), ("fsnn_wide7b", "XOR"))[: 1 + (bits == 8)]:
        model = network(name, connect_f, neuron="IF", **({"stem": "imagenet"} if name == "fsnn18" else {}))
        x = inputs(model, 40)
        runner = graph.quantize(model, [x], bits)
        for images in (x, x[..., -1:, :, :, :], x[..., :0, :, :, :]):
            assert torch.equal(runner(images), graph.Runner(runner.graph)(images))


@pytest.mark.parametrize("zero", [0, 128])
def test_the_fast_way_reads_any_bytes_and_every_gate(zero):
    """Bytes at both ends of their range, whose padding is the zero point, and weights as large as they can be."""
    x = torch.randint(0, 256, (3, 1, 14, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    x[0], x[1] = 0, 255
    for connect_f in ("AND", "OR"):
        model = network("fsnn18", connect_f, neuron="IF", stem="imagenet")
        whole = graph.quantize(model, [digits(8)]).graph
        weight = whole.stem.weight.sign() * 127
        stem = dataclasses.replace(whole.stem, weight=weight.to(torch.int8))
        whole = whole.with_nodes({stem.name: stem}, zero=zero)
        assert torch.equal(graph.FastRunner(whole)(x), graph.Runner(whole)(x))


@pytest.mark.parametrize("rate", [0.5, 0.25, 1 / 3, 0.7, 0.9, 0.01, 1 / 1.0078125])
def test_a_rate_as_powers_of_two(rate):
    terms = powers_of_two(rate)
    assert abs(sum(sign * 2.0**-shift for sign, shift in terms) - rate) <= 2.0**-11
    assert len(terms) <= 6
    assert powers_of_two(0.5) == ((1, 1),)


@pytest.mark.parametrize("connect_f", ["AND", "IAND", "OR", "XOR"])
def test_gates_are_the_connect_functions(connect_f):
    (node,) = graph.describe(network("fsnn_7b", connect_f), (8, 8)).of_kind("gate")[:1]
    for identity, residual in itertools.product((0.0, 1.0), repeat=2):
        expected = CONNECT_FUNCTIONS[connect_f](identity=identity, residual=residual)
        assert gate(node, torch.tensor([identity]), torch.tensor([residual])).item() == expected


def test_training_with_rounded_weights_is_straight_through_and_commutes_with_folding():
    model = network("fsnn18", "OR").train()
    rounded = graph.round_weights(copy.deepcopy(model), 4)
    weight = rounded.layer1[0].conv1[0].weight
    assert len(weight[0].unique()) <= 15
    rounded(digits(8)).sum().backward()
    gradient = rounded.layer1[0].conv1[0].parametrizations.weight.original.grad
    assert gradient.abs().sum() > 0
    kept = graph.keep_rounded(rounded).eval()
    folded = fold_batchnorm(kept)
    for layer in folded.spiking_layers():
        torch.testing.assert_close(rounded_weight(layer.conv.weight, 4), layer.conv.weight, rtol=1e-4, atol=1e-6)


# What is refused


def test_a_pathway_or_a_sum_is_refused():
    with pytest.raises(ValueError, match="dsnn18 still has its pathway"):
        graph.describe(network("dsnn18", "OR"), (14, 14))
    model = create_model("sew_resnet18", width=4, stem="cifar").eval()
    with pytest.raises(ValueError, match=r"layer1.0.join adds, so sew_resnet18 ADD is not full-spike"):
        graph.quantize(model, [torch.randn(2, 3, 8, 8)])
    with pytest.raises(ValueError, match="bits=3 is out of range"):
        graph.quantize(network("fsnn18", "OR"), [digits(2)], 3)
    with pytest.raises(ValueError, match=r"an input of shape \(1, 1, 9, 9\) does not end in"):
        graph.exact(network("fsnn18", "OR"), (14, 14))(torch.zeros(1, 1, 9, 9))


def test_more_steps_than_32_bits_hold_are_refused():
    runner = graph.quantize(network("fsnn_7b", "OR", neuron="IF"), [inputs(network("fsnn_7b", "OR"), 4)])
    runner.most_steps = 2
    stream = graph.Stream(runner)
    frame = inputs(runner, 4)[0]
    stream.step(frame), stream.step(frame)
    with pytest.raises(ValueError, match="after 2 time steps a membrane or logit could overflow"):
        stream.step(frame)


DAMAGES = {
    "a version": (lambda p: p.update(version=3), "of this version"),
    "a size": (lambda p: p.update(T=-1), "out of range"),
    "a scale": (lambda p: p.update(scale=float("nan")), "out of range"),
    "a kind": (lambda p: p["nodes"][3].update(kind="pickle"), "no kind that is known"),
    "a field": (lambda p: p["nodes"][3].update(more=1), "other fields"),
    "an order": (lambda p: p["nodes"][3].update(inputs=("fc",)), "does not read layers before it"),
    "a type": (lambda p: p["nodes"][0].update(weight=torch.zeros(4, 1, 3, 3)), "no tensor of int8"),
    "a shape": (lambda p: p["nodes"][0].update(shape=(5, 14, 14)), "weights of another shape"),
    "an output": (lambda p: p["nodes"][0].update(shape=(4, 13, 14)), "another size of its output"),
    "a threshold": (lambda p: p["nodes"][1].update(threshold=torch.ones(3, dtype=torch.int32)), "do not fit"),
    "a table": (lambda p: next(n for n in p["nodes"] if n["kind"] == "gate").update(table=(0, 1, 2, 1)), "no table"),
    "a head": (lambda p: p["nodes"].pop(), "no classifier"),
    "a comment of C": (
        lambda p: next(n for n in p["nodes"] if n["kind"] == "gate").update(join="*/ int main; /*"),
        "no table",
    ),
    "a name of C": (lambda p: p["config"].update(model="*/ int main; /*"), "has no name"),
    "weights without memory": (
        lambda p: p["nodes"][0].update(weight=torch.zeros(1, dtype=torch.int8).expand(4, 1, 3, 3)),
        "no tensor of int8",
    ),
    "a neuron": (lambda p: p["nodes"][1].update(neuron="LIF"), "do not fit"),
    "a gain": (lambda p: p["nodes"][1].update(gain="1"), "do not fit"),
    "a version of no number": (lambda p: p.update(version=torch.ones(3)), "of this version"),
    "deep lists": (lambda p: p["nodes"][0].update(stride=functools.reduce(lambda x, _: [x], range(5000), [1])), "deep"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_integer_network_is_refused(damage):
    plain = graph.to_plain(graph.quantize(network("fsnn18", "OR"), [digits(4)]).graph)
    assert torch.equal(
        graph.Runner(graph.from_plain(plain))(digits(4)),
        graph.quantize(network("fsnn18", "OR"), [digits(4)])(digits(4)),
    )
    change, message = DAMAGES[damage]
    change(plain)
    with pytest.raises(ValueError, match=message):
        graph.from_plain(plain)


@pytest.mark.parametrize("width", [3, 4])  # an odd number of weights in the stem, and an even one
def test_four_bits_are_half_a_byte_in_a_file(width):
    runner = graph.quantize(network("fsnn18", "OR", width=width), [digits(4)], 4)
    plain = graph.to_plain(runner.graph)
    again = graph.from_plain(plain)
    convolutions = [(node.weight, again.node(node.name).weight) for node in runner.graph.of_kind("conv")]
    assert all(torch.equal(ours, read) and read.dtype == torch.int8 for ours, read in convolutions)
    lowest, highest = (torch.stack([end(w) for w, _ in convolutions]) for end in (torch.amin, torch.amax))
    assert (lowest.min(), highest.max()) == (-7, 7)
    packed = [node["weight"].numel() for node in plain["nodes"] if node["kind"] == "conv"]
    assert packed == [(weight.numel() + 1) // 2 for weight, _ in convolutions]
    for node in plain["nodes"]:  # as such files were before
        if node["kind"] == "conv":
            node["weight"] = again.node(node["name"]).weight
            del node["packed"]
    older = graph.from_plain({**plain, "version": 1})
    assert torch.equal(graph.Runner(older)(digits(4)), runner(digits(4)))
    for damage in ({"packed": (1, 2)}, {"packed": (4, 4, 4, 4)}, {"weight": 3}):
        broken = graph.to_plain(runner.graph)
        broken["nodes"][0].update(damage)
        with pytest.raises(ValueError, match="no two in a byte"):
            graph.from_plain(broken)


def test_an_image_sequence_takes_the_way_of_every_other_network():
    """Of a network that is shown one image, and one image for a network of frames: as the plain runner."""
    runner = graph.quantize(network("fsnn18", "OR"), [digits(4)])
    sequence = torch.stack([digits(8)[:4], digits(8)[4:]])
    assert torch.equal(runner(sequence), graph.Runner(runner.graph)(sequence))
    assert not torch.equal(runner(sequence), runner(sequence[0]))


def test_logits_count_among_what_could_overflow():
    runner = graph.quantize(network("fsnn18", "OR"), [digits(4)])
    head = runner.graph.head
    largest = dataclasses.replace(head, bias=torch.full_like(head.bias, 2**30))
    assert graph.Runner(runner.graph.with_nodes({head.name: largest}, T=1)).most_steps == 1


def test_dead_channels_stay_within_32_bits():
    model = network("fsnn18", "OR")
    with torch.no_grad():
        model.layer1[0].conv1[0].weight[1] = 0.0
        model.layer1[0].conv1[0].weight[2] = 1e-12
    runner = graph.quantize(model, [digits(8)])
    assert dataclasses.is_dataclass(runner.graph)
    assert runner(digits(8)).dtype == torch.int32

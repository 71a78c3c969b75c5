"""Networks described layer by layer: exact in floats, in integers, in a file, and one time step at a time."""

import copy
import dataclasses
import itertools

import pytest
import torch
from torch import nn

from full_spike import Stream, exact, quantize
from full_spike.models import CONNECT_FUNCTIONS, create_model, fold_batchnorm, list_models
from full_spike.utils.errors import UserError
from full_spike.utils.export import fast, integers, saved
from full_spike.utils.export.graph import Add, Conv, Fire, Gate, describe
from full_spike.utils.export.run import Layers, Runner, to_bytes
from support.deployed import digits, in_floats, inputs, network, spikes_of

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


def differing(a, b):
    return sum(int((a[name].bool() != b[name].bool()).sum()) for name in a)


@EACH
def test_what_is_described_does_what_the_network_does(name, connect_f, options):
    """But for membranes within float32's rounding of the threshold, and what follows from them."""
    model = network(name, connect_f, **options)
    x = inputs(model, 32)
    runner = exact(model, x.shape[-2:])
    ours, logits = runner.spikes(x)
    theirs, expected = spikes_of(model, runner, x)
    assert ours.keys() == theirs.keys()
    assert differing(ours, theirs) <= 0.001 * sum(s.numel() for s in theirs.values())
    assert torch.equal(logits.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("neuron", ["IF", "LIF"])
def test_a_gain_of_2_and_a_threshold_of_3_are_all_weights_times_two_thirds(neuron):
    model = network("fsnn18", "OR", neuron=neuron)
    changed, scaled = copy.deepcopy(model), copy.deepcopy(model)
    changed.layer1[0].sn1.gain, changed.layer1[0].sn1.v_threshold = 2.0, 3.0
    with torch.no_grad():
        for value in (scaled.layer1[0].conv1[1].weight, scaled.layer1[0].conv1[1].bias):
            value *= 2 / 3
    x = digits(32)
    for make in (lambda m: exact(m, (14, 14)), lambda m: quantize(m, [x])):
        a, b, before = (make(m).spikes(x)[0] for m in (changed, scaled, model))
        assert differing(a, b) <= 0.002 * sum(s.numel() for s in a.values())
        assert differing(a, before) > differing(a, b)


@pytest.mark.parametrize("name", ["sew_resnet18", "spiking_resnet18", "sew_7b", "plain_7b"])
def test_networks_that_are_not_full_spike_are_described_too(name):
    torch.manual_seed(0)
    model = create_model(name, width=4, num_classes=10, T=4).eval()
    x = torch.randn(4, 3, 32, 32) if "resnet" in name else torch.poisson(torch.full((4, 4, 2, 32, 32), 0.4))
    torch.testing.assert_close(exact(model, (32, 32))(x), model(x))


def test_every_full_spike_network_is_binary():
    for name in list_models():
        small = {"width": 32, "heads": 2, "depth": 1} if "spikformer" in name else {"width": 4}
        if name.startswith("fs"):
            assert describe(create_model(name, **small), (64, 64)).of(Add) == []


@EACH
def test_sums_are_exact_in_any_order(name, connect_f, options):
    model = network(name, connect_f, **options)
    graph = exact(model, inputs(model, 1).shape[-2:]).graph
    generator = torch.Generator().manual_seed(0)
    for node in graph.of(Conv):
        if node is graph.stem:
            continue
        spikes = torch.randint(0, 2, (4, *graph.shape_of(node.inputs[0])), generator=generator).float()
        order = torch.randperm(spikes.shape[1], generator=generator)
        args = node.stride, node.padding
        y = nn.functional.conv2d(spikes, node.weight, node.bias, *args)
        assert torch.equal(y, nn.functional.conv2d(spikes[:, order], node.weight[:, order], node.bias, *args))
        double = nn.functional.conv2d(spikes.double(), node.weight.double(), node.bias.double(), *args)
        assert torch.equal(y.double(), double)


@EACH
@pytest.mark.parametrize("bits", [None, 8])
def test_one_time_step_at_a_time_is_the_same(name, connect_f, options, bits):
    model = network(name, connect_f, **options)
    x = inputs(model, 8)
    if bits and name.startswith("fs_spikformer"):
        with pytest.raises(ValueError, match="is attention, which counts spikes"):
            quantize(model, [x], bits)
        return
    runner = exact(model, x.shape[-2:]) if bits is None else quantize(model, [x], bits)
    whole, logits = runner.spikes(x)
    stream, seen = Stream(runner), {}
    for _ in range(2):  # `reset` forgets
        stream.reset()
        seen.clear()
        for frame in x if x.ndim == 5 else [x] * 4:
            last = stream.step(frame, lambda name, output: seen.setdefault(name, []).append(output))
    assert torch.equal(last, logits)
    assert all(torch.equal(torch.cat(seen[name]), whole[name]) for name in whole)


@pytest.mark.parametrize("connect_f", ["AND", "IAND", "OR", "XOR"])
def test_gates_are_the_connect_functions(connect_f):
    graph = describe(network("fsnn_7b", connect_f), (8, 8))
    node, layers = graph.of(Gate)[0], Layers(graph, 1)
    for identity, residual in itertools.product((0.0, 1.0), repeat=2):
        expected = CONNECT_FUNCTIONS[connect_f](identity=identity, residual=residual)
        assert layers.gate(node, torch.tensor([identity]), torch.tensor([residual])).item() == expected


# Integers


@pytest.mark.parametrize(("name", "connect_f"), [("fsnn18", "OR"), ("fsnn34", "IAND"), ("fsnn_7b", "XOR")])
def test_an_integer_network_is_what_stock_neurons_do_with_whole_numbers(name, connect_f):
    model = network(name, connect_f, neuron="IF")
    x = inputs(model, 16)
    runner = quantize(model, [x], 8)
    spikes, logits = runner.spikes(x)
    theirs, _ = spikes_of(in_floats(model, runner), runner, to_bytes(runner.graph, x).double() - runner.graph.zero)
    assert differing(spikes, theirs) == 0
    head = runner.graph.head
    expected = theirs[head.inputs[0]].sum((0, 3, 4)) @ head.weight.double().T + 4 * head.bias
    assert torch.equal(logits.double(), expected)


@pytest.mark.parametrize("piece", [fast.PIECE, 1 << 14])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_fast_way_gives_the_same_integers(bits, piece, monkeypatch):
    """All images at once, and in sections whose pieces are of one image or a few, the last of them smaller."""
    monkeypatch.setattr(fast, "PIECE", piece)
    for name, connect_f in (("fsnn18", "IAND"), ("fsnn_wide7b", "XOR"))[: 1 + (bits == 8)]:
        model = network(name, connect_f, neuron="IF", **({"stem": "imagenet"} if name == "fsnn18" else {}))
        x = inputs(model, 40)
        runner = quantize(model, [x], bits)
        for images in (x, x[..., -1:, :, :, :], x[..., :0, :, :, :]):
            assert torch.equal(runner(images), Runner(runner.graph)(images))


@pytest.mark.parametrize("zero", [0, 128])
def test_the_fast_way_reads_any_bytes_and_every_gate(zero):
    """Bytes at both ends of their range, whose padding is the zero point, and weights as large as they can be."""
    x = torch.randint(0, 256, (3, 1, 14, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    x[0], x[1] = 0, 255
    for connect_f in ("AND", "OR"):
        model = network("fsnn18", connect_f, neuron="IF", stem="imagenet")
        graph = quantize(model, [digits(8)]).graph
        stem = dataclasses.replace(graph.stem, weight=(graph.stem.weight.sign() * 127).to(torch.int8))
        graph = graph.with_nodes({stem.name: stem}, zero=zero)
        assert torch.equal(fast.FastRunner(graph)(x), Runner(graph)(x))


@pytest.mark.parametrize("rate", [0.5, 0.25, 1 / 3, 0.7, 0.9, 0.01, 1 / 1.0078125])
def test_a_rate_as_powers_of_two(rate):
    terms = integers.powers_of_two(rate)
    assert abs(sum(sign * 2.0**-shift for sign, shift in terms) - rate) <= 2.0**-11
    assert len(terms) <= 6
    assert integers.powers_of_two(0.5) == ((1, 1),)


def test_training_with_rounded_weights_is_straight_through_and_commutes_with_folding():
    rounded = integers.round_weights(network("fsnn18", "OR").train(), 4)
    assert len(rounded.layer1[0].conv1[0].weight[0].unique()) <= 15
    rounded(digits(8)).sum().backward()
    assert rounded.layer1[0].conv1[0].parametrizations.weight.original.grad.abs().sum() > 0
    folded = fold_batchnorm(integers.keep_rounded(rounded).eval())
    for layer in folded.spiking_layers():
        weight = layer.conv.weight
        torch.testing.assert_close(integers.rounded_weight(weight, 4), weight, rtol=1e-4, atol=1e-6)


# 32 bits


def test_more_steps_than_32_bits_hold_are_refused():
    model = network("fsnn_7b", "OR", neuron="IF")
    runner = quantize(model, [inputs(model, 4)])
    runner.max_steps = 2
    stream = Stream(runner)
    frame = inputs(model, 4)[0]
    stream.step(frame), stream.step(frame)
    with pytest.raises(ValueError, match="after 3 time steps a membrane or logit could overflow: show at most 2"):
        stream.step(frame)


def test_logits_count_among_what_could_overflow():
    graph = quantize(network("fsnn18", "OR"), [digits(4)]).graph
    largest = dataclasses.replace(graph.head, bias=torch.full_like(graph.head.bias, 2**30))
    assert Runner(graph.with_nodes({largest.name: largest}, T=1)).max_steps == 1


def test_dead_channels_stay_within_32_bits():
    model = network("fsnn18", "OR")
    with torch.no_grad():
        model.layer1[0].conv1[0].weight[1] = 0.0
        model.layer1[0].conv1[0].weight[2] = 1e-12
    runner = quantize(model, [digits(8)])
    assert max(int(node.threshold.max()) for node in runner.graph.of(Fire)) <= 2**27
    assert runner(digits(8)).dtype == torch.int32


def test_what_cannot_be_described_is_refused():
    with pytest.raises(ValueError, match="dsnn18 still has its pathway"):
        describe(network("dsnn18", "OR"), (14, 14))
    model = create_model("sew_resnet18", width=4, stem="cifar").eval()
    with pytest.raises(ValueError, match=r"layer1.0.join adds, so sew_resnet18 ADD cannot become"):
        quantize(model, [torch.randn(2, 3, 8, 8)])
    with pytest.raises(ValueError, match="bits=3 is out of range"):
        quantize(network("fsnn18", "OR"), [digits(2)], 3)
    with pytest.raises(ValueError, match=r"an input of shape \(1, 1, 9, 9\) does not end in"):
        exact(network("fsnn18", "OR"), (14, 14))(torch.zeros(1, 1, 9, 9))


# The file


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("name", "size"), [("fsnn18", 14), ("fsnn_7b", 16), ("fsnn_wide7b", 48)])
def test_a_file_holds_the_network(name, size, bits, tmp_path):
    """Down to maps of one position, which are pooled further; an odd number of weights is packed as well."""
    model = create_model(name, width=3, T=2, connect_f="OR", neuron="IF").eval()
    x = torch.rand(2, 4, 2, size, size) if model.event_frames else torch.randn(4, 3, size, size)
    runner = quantize(model, [x], bits)
    saved.write_integer(runner.graph, tmp_path)
    again = saved.read_integer(tmp_path / saved.FILE)
    assert torch.equal(again(x), runner(x))
    pairs = [(a.weight, b.weight) for a, b in zip(runner.graph.of(Conv), again.graph.of(Conv), strict=True)]
    assert all(torch.equal(ours, read) for ours, read in pairs)
    plain = [node["weight"].numel() for node in saved.to_plain(runner.graph)["nodes"] if node["kind"] == "conv"]
    assert plain == [weight.numel() if bits == 8 else (weight.numel() + 1) // 2 for weight, _ in pairs]


def of_kind(plain, kind):
    return next(node for node in plain["nodes"] if node["kind"] == kind)


DAMAGES = {
    "a version": lambda p: p.update(version=3),
    "a scale": lambda p: p.update(scale=float("nan")),
    "a kind": lambda p: p["nodes"][3].update(kind="pickle"),
    "an order": lambda p: p["nodes"][3].update(inputs=("fc",)),
    "a type": lambda p: p["nodes"][0].update(weight=torch.zeros(4, 1, 3, 3)),
    "a shape": lambda p: p["nodes"][0].update(shape=(5, 14, 14)),
    "a threshold": lambda p: p["nodes"][1].update(threshold=torch.ones(3, dtype=torch.int32)),
    "a head": lambda p: p["nodes"].pop(),
    "a comment of C": lambda p: of_kind(p, "gate").update(join="*/ int main; /*"),
    "a name of C": lambda p: p["config"].update(model="*/ int main; /*"),
    "text for a number": lambda p: p.update(logit_scale="1.0 */"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_file_is_one_line(damage, tmp_path):
    plain = saved.to_plain(quantize(network("fsnn18", "OR"), [digits(4)]).graph)
    DAMAGES[damage](plain)
    torch.save({"graph": plain}, tmp_path / "integer.pth")
    with pytest.raises(UserError, match=r"integer.pth is damaged or no integer network \(.*\): export it again"):
        saved.read_integer(tmp_path / "integer.pth")

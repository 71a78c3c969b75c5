"""Fused layers against the plain ones, spikingjelly's stock nodes and the goldens of the released code."""

import copy
import functools
import json
import multiprocessing
import os
import random
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from benchmarks.common import reset, stock
from full_spike.models import create_model, fused, use_fused
from full_spike.models.connect import MEMBRANE, NO_JOIN, Join, JoinLayer, get_join
from full_spike.models.fused import cpu
from full_spike.models.fused.build import library
from full_spike.models.layers import spike, spike_and_join
from full_spike.models.neuron import NEURONS, SURROGATES, neuron_factory
from full_spike.utils import checkpoint
from full_spike.utils.measure.hooks import hooked, watch_spikes
from support import parity
from support.command import TINY, only, succeed
from support.neurons import STOCK, STOCK_SURROGATE, run


@pytest.fixture(autouse=True)
def kernels():
    """No test may pass on the fallback."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="fused layers are off")
        assert fused.available()
        yield


NAND = Join("NAND", "spikes", "logic", lambda *, identity, residual: 1.0 - residual * identity)
ODD = Join("ODD", "spikes", "addition", lambda *, identity, residual: 0.5 + 2 * residual - identity * (3 + residual))
CHOICES = [*map(get_join, ("ADD", "AND", "IAND", "OR", "XOR")), NAND, ODD, MEMBRANE, NO_JOIN]


class Case:
    """A layer of random shape, layout, norm and join, with its inputs and the gradients of what it gives."""

    def __init__(self, seed, name, surrogate, dtype):
        draw = random.Random(f"{seed} {name} {surrogate} {dtype}")
        torch.manual_seed(seed)
        self.T, n = draw.choice((1, 2, 3, 5, 9)), draw.choice((1, 2, 3, 4))
        c, (h, w) = draw.choice((1, 3, 4, 16, 17, 70, 600)), draw.choice(((1, 1), (2, 3), (5, 8), (7, 13)))
        half = dtype.itemsize < 4
        # torch's own batch norm misreads gradients of a single map, or of maps of one row, that lies channels last
        self.last, self.still = n > 1 and h > 1 and draw.random() < 0.6, draw.random() < 0.3
        self.join = JoinLayer(NO_JOIN if self.still else draw.choice(CHOICES))
        make = neuron_factory(name, tau=draw.choice((2.0, 3.7)), surrogate=surrogate, alpha=draw.choice((None, 1.5)))
        self.neuron = make(**draw.choice(({}, {"threshold": 0.5, "gain": 0.125})))
        normed = draw.random() < 0.7
        self.norm = nn.BatchNorm2d(c) if normed else nn.Identity()
        if normed:
            nn.init.uniform_(self.norm.weight, 0.5, 2.0), nn.init.normal_(self.norm.bias)
            nn.init.normal_(self.norm.running_mean), nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
            # torch takes other statistics of a half type than of the same numbers in float32
            self.norm.train(not half and n * h * w > 1 and draw.random() < 0.7)
        shape = (self.T, n, c, h, w)
        drive = 1.5 / self.neuron.gain
        self.y = (drive * torch.randn(1 if self.still else self.T, *shape[1:])).to(dtype)
        self.identity = torch.randint(3, shape).to(dtype)
        self.gradients = [torch.randn(shape).to(dtype) for _ in range(2)]
        if dtype == torch.float64:
            self.neuron.double(), self.norm.double()

    def run(self, on, dtype=None):
        """(output, own spikes), gradients of all that has one, running statistics."""
        neuron, norm = use_fused(copy.deepcopy(self.neuron), on), copy.deepcopy(self.norm)
        layout = torch.channels_last if self.last else torch.contiguous_format
        y, identity, *gradients = (
            t.to(dtype or t.dtype).flatten(0, 1).contiguous(memory_format=layout).unflatten(0, t.shape[:2])
            for t in (self.y, self.identity, *self.gradients)
        )
        if dtype == torch.float64:
            neuron.double(), norm.double()
        y.requires_grad_(), identity.requires_grad_()
        conv = (nn.Identity(), norm)
        if self.still:
            outputs = (spike(conv, neuron, y, self.T),)
        else:
            outputs = spike_and_join(conv, neuron, y, self.join, identity)
        torch.autograd.backward(outputs, gradients[: len(outputs)])
        leaves = [y, *([identity] if identity.grad is not None else []), *neuron.parameters(), *norm.parameters()]
        return [o.detach() for o in outputs], [leaf.grad for leaf in leaves], list(norm.buffers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
@pytest.mark.parametrize("name", sorted(STOCK))
def test_equals_the_plain_layer(name, surrogate, dtype):
    """Spikes and statistics bit for bit, half types as the same numbers in float32; gradients to rounding."""
    eps = torch.finfo(dtype).eps
    half = eps > 1e-5
    tolerance = eps if half else 128 * eps
    rates = []
    for seed in range(16):
        case = Case(seed, name, surrogate, dtype)
        outputs, gradients, buffers = case.run(True)
        expected, theirs, statistics = case.run(False, torch.float32 if half else None)
        for a, b in zip([*outputs, *buffers], [*expected, *statistics], strict=True):
            assert torch.equal(a, b.to(a.dtype)), seed
        for a, b in zip(gradients, theirs, strict=True):
            assert a.dtype == (dtype if a.ndim == 5 else b.dtype)
            assert (a.to(b.dtype) - b).norm() <= tolerance * (b.norm() + case.y.numel() ** 0.5), seed
        rates.append(expected[-1].mean().item())
    assert 0.05 < sum(rates) / len(rates) < 0.95


@pytest.mark.parametrize("name", sorted(STOCK))
def test_many_time_steps_equal_spikingjellys_node(name):
    torch.manual_seed(0)
    x, weights = torch.randn(2, 40, 1001) * 1.5
    theirs = STOCK[name](step_mode="m", detach_reset=True, surrogate_function=STOCK_SURROGATE["sigmoid"])
    spikes, gradient, of_parameters = run(use_fused(neuron_factory(name)()), x, weights)
    expected, expected_gradient, expected_of_parameters = run(theirs, x, weights)
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(of_parameters, expected_of_parameters, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", ["channels_last", "expanded", "strided"])
def test_memory_layouts(layout):
    torch.manual_seed(1)
    x, weights = torch.randn(2, 4, 3, 6, 5, 7) * 1.5
    if layout == "channels_last":
        x = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (4, 3))
    elif layout == "expanded":
        x = x[0].expand(4, -1, -1, -1, -1)
    else:
        x, weights = x.transpose(3, 4), weights.transpose(3, 4)
    results = []
    for on in (True, False):
        leaf = x.detach().requires_grad_()
        spikes = use_fused(neuron_factory("IF")(), on)(leaf)
        (spikes * weights).sum().backward()
        results.append((spikes.detach(), leaf.grad))
        if layout == "channels_last":
            assert spikes[0].is_contiguous(memory_format=torch.channels_last) or not on
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_a_mean_far_from_zero_takes_nothing_from_the_gradient():
    torch.manual_seed(0)
    y, weights = torch.randn(2, 2, 8, 6, 9, 9)
    gradients = []
    for offset, dtype, on in ((1000.0, torch.float32, True), (1000.0, torch.float64, False)):
        norm, neuron = nn.BatchNorm2d(6).to(dtype), use_fused(neuron_factory("IF")().to(dtype), on)
        leaf = (y + offset).to(dtype).requires_grad_()
        spike((nn.Identity(), norm), neuron, leaf).backward(weights.to(dtype))
        gradients.append((leaf.grad, norm.weight.grad, norm.bias.grad))
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()


def test_two_threads_give_the_same_spikes_and_the_same_gradients_every_time():
    torch.manual_seed(0)
    y, weights = torch.randn(2, 2, 8, 16, 40, 40)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (2, 2, 2, 1):
            torch.set_num_threads(count)
            norm, leaf = nn.BatchNorm2d(16), y.clone().requires_grad_()
            norm.eval()
            spikes = spike((nn.Identity(), norm), use_fused(neuron_factory("PLIF")()), leaf)
            spikes.backward(weights)
            results.append((spikes, leaf.grad, norm.weight.grad, norm.bias.grad))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:3]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    torch.testing.assert_close(results[3], results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 4.0, 7.5])
def test_the_sigmoids_derivative_for_bfloat16(alpha):
    """alpha s(alpha u) (1 - s(alpha u)), s the logistic function, from a series: to what bfloat16 can tell apart."""
    x = torch.linspace(1 - 8 / alpha, 1 + 8 / alpha, 10001).bfloat16()[None].requires_grad_()
    use_fused(neuron_factory("IF", alpha=alpha)())(x).sum().backward()
    s = torch.sigmoid(alpha * (x.detach().double() - 1))
    torch.testing.assert_close(x.grad.double(), alpha * s * (1 - s), rtol=2**-8 + 1e-4, atol=0)


@pytest.mark.parametrize(
    "file",  # the largest have the layers of the others
    [
        pytest.param(f, marks=[pytest.mark.slow] if {"50", "wide7b"} & {*re.split("_|resnet|dsnn", f)} else [])
        for f in parity.FILES
    ],
)
def test_matches_the_released_code(file):
    meta = json.loads((parity.GOLDENS / file).read_text())["meta"]
    parity.check(file, use_fused(parity.build(meta)))


@pytest.mark.parametrize("file", parity.SPIKFORMERS)
def test_matches_the_released_spikformer(file):
    model, golden = parity.build_spikformer(file)
    parity.check_spikformer(use_fused(model), golden)


@pytest.mark.parametrize(
    ("name", "options", "channels_last"),
    [
        ("dsnn18", {}, True),
        ("dsnn18", {"neuron": "LIF", "stem": "cifar", "connect_f": "XOR"}, False),
        ("spiking_resnet18", {"neuron": "PLIF", "surrogate": "atan"}, True),
        ("ds_spikformer_4_384", {"depth": 1, "heads": 2, "width": 16}, True),
    ],
)
def test_networks_equal_those_of_spikingjellys_nodes_and_torchs_batch_norms(name, options, channels_last):
    torch.manual_seed(0)
    ours = use_fused(create_model(name, **{"width": 8, "num_classes": 10, "T": 2, **options}))
    if channels_last:
        ours = ours.to(memory_format=torch.channels_last)
    theirs = stock(ours)
    exact = copy.deepcopy(theirs).double()
    x = torch.randn(4, 3, 48, 48)
    gradients = []
    for model, images in ((theirs, x), (ours, x), (exact, x.double())):
        outputs = model(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sum(logits.square().sum() for logits in outputs).backward()
        gradients.append([p.grad.double() for p in model.parameters()])
        reset(model)
    for ours_, theirs_ in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(ours_, theirs_)  # the running means of the last layer depend on every spike
    for a, b, truth in zip(*gradients, strict=True):
        if truth.norm() < 1e-12:  # a bias that a batch norm follows: rounding alone
            assert b.norm() < 1e-5
        else:
            assert (b - truth).norm() <= 3 * (a - truth).norm() + 1e-6 * truth.norm() + 1e-6
    for training in (True, False):
        with torch.no_grad():
            results = [model.train(training)(x) for model in (theirs, ours)]
            reset(theirs)
        for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True):
            assert torch.equal(a, b)


def test_hooks_on_neurons_see_their_spikes():
    model = use_fused(create_model("dsnn18", width=4, num_classes=3, T=2)).eval()
    x = torch.randn(2, 3, 32, 32)
    seen = []
    with torch.no_grad():
        expected = model(x)
        handles = [
            m.register_forward_hook(lambda *args: seen.append(args[2]))
            for m in model.modules()
            if isinstance(m, tuple(NEURONS.values()))
        ]
        watched = model(x)
    assert len(seen) == len(handles) == 20
    assert all(torch.equal(a, b) for a, b in zip(expected, watched, strict=True))


@pytest.mark.parametrize(
    ("name", "options"),
    [("dsnn18", {"connect_f": "IAND"}), ("spiking_resnet18", {"neuron": "LIF"}), ("sew_7b", {"neuron": "PLIF"})],
)
def test_who_watches_spikes_sees_them_and_leaves_layers_fused(name, options):
    """With a join on spikes, with one on the current and with none: the same spikes from either path, in order."""
    plain = create_model(name, width=4, num_classes=3, T=2, **options).eval()
    ours = use_fused(copy.deepcopy(plain))
    x = torch.randn(2, 2, 2, 128, 128) if plain.event_frames else torch.randn(2, 3, 32, 32)
    called, seen = [], []
    for model in (plain, ours):
        fired = {}
        neurons = {key: module for key, module in model.named_modules() if isinstance(module, tuple(NEURONS.values()))}
        watches = [
            watch_spikes(neuron, lambda spikes, key=key, fired=fired: fired.__setitem__(key, spikes))
            for key, neuron in neurons.items()
        ]
        called.clear()
        with torch.no_grad(), hooked(watches), hooked([register_module_forward_hook(lambda m, *_: called.append(m))]):
            model(x)
        assert set(neurons.values()) & set(called) == (set(neurons.values()) if model is plain else set())
        seen.append(dict(fired))
        model(x)  # nobody watches any more
        assert all(fired[key] is spikes for key, spikes in seen[-1].items())
    assert list(seen[0]) == list(seen[1])
    assert any(spikes.any() for spikes in seen[0].values())
    for key, spikes in seen[0].items():
        assert torch.equal(spikes, seen[1][key]), key


def test_hooks_on_joins_see_both_sides():
    model = use_fused(create_model("fsnn18", width=4, num_classes=3, T=2)).eval()
    x = torch.randn(2, 3, 32, 32)
    seen = []
    with torch.no_grad():
        expected = model(x)
        for block in model.blocks():
            block.join.register_forward_hook(lambda _m, sides, out: seen.append((*sides, out)))
        assert torch.equal(model(x), expected)
    assert len(seen) == len(model.blocks())
    for residual, identity, output in seen:
        assert torch.equal(output, residual.maximum(identity))  # OR of spikes


@pytest.mark.parametrize(
    "options",
    [
        {"v_reset": None},
        {"detach_reset": False},
        {"surrogate_function": STOCK_SURROGATE["sigmoid"].__class__(4.0, spiking=False)},
    ],
)
def test_neurons_that_the_kernels_do_not_know_run_as_they_are(options):
    torch.manual_seed(0)
    options = {"step_mode": "m", "detach_reset": True, "surrogate_function": STOCK_SURROGATE["sigmoid"], **options}
    x, weights = torch.randn(2, 4, 3, 50)
    ours, theirs = use_fused(NEURONS["IF"](**options)), STOCK["IF"](**options)
    for a, b in zip(run(ours, x, weights), run(theirs, x, weights), strict=True):
        torch.testing.assert_close(a, b)
    assert fused.layer(x, ours) is None


def test_a_fused_layer_in_half_precision_keeps_the_membrane_in_float32():
    torch.manual_seed(0)
    model = use_fused(create_model("fsnn18", width=8, num_classes=5, T=2))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 32, 32))
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_a_choice_that_leaves_the_model_as_it_is():
    model = create_model("dsnn18", width=4, num_classes=3, neuron="PLIF", connect_f="OR")
    keys, config = list(model.state_dict()), dict(model.config)
    assert use_fused(model) is model
    assert (list(model.state_dict()), model.config) == (keys, config)
    assert all(m.use_fused for m in model.modules() if isinstance(m, tuple(NEURONS.values())))
    assert not neuron_factory("IF")().use_fused


def test_the_training_flag(tmp_path):
    """Two passes over the data at a learning rate of 0 are the same bit for bit; training then parts in rounding.

    So are the firing rates, which are measured with every layer fused: no neuron is called as a module.
    """
    called = set()

    def train(flag, lr):
        called.clear()
        options = (flag, "--channels-last", "--lr", lr, "--epochs", 2, "--tb")
        with hooked([register_module_forward_hook(lambda module, *_: called.add(type(module)))]):
            succeed("cifar.train", *TINY, *options, "--output-dir", tmp_path / f"{flag}{lr}")
        assert called & {*NEURONS.values()} == ({NEURONS["LIF"]} if flag == "--no-fused" else set())
        folder = only(tmp_path / f"{flag}{lr}", "*[!s]")  # beside it: *_logs
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        figures = [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]
        return figures, checkpoint.read(folder / checkpoint.LATEST)["model"]

    plain, ours = train("--no-fused", 0), train("--fused", 0)
    assert plain[0] == ours[0]
    assert len(set(plain[0][0]["firing_rate"].values())) > 3
    assert all(torch.equal(ours[1][key], value) for key, value in plain[1].items())
    plain, ours = train("--no-fused", 0.01), train("--fused", 0.01)
    assert plain[0][0]["train_loss"] != plain[0][1]["train_loss"]  # it does train
    for a, b in zip(ours[0], plain[0], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-6)


def build(options):
    return bool(library(Path(cpu.__file__).with_name("layer.c"), *options).forward)


def test_processes_build_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert all(pool.map(build, [("-DBITS=32", "-O0")] * 4, chunksize=1))
    (first,) = (tmp_path / "full-spike").iterdir()
    monkeypatch.setenv("CC", "cc -mno-fma" if os.uname().machine == "x86_64" else "cc -g")  # as another CPU's
    assert build(("-DBITS=32", "-O0"))
    assert len({first, *(tmp_path / "full-spike").iterdir()}) == 2


@pytest.mark.parametrize("broken", ["compiler", "no compiler", "cache"])
def test_without_kernels_one_warning_and_the_stock_nodes(tmp_path, monkeypatch, broken):
    """A C compiler that fails, or is not there, or nowhere to write to."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no-such-folder" if broken == "cache" else str(tmp_path))
    monkeypatch.setenv("CC", {"compiler": "false", "no compiler": "/no/such/cc", "cache": "cc"}[broken])
    monkeypatch.setattr(cpu, "_failure", [])
    monkeypatch.setattr(cpu, "_kernels", functools.cache(cpu._kernels.__wrapped__))
    x, node = torch.randn(4, 2, 9) * 1.5, neuron_factory("IF")()
    expected = node(x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert all(torch.equal(use_fused(node)(x), expected) for _ in range(2))
    assert [str(w.message).startswith("fused layers are off, spikingjelly's neurons run") for w in caught] == [True]
    assert not fused.available()


def test_torch_compile_sees_the_plain_layer():
    norm, neuron = nn.BatchNorm2d(3).eval(), neuron_factory("IF")()
    y = torch.randn(2, 2, 3, 4, 5)
    for on in (True, False):
        use_fused(neuron, on)
        compiled = torch.compile(lambda y: spike((nn.Identity(), norm), neuron, y), backend="eager")
        assert torch.equal(compiled(y), spike((nn.Identity(), norm), neuron, y))


def test_tensors_that_do_not_fit_together_are_reported_as_torch_does():
    x, identity = torch.randn(2, 1, 3, 6, 5), torch.zeros(2, 1, 3, 6, 4)
    layer = (nn.Identity(), nn.BatchNorm2d(3)), use_fused(neuron_factory("IF")())
    with pytest.raises(RuntimeError, match="must match the existing size"):
        spike_and_join(*layer, x, JoinLayer(get_join("OR")), identity)
    with pytest.raises(RuntimeError, match="running_mean should contain"):
        spike(*layer, torch.randn(2, 1, 4, 6, 5))

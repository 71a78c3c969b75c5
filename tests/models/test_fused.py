"""The fused neuron against spikingjelly's stock nodes and the goldens of the released code."""

import copy
import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from benchmarks.common import reset, stock
from full_spike.models import create_model, fused, use_fused
from full_spike.models.connect import JoinLayer, get_join
from full_spike.models.fused import compilation, kernels
from full_spike.models.fused.rule import Rule
from full_spike.models.neuron import NEURONS, SURROGATES, neuron_factory
from full_spike.utils import checkpoint
from full_spike.utils.measure.hooks import hooked, watch_spikes
from support import parity
from support.command import TINY, only, succeed
from support.neurons import STOCK, STOCK_SURROGATE, run


def make(name, **options):
    return use_fused(neuron_factory(name, **options)())


@pytest.fixture(autouse=True)
def compiled():
    """No test may pass on the fallback."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="fused neurons are off")
        yield
    assert fused.available()


@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
@pytest.mark.parametrize("name", sorted(STOCK))
@pytest.mark.parametrize(("T", "dtype"), [(1, torch.float32), (4, torch.float32), (2, torch.float64)])
def test_equals_spikingjellys_nodes(name, surrogate, T, dtype):
    theirs = STOCK[name](step_mode="m", detach_reset=True, surrogate_function=STOCK_SURROGATE[surrogate]).to(dtype)
    ours = make(name, surrogate=surrogate).to(dtype)
    for size in (3, 5):  # the second shape reuses the first one's code
        torch.manual_seed(size)
        x, weights = torch.randn(2, T, size, 4, 5, 7, dtype=dtype) * 1.5
        ours.zero_grad(), theirs.zero_grad()
        spikes, gradient, of_parameters = run(ours, x, weights)
        expected, expected_gradient, expected_of_parameters = run(theirs, x, weights)
        assert 0 < spikes.mean() < 1
        assert torch.equal(spikes, expected)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(of_parameters, expected_of_parameters, rtol=1e-5, atol=1e-6)
        again = run(ours, x, weights)
        assert torch.equal(spikes, again[0])
        assert torch.equal(gradient, again[1])


@pytest.mark.parametrize("name", sorted(STOCK))
def test_another_threshold_and_a_gain(name):
    torch.manual_seed(1)
    theirs = STOCK[name](
        step_mode="m", detach_reset=True, surrogate_function=STOCK_SURROGATE["sigmoid"], v_threshold=0.5
    )
    ours = use_fused(neuron_factory(name)(threshold=0.5, gain=0.125))
    x, weights = torch.randn(2, 4, 3, 200) * torch.tensor([6.0, 1.0]).view(2, 1, 1, 1)
    spikes, gradient, of_parameters = run(ours, x, weights)
    expected, expected_gradient, expected_of_parameters = run(theirs, x * 0.125, weights)
    assert 0 < spikes.mean() < 1
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradient, expected_gradient * 0.125, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(of_parameters, expected_of_parameters, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_many_time_steps_and_an_odd_tau():
    torch.manual_seed(0)
    x, weights = torch.randn(2, 16, 1001)
    theirs = STOCK["LIF"](
        tau=3.7, step_mode="m", detach_reset=True, surrogate_function=STOCK_SURROGATE["sigmoid"]
    )  # fmt: skip
    spikes, gradient, _ = run(make("LIF", tau=3.7), x, weights)
    expected, expected_gradient, _ = run(theirs, x, weights)
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_static_image_over_many_time_steps(dtype):
    """Compiling must not take twice as long for each time step: at T = 16 that would never end."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(6)
    y = torch.randn(1, 3, 6, 9, 8).to(dtype)
    gradient = torch.randn(16, 3, 6, 9, 8).to(dtype)
    results = []
    for compiled in (True, False):
        leaf = y.clone().requires_grad_()
        if compiled:
            spikes, _ = fused.layer(leaf, make("IF"), copy.deepcopy(norm), T=16)
        else:
            current = norm(leaf[0].float()).expand(16, -1, -1, -1, -1)
            spikes = neuron_factory("IF")()(current).to(dtype)
        spikes.backward(gradient)
        results.append((spikes.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(results[0][1], results[1][1], rtol=4 * eps, atol=16 * eps)


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(STOCK))
def test_half_types_are_integrated_in_float32(name, dtype):
    torch.manual_seed(2)
    x, weights = (torch.randn(2, 2, 3, 700) * 1.5).to(dtype)
    node = make(name)
    spikes, gradient, _ = run(node, x, weights)
    expected, expected_gradient, _ = run(use_fused(node, False), x.float(), weights.float())
    assert spikes.dtype == gradient.dtype == dtype
    assert torch.equal(spikes.float(), expected)
    assert torch.equal(gradient, expected_gradient.to(dtype)) or torch.allclose(
        gradient.float(), expected_gradient, rtol=torch.finfo(dtype).eps, atol=1e-6
    )


@pytest.mark.parametrize("alpha", [1.0, 4.0, 7.5])
def test_the_sigmoids_derivative_for_half_types(alpha):
    """alpha s(alpha u) (1 - s(alpha u)), s the logistic function; as exact as float32 lets one see."""
    u = torch.linspace(-30 / alpha, 30 / alpha, 100001)
    s = torch.sigmoid(alpha * u.double())
    expected = alpha * s * (1 - s)
    slope = kernels.slope(u, Rule("sigmoid", alpha), half=True).double()
    near = (alpha * u).abs() < 8
    torch.testing.assert_close(slope[near], expected[near], rtol=6e-5, atol=0)
    torch.testing.assert_close(slope[~near], expected[~near], rtol=0, atol=1e-7 * alpha)


def uncompiled(function, rule, *_kind):
    return lambda operands, *tensors: function(operands, *tensors, rule)


@pytest.mark.parametrize("file", parity.FILES)
def test_matches_the_released_code(file, monkeypatch):
    """The formulas, for every join; that compiling changes nothing is for the test below."""
    monkeypatch.setattr(compilation, "compiled", uncompiled)
    meta = json.loads((parity.GOLDENS / file).read_text())["meta"]
    parity.check(file, use_fused(parity.build(meta)))


@pytest.mark.parametrize("file", parity.SPIKFORMERS)
def test_matches_the_released_spikformer(file, monkeypatch):
    monkeypatch.setattr(compilation, "compiled", uncompiled)
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
def test_who_watches_spikes_sees_them_and_leaves_layers_compiled(name, options):
    """With a join on spikes, with one on the current and with none: the same spikes from either path, in order."""
    plain = create_model(name, width=4, num_classes=3, T=2, **options).eval()
    compiled = use_fused(copy.deepcopy(plain))
    x = torch.randn(2, 2, 2, 128, 128) if plain.event_frames else torch.randn(2, 3, 32, 32)
    called, seen = [], []
    for model in (plain, compiled):
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


def test_importing_models_imports_no_compiler():
    code = (
        "import sys, torch, spikingjelly.activation_based.neuron; before = set(sys.modules); import full_spike.models; "
        "print([m for m in set(sys.modules) - before if m.startswith(('torch._dynamo', 'torch._inductor'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_training_flag(tmp_path):
    """Two passes over the data at a learning rate of 0 are the same bit for bit; training then parts in rounding.

    So are the firing rates, which are measured with every layer compiled: no neuron is called as a module.
    """
    called = set()

    def train(flag, lr):
        called.clear()
        options = (flag, "--channels-last", "--lr", lr, "--epochs", 2, "--tb")
        with hooked([register_module_forward_hook(lambda module, *_: called.add(type(module)))]):
            text = succeed("cifar.train", *TINY, *options, "--output-dir", tmp_path / f"{flag}{lr}")
        assert called & {*NEURONS.values()} == ({NEURONS["LIF"]} if flag == "--no-fused" else set())
        assert ("mostly compiling" in text) == (flag == "--fused")
        folder = only(tmp_path / f"{flag}{lr}", "*[!s]")  # beside it: *_logs
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        figures = [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]
        return figures, checkpoint.read(folder / checkpoint.LATEST)["model"]

    plain, compiled = train("--no-fused", 0), train("--fused", 0)
    assert plain[0] == compiled[0]
    assert len(set(plain[0][0]["firing_rate"].values())) > 3
    assert all(torch.equal(compiled[1][key], value) for key, value in plain[1].items())
    plain, compiled = train("--no-fused", 0.01), train("--fused", 0.01)
    assert plain[0][0]["train_loss"] != plain[0][1]["train_loss"]  # it does train
    for ours, theirs in zip(compiled[0], plain[0], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-6)


def alone(code, **environment):
    """What a new process prints that runs `code` with a fused neuron `node` and an input `x`, warnings as they come."""
    setting = (
        "import os, resource, torch; from full_spike.models import fused, use_fused; "
        "from full_spike.models.neuron import neuron_factory; torch.manual_seed(0); "
        "node = use_fused(neuron_factory('IF')()); x = torch.randn(4, 2, 9) * 1.5\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", setting + code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.parametrize("broken", ["compiler", "cache"])
def test_without_a_compiler_one_warning_and_the_stock_nodes(tmp_path, broken):
    """A C++ compiler that fails, or nowhere to write to: real ones."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    if broken == "compiler":
        environment["CXX"] = str(compiler)
    # set once spikingjelly is there, which looks for the cache by itself
    cache = "os.environ['TORCHINDUCTOR_CACHE_DIR'] = '/proc/no-such-folder'\n" if broken == "cache" else ""
    result = alone(
        "expected = use_fused(neuron_factory('IF')(), False)(x)\n" + cache + "results = [node(x) for _ in range(2)]\n"
        "print(all(torch.equal(spikes, expected) for spikes in results), fused.available())",
        **environment,
    )
    assert result.stdout == "True False\n"
    assert result.stderr.count("fused neurons are off, spikingjelly's run instead: ") == 1


@pytest.mark.parametrize("cause", [torch.OutOfMemoryError("2 GiB"), MemoryError(), KeyboardInterrupt()])
def test_memory_that_runs_out_while_compiling_is_no_missing_compiler(cause, monkeypatch):
    """As torch reports it: wrapped into the error of the compiler's backend."""
    from torch._dynamo.exc import BackendCompilerFailed

    def failing(*_kind):
        if isinstance(cause, Exception):
            raise BackendCompilerFailed(None, cause, None) from cause
        raise cause

    monkeypatch.setattr(compilation, "compiled", failing)
    with pytest.raises((BackendCompilerFailed, KeyboardInterrupt)):
        make("IF")(torch.randn(4, 2, 9))


def test_tensors_that_do_not_fit_together_are_reported_as_torch_does():
    """A shortcut of another size: the compiler trips over it too, but is not to blame."""
    norm, join = torch.nn.BatchNorm2d(3), JoinLayer(get_join("OR"))
    x, identity = torch.randn(2, 1, 3, 6, 5), torch.zeros(2, 1, 3, 6, 4)
    with pytest.raises(RuntimeError, match="must match the size"):
        fused.layer(x, make("IF"), norm, join, identity)

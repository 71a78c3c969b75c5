"""The fused neuron against spikingjelly's stock nodes and the goldens of the released code."""

import json
import subprocess
import sys
import warnings

import pytest
import test_parity
import torch
from command import TINY, succeed
from test_neurons import STOCK, STOCK_SURROGATE, run

from models import create_model, fused, use_fused
from models.neuron import NEURONS, SURROGATES, neuron_factory


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
@pytest.mark.parametrize("name", sorted(NEURONS))
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


@pytest.mark.slow
def test_many_time_steps_and_an_odd_tau():
    torch.manual_seed(0)
    x, weights = torch.randn(2, 32, 1001)
    theirs = STOCK["LIF"](
        tau=3.7, step_mode="m", detach_reset=True, surrogate_function=STOCK_SURROGATE["sigmoid"]
    )  # fmt: skip
    spikes, gradient, _ = run(make("LIF", tau=3.7), x, weights)
    expected, expected_gradient, _ = run(theirs, x, weights)
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6)


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
@pytest.mark.parametrize("name", sorted(NEURONS))
def test_half_types_are_integrated_in_float32(name, dtype):
    torch.manual_seed(2)
    x, weights = (torch.randn(2, 4, 3, 700) * 1.5).to(dtype)
    node = make(name)
    spikes, gradient, _ = run(node, x, weights)
    expected, expected_gradient, _ = run(use_fused(node, False), x.float(), weights.float())
    assert spikes.dtype == gradient.dtype == dtype
    assert torch.equal(spikes.float(), expected)
    assert torch.equal(gradient, expected_gradient.to(dtype)) or torch.allclose(
        gradient.float(), expected_gradient, rtol=torch.finfo(dtype).eps, atol=1e-6
    )


@pytest.mark.parametrize("file", test_parity.FILES)
def test_matches_the_released_code(file, monkeypatch):
    build = test_parity.build
    monkeypatch.setattr(test_parity, "build", lambda *args, **kwargs: use_fused(build(*args, **kwargs)))
    test_parity.test_matches_the_released_code(file)


def test_a_choice_that_leaves_the_model_as_it_is():
    model = create_model("dsnn18", width=4, num_classes=3, neuron="PLIF", connect_f="OR")
    keys, config = list(model.state_dict()), dict(model.config)
    assert use_fused(model) is model
    assert (list(model.state_dict()), model.config) == (keys, config)
    assert all(m.use_fused for m in model.modules() if isinstance(m, tuple(NEURONS.values())))
    assert not neuron_factory("IF")().use_fused


def test_without_a_compiler_one_warning_and_the_stock_nodes(monkeypatch):
    def no_compiler(*args):
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(fused, "_compiled", no_compiler)
    monkeypatch.setattr(fused, "_failure", [])
    node, x = make("IF"), torch.randn(4, 2, 9) * 1.5
    with pytest.warns(UserWarning, match="fused neurons are off.*: no compiler here$"):
        spikes = node(x)
    monkeypatch.setattr(fused, "spikes", None)  # from now on it is not even asked
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(node(x), spikes)


def test_importing_models_imports_no_compiler():
    code = (
        "import sys, torch, spikingjelly.activation_based.neuron; before = set(sys.modules); import models; "
        "print([m for m in set(sys.modules) - before if m.startswith(('torch._dynamo', 'torch._inductor'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_training_flag(tmp_path):
    losses = []
    for flag in ("--no-fused", "--fused"):
        text = succeed("cifar.train", *TINY, "--epochs", 1, "--output-dir", tmp_path / flag, flag)
        assert ("mostly compiling" in text) == (flag == "--fused")
        (metrics,) = (tmp_path / flag).rglob("metrics.jsonl")
        losses.append(json.loads(metrics.read_text())["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)

"""Comparison of a network with the goldens of the released code."""

import json

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based.neuron import BaseNode

from full_spike.models import create_model, load_published, to_published
from full_spike.utils.measure.hooks import hooked, watch_spikes
from support.fill import GOLDENS, filled, frames, images, probe, published_state, targets

FILES = sorted(p.name for p in GOLDENS.glob("golden_*.json") if not {"syops", "spikformer"} & set(p.name.split("_")))
SPIKFORMERS = {  # golden -> the published network that has its kind of layers
    "golden_spikformer_cifar_2_64_T4.json": "spikformer_4_384",
    "golden_spikformer_imagenet_2_64_T4.json": "spikformer_8_512",
}
COUNTS = GOLDENS / "spikformer_parameters.json"
RELATIVE = 1e-9
PROJECTIONS = json.loads((GOLDENS / "projections.json").read_text())


def approx(value):
    return pytest.approx(value, rel=RELATIVE, abs=1e-12)


def build(meta, **options):
    if meta["connect_f"] is not None:
        options["connect_f"] = meta["connect_f"]
    model = create_model(meta["model"], num_classes=meta["num_classes"], T=meta["T"], **options).double()
    load_published(model, published_state(meta["model"]))
    model.readout = "both"
    return model


def run(model, size=64):
    """Both logits, the training loss and every neuron's firing rate."""
    x = frames() if model.event_frames else images(size=size)
    rates = {}
    neurons = {name: module for name, module in model.named_modules() if isinstance(module, BaseNode)}
    with hooked(
        watch_spikes(neuron, lambda spikes, name=name: rates.__setitem__(name, spikes.mean().item()))
        for name, neuron in neurons.items()
    ):
        outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum(F.cross_entropy(logits, targets()) for logits in outputs)
    return outputs, loss, rates


def assert_outputs(golden, mode, outputs, loss, rates):
    for logits, name in zip(outputs, [f"{mode}_logits", f"{mode}_aux_logits"], strict=False):
        for ours, theirs in zip(logits.tolist(), golden[name], strict=True):
            assert ours == approx(theirs)
    assert loss.item() == approx(golden[f"{mode}_loss"])
    assert rates == approx(golden[f"{mode}_firing_rate"])


def assert_projections(ours, golden):
    """Each tensor's product with its probe, to 1e-9 of the tensor's own L2 norm.

    That norm is the product's standard deviation over random probes, so the size that rounding errors are relative to;
    the product itself may come out near zero by chance. A flipped sign, another order of channels or of taps moves it
    by about the norm, 1e9 times the tolerance; norms alone see none of these.
    """
    assert ours.keys() == golden.keys()
    for key, tensor in ours.items():
        product = (tensor * probe(key, tensor.shape)).sum().item()
        assert product == pytest.approx(golden[key], rel=0, abs=RELATIVE * tensor.norm().item()), key


def build_spikformer(file):
    """(network filled as the golden's was, golden); the layer norms that the release never uses are among its keys."""
    golden = json.loads((GOLDENS / file).read_text())
    meta = golden["meta"]
    sizes = {"width": meta["dim"], "num_classes": meta["num_classes"]}
    sizes |= {option: meta[option] for option in ("depth", "heads", "patch", "T")}
    model = create_model(SPIKFORMERS[file], **sizes).double()
    load_published(model, filled(golden["keys"], shift=0.9))
    return model, golden


def check_spikformer(model, golden):
    size = golden["meta"]["image"]
    with torch.no_grad():
        assert_outputs(golden, "eval", *named(model, *run(model.eval(), size)))
    outputs, loss, rates = run(model.train(), size)
    assert_outputs(golden, "train", *named(model, outputs, loss, rates))
    loss.backward()
    gradients = renamed(model, {name: p.grad for name, p in model.named_parameters()})
    theirs, norms = golden["train_grad"], golden["train_grad_l2"]
    # biases that a batch norm follows: their gradients are rounding alone
    idle = {name for name in theirs if name.endswith(("_linear.bias", "_conv.bias"))}
    assert all(gradients[name].norm() < 1e-15 and norms[name] < 1e-15 for name in idle)
    assert_projections(*({k: v for k, v in values.items() if k not in idle} for values in (gradients, theirs)))
    assert {k: gradients[k].norm().item() for k in norms if k not in idle} == approx(
        {k: v for k, v in norms.items() if k not in idle}
    )
    running = {k: v for k, v in to_published(model).items() if k.endswith(("running_mean", "running_var"))}
    assert_projections(running, golden["train_running"])
    used = {key: shape for key, shape in golden["keys"].items() if ".norm" not in key}
    assert {key: list(value.shape) for key, value in to_published(model).items()} == used


def named(model, outputs, loss, rates):
    """Firing rates under the release's names of neurons."""
    return outputs, loss, {name.replace("position.", "patch_embed."): rate for name, rate in rates.items()}


def check(file, model):
    """The model, filled as the golden's network was, against that golden in eval and in train mode."""
    golden = json.loads((GOLDENS / file).read_text())
    with torch.no_grad():
        assert_outputs(golden, "eval", *run(model.eval()))

    outputs, loss, rates = run(model.train())
    assert_outputs(golden, "train", outputs, loss, rates)
    loss.backward()

    gradients = renamed(model, {name: p.grad for name, p in model.named_parameters()})
    for name, ours in gradients.items():
        assert ours.norm().item() == approx(golden["train_grad_l2"][name]), name
    assert {n for n, v in golden["train_grad_l2"].items() if v is not None} == set(gradients)
    running = {k: v for k, v in to_published(model).items() if k.endswith(("running_mean", "running_var"))}
    if not model.event_frames:  # whose goldens hold no norms of them
        means = {k: v.norm().item() for k, v in running.items() if k.endswith("running_mean")}
        assert means == approx(golden["train_running_mean_l2"])
    assert_projections(gradients, PROJECTIONS[file]["train_grad"])
    assert_projections(running, PROJECTIONS[file]["train_running"])


def renamed(model, values):
    """`values`, keyed by our names, under the published names."""
    originals = {id_: name for name, id_ in ((n, t.data_ptr()) for n, t in model.state_dict().items())}
    return {
        published: values[originals[tensor.data_ptr()]]
        for published, tensor in to_published(model).items()
        if originals[tensor.data_ptr()] in values
    }

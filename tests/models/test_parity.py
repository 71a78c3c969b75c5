"""Our networks against the authors' released code, in float64: the same numbers or it is another network."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from full_spike.models import create_model, load_published, to_published
from full_spike.utils.measure.hooks import hooked, watch_spikes
from spikingjelly.activation_based.neuron import BaseNode
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


def test_every_published_family_has_a_golden():
    models = {json.loads((GOLDENS / name).read_text())["meta"]["model"] for name in FILES}
    resnets = {"dsnn18", "dsnn50", "sew_resnet18", "sew_resnet50", "spiking_resnet18"}
    assert models == resnets | {"sew_7b", "sew_wide7b", "spiking_7b", "plain_7b"}
    assert set(PROJECTIONS) == set(FILES)


def build_spikformer(file):
    """(network filled as the golden's was, golden); the layer norms that the release never uses are among its keys."""
    golden = json.loads((GOLDENS / file).read_text())
    meta = golden["meta"]
    sizes = {"width": meta["dim"], "num_classes": meta["num_classes"]}
    sizes |= {option: meta[option] for option in ("depth", "heads", "patch", "T")}
    model = create_model(SPIKFORMERS[file], **sizes).double()
    load_published(model, filled(golden["keys"], shift=0.9))
    return model, golden


@pytest.mark.parametrize("file", SPIKFORMERS)
def test_matches_the_released_spikformer(file):
    check_spikformer(*build_spikformer(file))


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


@pytest.mark.parametrize(("release", "size"), [name.split() for name in json.loads(COUNTS.read_text())])
def test_spikformers_have_the_published_numbers_of_parameters(release, size):
    """Without what the releases declare and never use: two layer norms a block; for CIFAR10-DVS one more, and a
    position embedding of 64 tokens."""
    depth, width = (int(number) for number in size.split("-"))
    unused = depth * 4 * width + (release == "cifar10dvs") * (2 * width + 64 * width)
    with torch.device("meta"):
        model = create_model(f"spikformer_{depth}_{width}")
    published = json.loads(COUNTS.read_text())[f"{release} {size}"]
    assert sum(p.numel() for p in model.parameters()) == published - unused


@pytest.mark.parametrize("file", FILES)
def test_matches_the_released_code(file):
    check(file, build(json.loads((GOLDENS / file).read_text())["meta"]))


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


def test_a_separate_head_takes_the_published_second_head():
    model = create_model("dsnn18", num_classes=10, aux_head="separate").double()
    state = published_state("dsnn18")
    load_published(model, state)
    assert torch.equal(model.aap.head.weight, state["fc_acc.weight"])
    ours = to_published(model)
    assert set(ours) == set(state)
    assert all(torch.equal(ours[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("nest", "prefix"),
    [("model", "module."), ("net", ""), ("state_dict", "module._orig_mod."), ("state_dict", "_orig_mod."), (None, "")],
)
def test_prefixed_and_nested_state_dicts_load(nest, prefix):
    model, state = create_model("dsnn18", num_classes=10).double(), published_state("dsnn18")
    wrapped = {f"{prefix}{key}": value for key, value in state.items()}
    load_published(model, wrapped if nest is None else {"epoch": 3, nest: wrapped})
    assert all(torch.equal(value, state[key]) for key, value in to_published(model).items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("layer3.0.pool.0.1.weight"), r"missing: aap\.projections\.4\.pointwise\.0\.weight"),
        (lambda s: s.update({"layer9.weight": torch.zeros(1)}), r"unexpected: layer9\.weight"),
        (lambda s: s.update({"fc.bias": torch.zeros(7)}), r"of another shape: fc\.bias \(7,\) instead of \(10,\)"),
        (lambda s: s.update({"fc.bias": [0.0] * 10}), r"no tensor: fc\.bias"),
    ],
)
def test_a_state_dict_that_does_not_fit_changes_nothing(spoil, message):
    model = create_model("dsnn18", num_classes=10).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = published_state("dsnn18")
    spoil(state)
    with pytest.raises(ValueError, match=message):
        load_published(model, state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("state", [[1, 2], None, {"model": [1]}, {1: torch.zeros(1)}])
def test_what_is_no_state_dict_is_refused(state):
    with pytest.raises(ValueError, match=r"state dict") as error:
        load_published(create_model("fsnn18", width=4), state)
    assert "\n" not in str(error.value)


def in_containers(state):
    """As SEW-ResNet's code under clock_driven: SeqToANNContainer(conv, norm) had both below `module`."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0].startswith("layer") and ("conv" in parts[2] or parts[2:4] == ["downsample", "0"]):
            parts.insert(3 if "conv" in parts[2] else 4, "module")
        renamed[".".join(parts)] = value
    return renamed


def test_names_of_clock_driven_are_read_and_written():
    old = in_containers(published_state("sew_resnet18"))
    assert {"layer1.0.conv1.module.0.weight", "layer2.0.downsample.0.module.1.bias"} < set(old)
    model = create_model("sew_resnet18", num_classes=10).double()
    load_published(model, old)
    written = to_published(model, clock_driven=True)
    assert written.keys() == old.keys()
    assert all(torch.equal(value, old[key]) for key, value in written.items())


def test_the_golden_shows_the_two_streams_differ():
    """Guards the comparison itself: the auxiliary logits are no copy of the trunk's."""
    golden = json.loads((GOLDENS / "golden_dsnn18_OR_T4.json").read_text())
    assert math.dist(golden["eval_logits"][0], golden["eval_aux_logits"][0]) > 1.0

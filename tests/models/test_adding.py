"""Each change of docs/ADDING.md, made in a copy of the project and used there."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from full_spike.models import create_model
from full_spike.models.connect import Join, JoinLayer
from full_spike.utils.errors import UserError
from full_spike.utils.measure.counter import ExactCounter
from support.adding import apply
from support.command import ROOT, TINY, only


@pytest.fixture
def project(tmp_path):
    for package in ("full_spike", "models", "utils", "cifar"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def python(project, *args):
    """What Python prints that runs in the copy."""
    env = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, args)]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train(project, *args, script="cifar.train"):
    """Train for an epoch or two in the copy; the run's output and its epochs, as metrics.jsonl has them."""
    text = python(project, "-m", script, *args, "--output-dir", "out", "--device", "cpu", "-j", 0)
    folder = only(project / "out")
    return text, folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def one_epoch(project, *options):
    return train(project, *TINY, "--epochs", 1, "--lr", 0, *options)[2][0]


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """An epoch without learning, by the project as it is."""
    folder = tmp_path_factory.mktemp("unchanged")
    text = [sys.executable, "-m", "cifar.train", *TINY, "--epochs", "1", "--lr", "0", "--output-dir", str(folder)]
    subprocess.run(text, cwd=ROOT, check=True, capture_output=True)
    return json.loads((only(folder) / "metrics.jsonl").read_text())


def test_a_loss(project, unchanged):
    apply("A loss", project)
    entry = one_epoch(project, "--loss", "z")
    assert entry["train_loss"] > unchanged["train_loss"]  # plus a square
    assert entry["test"] == unchanged["test"]


def test_a_connect_function(project):
    apply("A connect function", project)
    code = """
import torch
from full_spike.models import BOOLEAN_FUNCTIONS, create_model
from full_spike.utils.measure.counter import ExactCounter
model = create_model("fsnn18", width=4, num_classes=5, T=2, stem="cifar", connect_f="NAND").eval()
with torch.no_grad(), ExactCounter(model) as counter:
    model(torch.rand(2, 3, 16, 16))
joins = [row for row in counter.rows() if row.kind == "join NAND"]
assert len(joins) == len(model.blocks()) and all(row.logic > 0 and row.ac == 0 for row in joins)
assert "NAND" in BOOLEAN_FUNCTIONS
try:
    create_model("fsnn18", connect_f="NAND", zero_init_residual=True)
except ValueError as error:
    print(error)
"""
    assert "NAND cannot: leave it out" in python(project, "-c", code)
    train(project, *TINY, "--epochs", 1, "--connect-f", "NAND")


def test_a_neuron(project):
    apply("A neuron", project)
    code = """
import torch
from full_spike.models import create_model
from full_spike.utils.export import exact
from full_spike.utils.measure.certificate import certify
for neuron in ("IF", "SoftIF"):
    model = create_model("fsnn18", width=4, neuron=neuron).eval()
    print(model.sn1(torch.tensor([1.75, 0.5, 0.5]).view(3, 1)).flatten().tolist(), model.sn1.spec.standard)
assert certify(model, [(torch.rand(2, 3, 32, 32), None)]).holds
try:
    exact(model, (32, 32))
except ValueError as error:
    print(error)
"""
    first, second, refusal = python(project, "-c", code).splitlines()
    assert (first, second) == ("[1.0, 0.0, 1.0] True", "[1.0, 1.0, 0.0] False")
    assert "is a SoftIFNode: only IF, LIF and PLIF with a reset to 0 can be described" in refusal
    train(project, *TINY, "--epochs", 1, "--neuron", "SoftIF")


def test_the_pathways_equation(project, unchanged):
    apply("The pathway's equation", project)
    entry = one_epoch(project)
    assert entry["test"]["aap"] != unchanged["test"]["aap"]
    assert entry["train"]["fsnn"] == unchanged["train"]["fsnn"]  # no spike of the trunk depends on it


def test_a_logged_metric(project, unchanged):
    apply("A logged metric", project)
    scores = one_epoch(project)["test"]
    assert all(0.1 < score.pop("confidence") < 1 for score in scores.values())
    assert scores == unchanged["test"]


def test_a_data_set(project):
    apply("A data set", project)
    text, folder, entries = train(project, "--samples", 512, script="squares.train")
    assert "512 training and 128 test images of 2 classes" in text
    assert folder.name.startswith("squares_dsnn18_b32_")
    assert entries[-1]["test"]["fsnn"]["acc1"] > 90
    assert yaml.safe_load((folder / "config.yaml").read_text())["samples"] == 512


def test_a_network(project):
    """The pathway finds by itself where the resolution is halved and the channels double."""
    apply("A network", project)
    init = project / "models" / "__init__.py"
    init.write_text(init.read_text().replace("net_7b, resnet, spikformer", "net_7b, resnet, spikformer, vgg"))
    code = """
import torch
from full_spike.models import create_model, detach_aap, fold_batchnorm, use_fused
from full_spike.utils.export import exact, quantize
from full_spike.utils.measure.certificate import certify
torch.manual_seed(0)
model = create_model("ds_vgg", width=4, num_classes=5, T=2)
for layer in model.spiking_layers():
    torch.nn.init.normal_(layer.norm.bias, 1.5, 0.5)
names = ["first.1", "layers.0.1", "layers.1.sn", "layers.3.1", "layers.4.sn"]
assert [layer.name for layer in model.spiking_layers()] == names
assert [tuple(change) for change in model.changes()] == [(1, 8, 16, 2), (2, 16, 16, 2)]
x = torch.rand(4, 3, 16, 16)
sum(logits.square().sum() for logits in model(x)).backward()
assert all(p.grad is not None for p in model.parameters())
model.eval()
detached = detach_aap(model)
assert detached.config["model"] == "fs_vgg" and torch.equal(detached(x), model(x))
double = detached.double()
torch.testing.assert_close(fold_batchnorm(double)(x.double()), double(x.double()), rtol=1e-9, atol=1e-9)
detached.float()
assert certify(detached, [(x, None)]).holds
torch.testing.assert_close(use_fused(model)(x), use_fused(model, False)(x), rtol=1e-4, atol=1e-4)
assert quantize(detached, [x], 8)(x).ne(0).any()
exported, plain = exact(detached, (16, 16))(x), detached(x)
print((exported - plain).norm().item() < 0.1 * plain.norm().item())
"""
    assert python(project, "-c", code) == "True\n"


def test_a_join_of_unknown_cost_is_not_counted():
    model = create_model("fsnn18", width=4, num_classes=5)
    model.blocks()[3].join = JoinLayer(Join("SOFT", "spikes", "multiplication", model.blocks()[3].join.join.function))
    with pytest.raises(UserError, match=r"^layer2\.1\.join joins by 'SOFT', whose cost 'multiplication' is not known"):
        ExactCounter(model)

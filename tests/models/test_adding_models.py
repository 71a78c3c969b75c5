"""What docs/ADDING.md says of `models`: each addition made in a copy of the package, and used there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from full_spike.models import create_model
from full_spike.models.connect import Join, JoinLayer
from full_spike.utils.errors import UserError
from full_spike.utils.measure.counter import ExactCounter
from support.adding import code

ROOT = Path(__file__).parents[1]


def insert(file, before, line):
    """Put a line in front of another that occurs once."""
    text = file.read_text()
    assert text.count(before) == 1, before
    file.write_text(text.replace(before, line + before))


@pytest.fixture
def package(tmp_path):
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "models"


# Trains two steps, counts and folds, and checks that each did something.
USE = """
import copy, warnings
warnings.simplefilter("error", UserWarning)
import torch
from pathlib import Path
from full_spike import models
from full_spike.models import create_model, detach_aap, fold_batchnorm, model_options, save_memory, use_fused
from full_spike.utils.measure.counter import ExactCounter

assert Path(models.__file__).parent.parent == Path.cwd()

def outputs(model, x):
    logits = model(x)
    return logits if isinstance(logits, tuple) else (logits,)

def used(name, fuse=False, **options):
    torch.manual_seed(0)
    model = create_model(name, width=4, num_classes=5, T=2, **options)
    for layer in model.spiking_layers():
        torch.nn.init.normal_(layer.norm.bias, 0.6, 0.4)
    x = torch.rand(2, 2, model.in_channels, 16, 16) if model.event_frames else torch.rand(2, model.in_channels, 16, 16)
    sides = [copy.deepcopy(model), save_memory(copy.deepcopy(model))] + [use_fused(copy.deepcopy(model))] * fuse
    results = []
    for side in sides:
        optimizer = torch.optim.SGD(side.parameters(), lr=0.1)
        losses = []
        for _ in range(2):
            optimizer.zero_grad()
            loss = sum(logits.logsumexp(1).sum() for logits in outputs(side, x))
            loss.backward()
            assert all(p.grad is not None for p in side.parameters())
            optimizer.step()
            losses.append(loss.item())
        assert losses[1] < losses[0], losses
        results.append(losses)
    assert all(abs(a - b) < 1e-4 * abs(b) for losses in results for a, b in zip(losses, results[0])), results
    model = sides[0].eval()
    with torch.no_grad():
        exact = copy.deepcopy(model).double()
        folded = fold_batchnorm(exact)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
        for ours, theirs in zip(outputs(folded, x.double()), outputs(exact, x.double())):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        if model.aap is not None:
            assert torch.equal(detach_aap(model)(x), model(x)[0])
        with ExactCounter(model) as counter:
            model(x)
    assert counter.uncounted == [] and counter.unused() == []
    return {row.name: row for row in counter.rows()}, model

"""


def use(package, code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(ROOT)])}
    command = [sys.executable, "-c", USE + code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=package.parent, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "done\n"


@pytest.mark.slow
def test_a_connect_function_is_a_row(package):
    """NAND: counted as logic, an option of every network that has connect functions, compiled like the others."""
    insert(
        package / "connect.py",
        '    Join("OR", "spikes", "logic", connect_or),',
        code("models/connect.py, in _ON_SPIKES"),
    )
    use(
        package,
        """
for name, fuse in (("dsnn18", True), ("fsnn_7b", False)):
    rows, model = used(name, fuse, connect_f="NAND")
    joins = [row for row in rows.values() if row.kind == "join NAND"]
    assert len(joins) == len(model.blocks()) and all(row.logic > 0 and row.ac == 0 for row in joins)
assert "NAND" in models.CONNECT_FUNCTIONS and "NAND" in models.BOOLEAN_FUNCTIONS
try:
    create_model("fsnn18", connect_f="NAND", zero_init_residual=True)
except ValueError as error:
    assert "NAND cannot: leave it out" in str(error)
    print("done")
""",
    )


def test_a_join_of_unknown_cost_is_not_counted():
    model = create_model("fsnn18", width=4, num_classes=5)
    block = model.blocks()[3]
    block.join = JoinLayer(Join("SOFT", "spikes", "multiplication", block.join.join.function))
    with pytest.raises(UserError, match=r"^layer2\.1\.join joins by 'SOFT', whose cost 'multiplication' is not known"):
        ExactCounter(model)


def test_a_depth_is_a_row(package):
    insert(package / "resnet.py", "    18: (BasicBlock, (2, 2, 2, 2)),", code("models/resnet.py, in DEPTHS"))
    use(
        package,
        """
names = ["dsnn10", "fsnn10", "resnet10", "sew_resnet10", "spiking_resnet10"]
assert [name for name in models.list_models() if name.endswith("10")] == names
rows, model = used("dsnn10")
assert len(model.spiking_layers()) == 1 + 4 * 2 + 3
assert sum(row.kind == "join OR" for row in rows.values()) == 4
print("done")
""",
    )


def test_a_layout_is_a_row(package):
    first = '    "7b": Layout((7,), width=32, num_classes=11),'
    insert(package / "net_7b.py", first, code("models/net_7b.py, in LAYOUTS"))
    use(
        package,
        """
assert (model_options("sew_3b")["width"], model_options("sew_3b")["num_classes"]) == (16, 7)
rows, model = used("dsnn_3b")
assert sum(row.kind == "join OR" for row in rows.values()) == 3
print("done")
""",
    )


def test_a_neuron_is_a_class_and_a_row(package):
    """A quadratic one, of which the kernels know nothing: with `use_fused` its own code runs."""
    insert(
        package / "neuron.py",
        "# a new neuron is a class like those above and a row here",
        code("models/neuron.py, before NEURONS") + "\n",
    )
    text = (package / "neuron.py").read_text()
    (package / "neuron.py").write_text(text.replace('"PLIF": PLIFNode}', '"PLIF": PLIFNode, "QIF": QIFNode}'))
    use(
        package,
        """
rows, model = used("dsnn18", fuse=True, neuron="QIF", tau=1.5)
assert model.sn1.spec.kind == "QIF" and model.sn1.spec.tau == 1.5
assert sum(row.kind == "neuron" and row.updates > 0 for row in rows.values()) == 20
silent = create_model("sew_resnet18", width=4, connect_f="AND", zero_init_residual=True, neuron="QIF")
block, x = silent.blocks()[1], (torch.rand(2, 2, 4, 8, 8) < 0.5).float()
assert torch.equal(block(x)[0], x)
print("done")
""",
    )


@pytest.mark.slow
def test_an_architecture_is_a_file_and_an_import(package):
    """A VGG with skips: the pathway finds by itself where the resolution is halved and the channels double."""
    (package / "vgg.py").write_text(code("models/vgg.py"))
    text = (package / "__init__.py").read_text()
    (package / "__init__.py").write_text(text.replace("net_7b, resnet, spikformer", "net_7b, resnet, spikformer, vgg"))
    use(
        package,
        """
from full_spike.utils.measure.certificate import certify
rows, model = used("ds_vgg", fuse=True)
assert [layer.name for layer in model.spiking_layers()] == [
    "stem_conv.1",
    *("layers.0.1", "layers.1.first.1", "layers.1.last.1"),
    *("layers.3.1", "layers.4.first.1", "layers.4.last.1"),
]
assert [tuple(change) for change in model.changes()] == [(1, 8, 16, 2), (2, 16, 16, 2)]
assert sorted(model.aap.projections) == ["1", "2"]
assert [row.kind for row in rows.values()].count("join XOR") == 2
detached = detach_aap(model)
assert detached.config["model"] == "fs_vgg" and create_model(**detached.config).spiking_layers()
result = certify(detached, [(torch.rand(2, 3, 16, 16), None)])
assert result.holds and len(result.body) == 6, result.lines()
x = torch.rand(4, 3, 16, 16)
integers = models.quantize(detached.eval(), [x], 8)
assert integers(x).dtype == torch.int32 and integers(x).ne(0).any()
exported, plain = models.exact(detached.eval(), (16, 16))(x), detached(x)
assert (exported - plain).norm() < 0.1 * plain.norm()
print("done")
""",
    )

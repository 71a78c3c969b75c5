"""The house's rules, read off its source: who may import whom, how long a file may be."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA_SETS = ("cifar", "cifar10dvs", "dvsgesture", "imagenet")

# Part of the house -> what it may import besides itself: other parts, or single modules. A module belongs to the part
# with the longest name that its own begins with.
BASE = {"utils.runtime", "utils.cluster"}
DATA = {"utils.data", "utils.data.images", "utils.data.events"}
UTILS = {
    "utils.runtime": set(),
    "utils.cluster": {"utils.runtime"},
    "utils.data": BASE,
    "utils.data.images": {"utils.data", *BASE},
    "utils.data.events": {"utils.data", *BASE},
    "utils.measure": {"utils.runtime"},
    "utils.draw": {"utils.runtime"},
    "utils.export": {"utils.runtime"},
    "utils.checkpoints": BASE,
    "utils.train": {*DATA, *BASE, "utils.checkpoints"},
    "utils.cli": {*DATA, *BASE, "utils.measure", "utils.draw", "utils.export", "utils.checkpoints", "utils.train"},
    "utils": {  # entry points
        *DATA, *BASE, "utils.cli", "utils.measure", "utils.draw", "utils.export", "utils.checkpoints", "utils.train",
    },
}  # fmt: skip
MODELS = {
    "models.connect": set(),
    "models.layers": set(),
    "models.published": {"models.layers"},
    "models.recompute": set(),
    "models.tensors_file": set(),
    "models.pretrained": {"models.published", "models.tensors_file"},
    "models.registry": {"models.pretrained"},
    "models.fused": {"models.connect"},
    "models.neuron": {"models.connect", "models.fused"},
    "models.firing": {"models.connect", "models.fused", "models.layers", "models.neuron"},
    "models.accumulation": {"models.layers"},
    "models.trunk": {
        "models.accumulation", "models.connect", "models.firing", "models.layers", "models.neuron", "models.recompute",
    },
    "utils.export.graph": {"models.connect", "models.deploy", "models.fused", "models.neuron"},
    "models.deploy": {"models.connect", "models.firing", "models.layers", "models.trunk"},
}  # fmt: skip
ARCHITECTURE = {  # any other file of models/
    "models.accumulation", "models.connect", "models.firing", "models.layers", "models.neuron", "models.registry",
    "models.trunk",
}  # fmt: skip
DATA_SET = {"options": {*DATA, *BASE}, "data": {*DATA, *BASE}}
DATA_SET["train"] = {*DATA_SET["data"], "models", "utils.launch", "utils.train.config"}
# What is run, by its name or by a data set's train.py. A new command joins them.
TOP_OF_UTILS = {
    "__init__", "commands", "convert_checkpoint", "export", "fullspike", "launch", "plots", "predict", "report",
    "synops",
}  # fmt: skip


def modules(root, packages):
    """Dotted name -> file of every module of these packages."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name, path, known):
    """Dotted name of whatever a module imports, wherever the import stands; `from a import b` gives a.b if known."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in known else source)
    return found


def graph(root, packages):
    """Module -> the modules of these packages that it imports."""
    known = modules(root, packages)
    return {name: {i for i in imports(name, path, known) if i in known} for name, path in known.items()}


def table(found):
    """The rows above, and those of every file of models/ and of every data set."""
    files = {".".join(name.split(".")[:2]) for name in found if name.startswith("models.")}
    rows = {"models": files, **dict.fromkeys(files, ARCHITECTURE), **MODELS, **UTILS}
    for name in DATA_SETS:
        rows |= {f"{name}.{file}": {f"{name}.options", *parts} for file, parts in DATA_SET.items()}
        rows[f"{name}.train"] |= {f"{name}.data"}
    return rows


def violations(found):
    """(module, what it imports and may not)."""
    rows = table(found)

    def part(name):
        return max((row for row in rows if f"{name}.".startswith(f"{row}.")), key=len, default=name)

    return sorted(
        (name, other)
        for name, others in found.items()
        for other in others
        if part(name) != part(other) and not {part(other), other} & rows.get(part(name), set())
    )


def circle(found):
    """Modules that import each other in a circle, or nothing."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        path.append(name)
        for other in sorted(found[name]):
            if cycle := visit(other):
                return cycle
        path.pop()
        done.add(name)
        return []

    return next((cycle for name in sorted(found) if (cycle := visit(name))), [])


HOUSE = ("models", "utils", *DATA_SETS)


@pytest.fixture(scope="module")
def house():
    return graph(ROOT, HOUSE)


def test_every_module_imports_only_what_its_room_may(house):
    assert len(house) > 60
    assert violations(house) == []


def test_no_modules_import_each_other_in_a_circle(house):
    assert circle(house) == []


def test_models_and_utils_import_no_data_set_benchmark_script_or_test():
    forbidden = {*DATA_SETS, "benchmarks", "scripts", "tests"}
    for name, path in modules(ROOT, ("models", "utils")).items():
        assert not {i.split(".")[0] for i in imports(name, path, {})} & forbidden, name


def test_models_need_torch_and_spikingjelly_alone():
    files = modules(ROOT, ("models",))
    used = {i.split(".")[0] for name, path in files.items() for i in imports(name, path, files)}
    assert used - sys.stdlib_module_names == {"torch", "spikingjelly", "models"}


def test_the_top_level_of_utils_holds_entry_points_alone():
    assert {path.stem for path in (ROOT / "utils").glob("*.py")} == TOP_OF_UTILS
    rooms = {path.name for path in (ROOT / "utils").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == {"checkpoints", "cli", "cluster", "data", "deploy", "draw", "measure", "runtime", "train"}


def test_no_file_is_longer_than_300_lines():
    files = modules(ROOT, (*HOUSE, "benchmarks")).values()
    assert {str(path): n for path in files if (n := len(path.read_text().splitlines())) > 300} == {}


# The checks themselves, on a small house


SMALL = {
    "models/__init__.py": "from . import net\nfrom .connect import AND",
    "models/connect.py": "import torch",
    "models/layers.py": "",
    "models/fused/__init__.py": "from ..connect import AND\nfrom .kernels import forward",
    "models/fused/kernels.py": "from ..connect import AND",
    "models/neuron.py": "from . import fused\nfrom .fused import forward",
    "models/net.py": "from .neuron import IF",
    "utils/__init__.py": "",
    "utils/launch.py": "from full_spike.utils.runtime import log\nfrom utils.train.run import x\nimport utils.data.images.folder",
    "utils/runtime/log.py": "import json",
    "utils/data/loading.py": "from full_spike.utils.log import say",
    "utils/data/images/folder.py": "from full_spike.utils.data import loading",
    "utils/data/events/frames.py": "from full_spike.utils.data.loading import x",
    "utils/train/run.py": "from full_spike.utils.data.events.frames import x",
    "utils/train/config.py": "",
    "utils/measure/counter.py": "",
    "cifar/data.py": "from full_spike.utils.data.images.folder import x",
    "cifar/train.py": "import models\nfrom cifar.data import load\nfrom utils import launch\nimport utils.train.config",
}


def build(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return graph(root, HOUSE)


def test_a_house_in_order_passes(tmp_path):
    found = build(tmp_path, SMALL)
    assert violations(found) == []
    assert circle(found) == []
    assert found["models"] == {"models.net", "models.connect"}
    assert found["models.fused"] == {"models.connect", "models.fused.kernels"}
    assert found["utils.launch"] == {"utils.log", "utils.train.run", "utils.data.images.folder"}


@pytest.mark.parametrize(
    ("file", "line", "wrong"),
    [
        ("models/connect.py", "from .neuron import IF", ("models.connect", "models.neuron")),
        ("models/connect.py", "from . import neuron", ("models.connect", "models.neuron")),
        ("models/fused/kernels.py", "from ..neuron import IF", ("models.fused.kernels", "models.neuron")),
        ("models/net.py", "def f():\n    from .fused import forward", ("models.net", "models.fused")),
        ("models/other.py", "from .net import x", ("models.other", "models.net")),
        ("models/net.py", "from full_spike.utils.log import say", ("models.net", "utils.log")),
        ("utils/launch.py", "import models", ("utils.launch", "models")),
        ("utils/runtime/log.py", "from full_spike.utils.data import loading", ("utils.log", "utils.data.loading")),
        ("utils/runtime/log.py", "from ..data.loading import x", ("utils.log", "utils.data.loading")),
        ("utils/data/loading.py", "if True:\n    import utils.launch", ("utils.data.loading", "utils.launch")),
        ("utils/data/loading.py", "from .images import folder", ("utils.data.loading", "utils.data.images.folder")),
        (
            "utils/data/events/frames.py",
            "from full_spike.utils.data.images.folder import x",
            ("utils.data.events.frames", "utils.data.images.folder"),
        ),
        (
            "utils/train/run.py",
            "from full_spike.utils.measure.counter import x",
            ("utils.train.run", "utils.measure.counter"),
        ),
        (
            "utils/measure/counter.py",
            "from full_spike.utils.train import run",
            ("utils.measure.counter", "utils.train.run"),
        ),
        ("cifar/data.py", "from full_spike.utils.launch import Datasets", ("cifar.data", "utils.launch")),
        ("cifar/train.py", "from full_spike.utils.train import run", ("cifar.train", "utils.train.run")),
        ("cifar/train.py", "from full_spike.imagenet import data", ("cifar.train", "imagenet.data")),
    ],
)
def test_a_wrong_import_is_seen(tmp_path, file, line, wrong):
    text = f"{SMALL.get(file, '')}\n{line}"
    assert violations(build(tmp_path, {"imagenet/data.py": "", **SMALL, file: text})) == [wrong]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("import utils.train.step", "from full_spike.utils.train import run"),
        ("def f():\n    from .step import x", "from full_spike.utils.train.run import y"),
    ],
)
def test_a_circle_inside_a_room_is_seen(tmp_path, a, b):
    found = build(tmp_path, {**SMALL, "utils/train/run.py": a, "utils/train/step.py": b})
    assert violations(found) == []
    assert set(circle(found)) == {"utils.train.run", "utils.train.step"}

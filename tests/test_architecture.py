"""The house's rules, read off its source."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imports(path):
    """Top-level names of every import in a file, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(("package", "forbidden"), [("models", {"utils"}), ("utils", {"models"})])
def test_models_and_utils_never_import_each_other(package, forbidden):
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    forbidden = forbidden | {"cifar", "cifar10dvs", "dvsgesture", "imagenet", "scripts", "tests"}
    assert {str(f): imports(f) & forbidden for f in files if imports(f) & forbidden} == {}


def test_models_need_torch_and_spikingjelly_alone():
    used = set().union(*(imports(f) for f in (ROOT / "models").rglob("*.py")))
    assert used - sys.stdlib_module_names == {"torch", "spikingjelly"}


def test_the_import_check_sees_imports():
    assert {"models", "utils"} <= imports(ROOT / "cifar" / "train.py") | imports(ROOT / "cifar" / "data.py")

"""Who may import whom, read off the source: models never utils, utils no data set, and nobody in a circle."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA_SETS = ("cifar", "cifar10dvs", "dvsgesture", "imagenet")
FILES = [path for folder in ("models", "utils", *DATA_SETS) for path in sorted((ROOT / folder).rglob("*.py"))]


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in FILES}


def imports(path, everywhere=True):
    """The modules of this project that a file imports: in functions as well, or when it is imported alone."""
    tree, found = ast.parse(path.read_text()), set()
    package = name_of(path).split(".")[: None if path.name == "__init__.py" else -1]
    nodes = ast.walk(tree) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("full_spike.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])]).removeprefix("full_spike.")
            found |= {f"{module}.{alias.name}" for alias in node.names}
            found.add(module)
    return {name for name in found if name in NAMES}


def test_models_import_nothing_of_utils_or_data_sets():
    wrong = {
        name_of(p): imports(p) - {n for n in NAMES if n.startswith("models")} for p in FILES if "models" in p.parts
    }
    assert {name: found for name, found in wrong.items() if found} == {}


def test_utils_import_no_data_set_but_for_how_images_are_read_by_default():
    wrong = {name_of(p): {n for n in imports(p) if n.startswith(DATA_SETS)} for p in FILES if "utils" in p.parts}
    assert {name: found for name, found in wrong.items() if found} == {
        "utils.trained": {"imagenet.data", "imagenet.train"}
    }


def test_nothing_is_imported_in_a_circle():
    order = {name_of(path): imports(path, everywhere=False) - {name_of(path)} for path in FILES}
    packages = {name for name in order if any(other.startswith(f"{name}.") for other in order)}
    # naming a package's module imports the package as well, which is no circle of its own
    graphlib.TopologicalSorter({name: found - packages for name, found in order.items()}).prepare()

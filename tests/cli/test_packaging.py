"""The wheel: beside packages and files of the same names, and as torch.hub and the command find it."""

import os
import subprocess
import sys
import zipfile

import pytest

from support.command import ROOT

pytestmark = pytest.mark.slow
BUILD = "pip wheel -q --no-deps --no-build-isolation --no-cache-dir -w"
DUMMY = "from setuptools import setup; setup(name='dummy', version='1', packages=['models', 'utils'])"


def run(*command, cwd, **env):
    words = [sys.executable, *map(str, command)]
    free = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env={**free, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Ours, and one of another project with top-level `models` and `utils`."""
    folder, source, dummy = (tmp_path_factory.mktemp(name) for name in ("wheels", "source", "dummy"))
    subprocess.run(f"git ls-files -z | xargs -0 cp --parents -t {source}", shell=True, cwd=ROOT, check=True)
    for name in ("models", "utils"):
        (dummy / name).mkdir()
        (dummy / name / "__init__.py").write_text("other = True\n")
    (dummy / "setup.py").write_text(DUMMY)
    for project in (source, dummy):
        run("-m", *BUILD.split(), folder, project, cwd=project)
    return sorted(folder.glob("*.whl"), key=lambda path: path.name.startswith("dummy"))


def test_recipes_and_weights_are_in_the_wheel(wheels):
    names = set(zipfile.ZipFile(wheels[0]).namelist())
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"full_spike"}
    recipes = [path.relative_to(ROOT) for place in ("cifar", "imagenet") for path in (ROOT / place).glob("*.yaml")]
    weights = [
        path.relative_to(ROOT) for path in (ROOT / "weights").rglob("*") if path.suffix in (".safetensors", ".json")
    ]
    assert recipes
    assert weights
    assert {f"full_spike/{path}" for path in (*recipes, *weights)} <= names


@pytest.mark.parametrize("reverse", [False, True])
def test_another_projects_models_and_utils_live_beside_it(tmp_path, wheels, reverse):
    site = tmp_path / "site"
    for wheel in reversed(wheels) if reverse else wheels:
        run("-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    code = "import models, utils, full_spike\nassert models.other and utils.other\n"
    code += f"assert full_spike.__file__.startswith({str(site)!r})\nfull_spike.create_model('fsnn18', T=2)"
    run("-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    records = {}
    for name in ("dummy", "full_spike_aap"):
        lines = next(site.glob(f"{name}-*/RECORD")).read_text().splitlines()
        records[name] = {line.split(",")[0] for line in lines}
    assert not records["dummy"] & records["full_spike_aap"]  # uninstalling either removes nothing of the other


def test_the_command_runs_beside_files_of_the_same_names(tmp_path, wheels):
    run("-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", wheels[0], cwd=tmp_path)
    for name in ("utils", "models", "cifar"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong file')\n")
    options = "train cifar --dataset digits --epochs 1 --width 4 --T 2 --image-size 8 -b 256 -j 0 --device cpu"
    code = "import sys; from full_spike.utils.commands import main; sys.exit(main())"
    text = run("-c", code, *options.split(), cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert "done in" in text


def test_torch_hub_after_models_of_ones_own(tmp_path):
    (tmp_path / "models.py").write_text("mine = True\n")
    code = "import models, torch\nassert models.mine\n"
    code += f"net = torch.hub.load({str(ROOT)!r}, 'fsnn18', source='local', T=2, num_classes=3)\n"
    code += "assert net.T == 2 and models.mine"
    run("-c", code, cwd=tmp_path)

"""docs/ADDING.md, done in a copy of the project: what it prints is all that an addition takes."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from support.adding import TEXT, blocks, code
from support.command import ROOT, TINY, only

PACKAGES = ("models", "utils", "cifar")


@pytest.fixture
def project(tmp_path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def add(project, place):
    """Put a piece of code where it says that it belongs: a file, or the first row of a table in one."""
    path, _, table = place.partition(", in ")
    file = project / path
    if not table:
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(code(place))
        return
    before, opening, after = re.split(rf"^({table}\b[^\n]*= {{\n)", file.read_text(), maxsplit=1, flags=re.MULTILINE)
    file.write_text(before + opening + code(place) + after)


def train(project, module, *args):
    """Run a script of the copy; its output, and its run's folder."""
    env = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *map(str, args), "--output-dir", "out", "--device", "cpu", "-j", "0"]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, only(project / "out")


def test_every_piece_of_code_is_named():
    assert len(blocks()) == TEXT.count("```python")


def test_a_data_set_is_one_folder(project):
    for place in ("squares/data.py", "squares/train.py"):
        add(project, place)
    text, folder = train(project, "squares.train", "--samples", 512)
    assert "512 training and 128 test images of 2 classes" in text
    assert folder.name.startswith("squares_dsnn18_b32_")
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test"]["fsnn"]["acc1"] > 90
    assert yaml.safe_load((folder / "config.yaml").read_text())["samples"] == 512


def test_an_optimizer_and_a_schedule_are_a_row_each(project):
    for table in ("OPTIMIZERS", "SCHEDULES"):
        add(project, f"utils/train/optim.py, in {table}")
    options = ("--optimizer", "nadam", "--lr-scheduler", "flat", "--lr", 0.01, "--epochs", 2)
    text, folder = train(project, "cifar.train", *TINY, *options)
    assert text.count("lr 0.01 ") == 2
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert (kept["optimizer"], kept["lr_scheduler"]) == ("nadam", "flat")

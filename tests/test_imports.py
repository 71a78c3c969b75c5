"""Nobody waits for what is not used: which modules a command has imported when it ends."""

import json
import os
import subprocess
import sys

import pytest

from support.command import ROOT, TINY

TRAINING = ("cifar.train", "cifar10dvs.train", "dvsgesture.train", "imagenet.train")
COMMANDS = (
    *TRAINING, "utils.convert_checkpoint", "utils.export", "utils.fullspike", "utils.plots", "utils.predict",
    "utils.report", "utils.show_events", "utils.summary", "utils.synops",
)  # fmt: skip
SLOW = {"torch", "torchvision", "spikingjelly", "numpy", "matplotlib", "sklearn", "tensorboard", "models", "PIL"}

# runs a module as `python -m` does, and says what is imported when it ends
SCRIPT = """
import json, runpy, sys
sys.argv = sys.argv[1:]
status = 0
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code
print(json.dumps([status, sorted(sys.modules)]))
"""


def imported(*command):
    """(exit status, modules) of a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    status, modules = json.loads(done.stdout.splitlines()[-1])
    return status or 0, set(modules)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--no-such-option", 2)])
def test_help_and_a_wrong_option_import_nothing_slow(command, option, status):
    found, modules = imported(command, option)
    assert found == status
    assert modules & SLOW == set()


@pytest.mark.parametrize("option", [("--lr", "-1"), ("--config", "nowhere.yaml"), ("--test-only",), ("--epochs", "0")])
def test_a_wrong_value_imports_nothing_slow(option):
    found, modules = imported("cifar.train", *option)
    assert found == 2
    assert modules & SLOW == set()


def test_networks_need_no_compiler_and_nothing_of_torchvision():
    code = "import models, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "torch" in modules
    assert modules & {"torchvision", "torch._dynamo", "torch._inductor", "sklearn", "matplotlib"} == set()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The modules of a run on digits."""
    status, modules = imported("cifar.train", *TINY, "--epochs", 1, "--output-dir", tmp_path_factory.mktemp("run"))
    assert status == 0
    return modules


def test_digits_need_no_torchvision_no_tensorboard_and_no_compiler(digits):
    assert {"torch", "models", "sklearn"} <= digits
    unused = {"torchvision", "PIL", "tensorboard", "torch.utils.tensorboard", "matplotlib", "utils.measure.counter"}
    # spikingjelly's neurons tell torch's compiler of themselves, which compiles nothing for that
    compiler = {"torch._inductor.compile_fx", "torch._inductor.codegen.cpp", "torch._functorch.aot_autograd"}
    assert digits & {*unused, *compiler} == set()

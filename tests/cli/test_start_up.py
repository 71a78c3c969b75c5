"""What --help says, and that nobody waits for torch to read it."""

import json
import re
import subprocess
import sys

import pytest

from support.command import ROOT
from support.refusals import command as run_here

TRAINING = ("cifar.train", "cifar10dvs.train", "dvsgesture.train", "imagenet.train")
COMMANDS = (
    *TRAINING, "utils.convert_checkpoint", "utils.export", "utils.fullspike", "utils.plots", "utils.predict",
    "utils.report", "utils.show_events", "utils.summary", "utils.synops",
)  # fmt: skip
SLOW = {"torch", "torchvision", "spikingjelly", "numpy", "matplotlib", "sklearn", "tensorboard", "PIL"}

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
    """(exit status, modules, what was printed) of a command in a process of its own."""
    words = [sys.executable, "-c", SCRIPT, *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    status, modules = json.loads(last)
    return status or 0, set(modules), "\n".join(lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_waits_for_nothing_slow_and_is_in_one_style(command):
    status, modules, text = imported(command, "--help")
    assert status == 0
    assert modules & SLOW == set()
    module = rf"(full_spike\.)?{re.escape(command)}"
    assert re.match(f"usage: python -m {module} ", text)
    options, _, examples = text.partition("examples:")
    assert re.search(f"-m {module} ", examples)
    assert "_" not in "".join(re.findall(r"(?m)^ +(--?\S+)", options))
    assert "SUPPRESS" not in text
    assert "default: None" not in text


@pytest.mark.parametrize(
    "options", ["--no-such-option", "--lr -1", "--config nowhere.yaml", "--test-only", "--epochs 0"]
)
def test_a_wrong_value_waits_for_nothing_slow(options):
    status, modules, _ = imported("cifar.train", *options.split())
    assert status == 2
    assert modules & SLOW == set()


def test_networks_need_no_compiler_and_nothing_of_torchvision():
    code = "import full_spike.models, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "torch" in modules
    assert modules & {"torchvision", "torch._dynamo", "torch._inductor", "sklearn", "matplotlib"} == set()


def test_the_defaults_of_a_script_are_shown():
    text = re.sub(r"\s+", " ", run_here("cifar.train", "--help").out)
    for flag, default in (("--epochs N", "100"), ("--wd X", "0.0005"), ("--stem NAME", "cifar"), ("--crop", "on")):
        assert re.search(rf"{flag}[^-]*.*?\(default: {re.escape(default)}\)", text)
    assert "(default: 0.9,0.999)" in text

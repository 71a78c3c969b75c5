"""`full-spike`: one name for all commands, and how any of them ends when nobody reads or something is wrong."""

import importlib
import os
import signal
import subprocess
import sys

import pytest
import torch

from full_spike.models import read_pretrained
from full_spike.utils import commands
from support.command import ROOT, TINY, only
from support.refusals import command


def python(code, **env):
    """Status and standard error of a program whose output nobody reads."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **env},
    )  # fmt: skip
    process.stdout.close()
    errors = process.stderr.read()
    return process.wait(), errors


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_alone_it_lists_the_commands(capsys, words):
    assert commands.main(words) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in commands.COMMANDS)


@pytest.mark.parametrize("module", sorted({module for module, _ in commands.COMMANDS.values()}))
def test_every_row_is_a_module_with_a_main_function(module):
    for data_set in commands.DATA_SETS if "{}" in module else ("",):
        assert callable(importlib.import_module(f"full_spike.{module.format(data_set)}").main)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("juggle", "there is no command 'juggle': choose one of train, test,"),
        ("train", "takes a data set first, and nothing is given: choose one of cifar,"),
        ("train mnist", "takes a data set first, not 'mnist'"),
        ("train cifar --no-such", "unrecognized arguments: --no-such"),
        ("convert in.pth .", "is there already: name another file"),
    ],
)
def test_what_is_wrong_is_one_line(words, message):
    done = command("full_spike.utils.commands", *words.split())
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert message in line


def test_train_test_and_convert_are_the_scripts(tmp_path, capsys):
    options = [str(option) for option in (*TINY, "--epochs", 1, "--output-dir", tmp_path)]
    assert commands.main(["train", "cifar", *options]) == 0
    latest = only(tmp_path) / "checkpoint_latest.pth"
    assert commands.main(["test", "cifar", *options]) == 0
    assert f"dsnn18 from {latest}" in capsys.readouterr().out
    for to in ("published", "clock_driven", "pretrained", "ours"):
        assert commands.main(["convert", str(latest), str(tmp_path / to), "--to", to]) == 0
    network = "--model dsnn18 --T 2 --num-classes 10".split()
    for option in ("width=4", "stem=cifar", "neuron=LIF", "in_channels=1"):
        network += ["--option", option]
    for source, options in (("published", network), ("clock_driven", network), ("pretrained", [])):
        back = tmp_path / f"{source}_back"
        assert commands.main(["convert", str(tmp_path / source), str(back), *options]) == 0
        found, trained = (read_pretrained(path).state for path in (back, latest))
        assert found.keys() == trained.keys()
        assert all(torch.equal(found[key], value) for key, value in trained.items())


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [[], ["train", "cifar", "--help"]])
def test_a_reader_that_goes_ends_a_command_without_a_word(unbuffered, words):
    code = f"import sys; from full_spike.utils.commands import main; sys.exit(main({words}))"
    status, errors = python(code, PYTHONUNBUFFERED=unbuffered)
    assert status in (0, 128 + signal.SIGPIPE)
    assert errors == ""


def test_another_broken_pipe_is_an_error():
    code = "import os, sys\nfrom full_spike.utils.errors import run_command\n"
    code += "def main(): r, w = os.pipe(); os.close(r); os.write(w, b'x')\nsys.exit(run_command(main))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 32] Broken pipe\n")


def test_a_librarys_warning_is_one_line_however_long_it_is():
    code = "import warnings\nfrom full_spike.utils.errors import run_command\n"
    code += "run_command(lambda: warnings.warn('first\\n second \\x1b[1m', stacklevel=1))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "warning: first second \\x1b[1m\n"

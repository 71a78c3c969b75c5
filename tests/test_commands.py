"""`full-spike`: one name for all commands, thin over the modules."""

import importlib
import os
import subprocess
import sys

import pytest
from test_imports import SLOW, imported

from full_spike.utils import commands
from support.command import ROOT, TINY, only


def full_spike(*words, cwd=ROOT):
    code = "import sys; from full_spike.utils.commands import main; sys.exit(main())"
    env_free = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(env_free, cwd=cwd, capture_output=True, text=True, check=False)


def test_alone_it_lists_what_there_is():
    done = full_spike()
    assert done.returncode == 0
    for name in commands.available():
        assert f"\n  {name} " in done.stdout
    for name in ("train", "test", "report", "synops", "certify", "summary"):
        assert name in commands.available()
    assert full_spike("--help").stdout == done.stdout


def test_it_imports_nothing_slow():
    status, modules = imported("utils.commands")
    assert status == 0
    assert modules & SLOW == set()
    status, modules = imported("utils.commands", "train", "cifar", "--help")
    assert status == 0
    assert modules & SLOW == set()


def test_every_row_is_a_module_with_a_main_function():
    for command in commands.available().values():
        for data_set in commands.DATA_SETS if "{}" in command.module else ("",):
            assert callable(importlib.import_module(command.module.format(data_set)).main)


def test_a_row_without_its_module_is_not_there(monkeypatch):
    monkeypatch.setitem(commands.COMMANDS, "juggle", commands.Command("utils.juggle", "no such thing"))
    assert "juggle" not in commands.available()
    monkeypatch.setitem(commands.COMMANDS, "juggle", commands.Command("utils.plots", "another name"))
    assert "juggle" in commands.listing()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["juggle"], "there is no command 'juggle': choose one of train, test,"),
        (["train"], "takes a data set first, and nothing is given: choose one of cifar,"),
        (["train", "mnist"], "takes a data set first, not 'mnist'"),
        (["train", "cifar", "--no-such"], "unrecognized arguments: --no-such"),
        (["summary"], "there is no network"),
    ],
)
def test_what_is_wrong_is_one_line(words, message):
    done = full_spike(*words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line


def test_train_and_test_are_the_scripts(tmp_path, capsys):
    options = [str(option) for option in (*TINY, "--epochs", 1, "--output-dir", tmp_path)]
    assert commands.main(["train", "cifar", *options]) == 0
    run = only(tmp_path)
    assert commands.main(["test", "cifar", *options]) == 0
    assert f"dsnn18 from {run / 'checkpoint_latest.pth'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("full-spike ", {"train", "test", "report", "summary"}),
        ("full-spike su", {"summary"}),
        ("full-spike train ", {"cifar", "imagenet", "dvsgesture", "cifar10dvs"}),
        ("full-spike train cifar --lab", {"--label-smoothing"}),
        ("full-spike test dvsgesture --frame", {"--frame-size"}),
        ("full-spike summary --si", {"--size"}),
    ],
)
def test_the_shell_is_given_words(tmp_path, typed, words):
    """As argcomplete asks for them: by variables, the answer on descriptor 8."""
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    code = "import os, sys; os.dup2(os.open(sys.argv.pop(), os.O_WRONLY | os.O_CREAT), 8)\n"
    code += "from full_spike.utils.commands import main; sys.exit(main())"
    env = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "COMP_LINE": typed,
        "COMP_POINT": str(len(typed)),
        "_ARGCOMPLETE_IFS": " ",
    }
    subprocess.run([sys.executable, "-c", code, answer], cwd=ROOT, env=env, capture_output=True, check=False)
    found = set(answer.read_text().replace("\x0b", " ").split())
    assert words <= found
    assert found == words or typed == "full-spike "


def test_it_is_installed_as_a_command(tmp_path):
    """What pip makes of setup.py: the name of the command and what it calls."""
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "full-spike = utils.commands:main" in next(tmp_path.glob("*/entry_points.txt")).read_text()

"""How commands end, and what is on the screen: one line for each error, whatever it or a file's name holds."""

import os
import subprocess
import sys

import pytest

from full_spike.cifar.train import make_parser
from full_spike.utils import distributed
from full_spike.utils.errors import StopRequestedError, UsageError, UserError, run_command, warn
from full_spike.utils.options import parse
from full_spike.utils.run_folder import other_runs, run_name
from support.command import ROOT, TINY, refused
from support.refusals import command


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (UserError("a\nb\u2028 \x1b[1m"), 1, "error: a\\nb\\u2028 \\x1b[1m"),
        (UsageError("wrong"), 2, "error: wrong"),
        (StopRequestedError("saved"), 75, "stopped: saved"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (OSError(28, "No space left on device", "a\nb"), 1, "error: [Errno 28] No space left on device: 'a\\nb'"),
        (SystemExit(3), 3, None),
    ],
)
def test_what_a_command_ends_with(capsys, raised, status, line):
    def main():
        raise raised

    assert run_command(main) == status
    assert capsys.readouterr().err == (f"{line}\n" if line else "")


def test_a_process_of_several_says_its_rank(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert run_command(lambda: distributed.start("cpu")) == 1
    assert capsys.readouterr().err.startswith("error on rank 3: RANK=3 is not below WORLD_SIZE=1")


def test_a_warning_is_one_line(capsys):
    warn("a file\nof this name")
    assert capsys.readouterr().err == "warning: a file\\nof this name\n"


NAME = os.fsdecode(b"d\xe9\n\xff")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["utils.plots", NAME], 1),
        (["utils.report", NAME], 1),
        (["utils.predict", f"{NAME}/a\n.png", "--no-pictures"], 1),
        (["utils.predict", "nowhere", "--output", f"{NAME}/a\n.png"], 2),
        (["utils.fullspike", "--model", "dsnn18", "--checkpoint", f"{NAME}/a\n.png"], 1),
        (["utils.convert_checkpoint", f"{NAME}/a\n.png", "out"], 1),
        (["utils.synops", "--model", "dsnn18", "--option", "width=4", "--images", 2, "--data", NAME], 1),
    ],
)
def test_names_that_are_no_text_are_escaped(tmp_path, monkeypatch, words, status):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "a\n.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    done = command(*words)
    assert done.status == status, done.err
    (line,) = done.err.splitlines()
    assert "\\n" in line
    line.encode()


def test_torch_does_not_speak_of_cuda_home(tmp_path):
    """It would where there is nvcc and no GPU."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "nvcc").chmod(0o755)
    code = "from full_spike.utils.errors import run_command\nrun_command(lambda: 0)\nimport torch.utils.cpp_extension"
    env = {**os.environ, "CUDA_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""


# The environment


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "abc"}, "RANK='abc' in the environment is no whole number"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE=''"),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "²"}, "LOCAL_RANK='²'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "two"}, "LOCAL_WORLD_SIZE='two'"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "abc"}, "SLURM_NTASKS='abc'"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "could not meet the others at None:None .*MASTER_ADDR"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "a"}, "at localhost:a .*MASTER_P"),
    ],
)
def test_a_wrong_environment_is_one_line(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as error:
        distributed.start("cpu", timeout=5)
    assert "\n" not in str(error.value)


def test_a_wrong_environment_of_a_run_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "abc")
    assert "RANK='abc'" in refused("cifar.train", *TINY, "--output-dir", tmp_path / "out", status=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["abacus", "", "cuda:99", "cuda:x", "meta", "mps"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UsageError, match=rf"^--device {name} (is not available|cannot be used).*: use cuda") as error:
        distributed.named_device(name)
    assert "\n" not in str(error.value)


def test_a_name_that_is_too_long_is_cut_and_still_its_own():
    made = {run_name(parse(make_parser(), []), {}, prefix="x" * 250 + end) for end in ("a_", "b_")}
    assert len(made) == 2
    assert max(map(len, made)) <= 200


def test_runs_beside_a_folder_without_one_are_named(tmp_path):
    assert other_runs(tmp_path / "mine") == ""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "checkpoint_latest.pth").touch()
    assert other_runs(tmp_path / "mine") == f"; {tmp_path} holds theirs"

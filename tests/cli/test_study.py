"""Studies: a small grid is run, stopped, resumed and gathered; wrong studies and commands are one line."""

import importlib
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from full_spike.models import create_model
from full_spike.utils.errors import UsageError
from full_spike.utils.options import parse
from studies.blocks import by_block
from studies.gathering import gather, read_csv
from studies.grid import read_study
from studies.running import Runner
from support.command import ROOT

STUDY = [sys.executable, str(ROOT / "scripts/study.py")]
TINY = """
title: a small one
script: cifar.train
seeds: [0, 1]
options: {dataset: digits, stem: imagenet, width: 4, image_size: 16, epochs: 2, batch_size: 128, device: cpu}
rows:
  with: {model: dsnn18, neuron: IF, T: 2}
  plain: {model: resnet18}
labels: {with: the pathway}
after: {synops: [with], integer4: [with], blocks: [with]}
pairs: {what: [with, plain]}
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def study(*arguments):
    done = subprocess.run([*STUDY, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_grid_is_stopped_resumed_and_gathered(tiny, tmp_path):
    """SIGTERM while the first run trains; the same command then does all that is left, and nothing twice."""
    runs, results = tmp_path / "runs", tmp_path / "results"
    command = ["run", str(tiny), "--runs", str(runs), "--seed", "1"]
    log = runs / "tiny/with_seed1.log"
    process = subprocess.Popen([*STUDY, *command], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    deadline = time.monotonic() + 120
    while not (log.exists() and "beginning at epoch" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "stopped: the same command goes on" in process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert not (runs / "tiny/plain_seed1").exists()

    status, out, _ = study(*command, "--jobs", 2)
    assert (status, sorted(out.splitlines())) == (0, ["tiny: plain_seed1", "tiny: with_seed1"]), log.read_text()[-999:]
    printed = log.read_text()
    assert printed.count("epoch 2/2  loss") == 1
    assert study(*command)[:2] == (0, "")

    assert gather(read_study(tiny), runs, results) == 2
    lines = {line["row"]: line for line in read_csv(results / "tiny.csv")}
    assert lines.keys() == {"with", "plain"}
    said = re.search(r"epoch 2/2 .* test fsnn (\S+)  aap (\S+)  sum (\S+)", printed)
    assert [f"{lines['with'][f'final_{name}']:.2f}" for name in ("fsnn", "aap", "sum")] == list(said.groups())
    dual = create_model("dsnn18", stem="imagenet", width=4, in_channels=1, num_classes=10)
    assert lines["with"]["parameters"] == sum(p.numel() for p in dual.parameters())
    assert 0 < lines["with"]["detached_ac"] < lines["with"]["trained_ac"]
    assert 0 <= lines["with"]["integer4"] <= 100
    assert len(read_csv(results / "tiny_epochs.csv")) == 4
    blocks = read_csv(results / "tiny_blocks.csv")
    assert [(b["when"], b["block"]) for b in blocks] == [(w, str(i)) for w in ("start", "end") for i in range(1, 9)]

    kept = (results / "tiny.csv").read_bytes()
    assert gather(read_study(tiny), tmp_path / "elsewhere", results) == 0  # lines from another machine stay
    assert (results / "tiny.csv").read_bytes() == kept


def test_tasks_of_a_job_array_are_the_runs_of_the_list(tiny):
    status, out, _ = study("list", tiny)
    names = [f"tiny/{row}_seed{seed}" for seed in (0, 1) for row in ("with", "plain")]
    assert (status, [line.split()[1] for line in out.splitlines()]) == (0, names)
    assert study("list", "--task", 2, tiny)[1].split()[1:] == out.splitlines()[2].split()[1:]  # options before studies


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("title: a small one", "titel: x", "unexpected keyword argument 'titel'"),
        ("epochs: 2, ", "", "with needs a number of epochs"),
        ("labels: {with", "labels: {without", "names 'without', which is not one of with, plain"),
        ("synops: [with]", "synops: [without]", "names 'without'"),
        ("blocks: [with]", "shell: [with]", "names 'shell', which is not one of synops"),
        ("rows:", "rows: [", "is no study: while parsing"),
        ("seeds: [0, 1]", "seeds: 3", "seeds is 3, and must be list[int]"),
        ("title: a small one", "title: x\ndata: [a]", "data is ['a'], and must be str | None"),
        ("device: cpu}", "5: cpu}", "are no options: write `name: value`"),
        ("plain: {model: resnet18}", "plain: resnet18", "'resnet18' are no options"),
        ("epochs: 2", "epochs: two", "with needs a number of epochs"),
        ("synops: [with]", "synops: 3", "is no study"),
        ("what: [with, plain]", "what: [[with], plain]", "is no study"),
    ],
)
def test_a_wrong_study_is_one_line(tiny, right, wrong, message):
    assert right in TINY
    tiny.write_text(TINY.replace(right, wrong))
    with pytest.raises(UsageError, match=re.escape(message)) as found:
        read_study(tiny)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "say what to do"),
        ("run", "need studies"),
        ("list TINY --row none", "leave no run"),
        ("list TINY --task 4", "leave no run of 4"),
        ("list none.yaml", "none.yaml is no study: "),
        ("run studies/cifar10_joins.yaml", "--data cifar10=FOLDER is missing"),
        ("run TINY --data x", "write cifar10=~/data/cifar10"),
    ],
)
def test_a_wrong_command_is_one_line(tiny, arguments, message):
    status, _, err = study(*arguments.replace("TINY", str(tiny)).split())
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_run_that_fails_is_said_and_the_others_go_on(tiny, tmp_path):
    tiny.write_text(TINY.replace("neuron: IF", "lr: -1").replace("[0, 1]", "[0]").replace("epochs: 2", "epochs: 1"))
    (tmp_path / "runs/tiny/plain_seed0.log").mkdir(parents=True)  # where its log is to be
    ended = {run.name: problem for run, problem in Runner(tmp_path / "runs", {}, jobs=2).all(read_study(tiny).runs())}
    assert "train of with_seed0 ended with status 2" in ended["with_seed0"]
    assert "Is a directory" in ended["plain_seed0"]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_its_script_takes_every_run_of_a_study(path):
    for run in read_study(path).runs():
        module = importlib.import_module(run.study.script)
        parse(module.make_parser(), run.arguments("/data"))


def test_gradients_and_rates_of_a_block_by_hand():
    torch.manual_seed(0)
    model = create_model("dsnn18", width=4, num_classes=5, T=2, stem="cifar")
    images, classes = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = by_block(model, images, classes)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    spikes = []
    handle = model.layer2[1].register_forward_hook(lambda _, __, result: spikes.append(result[0]))
    loss = sum(torch.nn.functional.cross_entropy(x, classes) for x in model.train()(images))
    handle.remove()
    loss.backward()
    squares = sum((p.grad**2).sum() for p in model.layer2[1].parameters())
    assert found[3]["gradient_norm"] == pytest.approx(squares.sqrt().item(), rel=1e-5)
    assert found[3]["firing_rate"] == pytest.approx(spikes[0].mean().item(), rel=1e-6)
    assert len(found) == 8

"""Studies: real runs of a small grid, stopped and gone on with; statistics and tables against other sources."""

import csv
import importlib
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from full_spike.models import create_model
from full_spike.utils.errors import UsageError
from scipy import stats

from studies.blocks import by_block
from studies.gathering import gather, read_csv
from studies.grid import read_study
from studies.ran import Ran
from studies.running import Runner
from studies.statistics import paired, summary
from studies.tables import table

ROOT = Path(__file__).parent.parent
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
def test_a_grid_runs_is_stopped_goes_on_and_is_gathered(tiny, tmp_path):
    """SIGTERM while the first run trains; the same command then does all that is left, and nothing twice."""
    runs = tmp_path / "runs"
    command = [*STUDY, "run", str(tiny), "--runs", str(runs), "--seed", "1"]
    log = runs / "tiny/with_seed1.log"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (log.exists() and "beginning at epoch" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "stopped: the same command goes on" in process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert not (runs / "tiny/plain_seed1").exists()

    status, out, _ = study(*command[2:], "--jobs", 2)
    assert (status, sorted(out.splitlines())) == (0, ["tiny: plain_seed1", "tiny: with_seed1"])
    printed = log.read_text()
    assert printed.count("epoch 2/2  loss") == 1  # trained once
    assert study(*command[2:])[:2] == (0, "")  # nothing is left

    planned = read_study(tiny).runs()
    results = tmp_path / "results"
    assert gather(planned, runs, results) == 2
    lines = {line["row"]: line for line in read_csv(results / "tiny.csv")}
    assert lines.keys() == {"with", "plain"}
    said = re.search(r"epoch 2/2 .* test fsnn (\S+)  aap (\S+)  sum (\S+)", printed)
    assert [f"{lines['with'][f'final_{name}']:.2f}" for name in ("fsnn", "aap", "sum")] == list(said.groups())
    assert lines["with"]["parameters"] == sum(
        p.numel() for p in create_model("dsnn18", stem="imagenet", width=4, in_channels=1, num_classes=10).parameters()
    )
    totals = next(csv.DictReader((runs / "tiny/with_seed1/synops/synops.csv").open()))["network"]
    assert totals == "dsnn18 OR, AAP kept"
    assert 0 < lines["with"]["detached_ac"] < lines["with"]["trained_ac"]
    assert 0 <= lines["with"]["integer4"] <= 100
    assert len(read_csv(results / "tiny_epochs.csv")) == 4
    blocks = read_csv(results / "tiny_blocks.csv")
    assert [(b["when"], b["block"]) for b in blocks] == [(w, str(i)) for w in ("start", "end") for i in range(1, 9)]

    kept = (results / "tiny.csv").read_bytes()
    gather(planned, tmp_path / "elsewhere", results)  # lines of runs that are on another machine stay
    assert (results / "tiny.csv").read_bytes() == kept


def test_tasks_of_a_job_array_are_the_runs_of_the_list(tiny):
    status, out, _ = study("list", tiny)
    assert status == 0
    assert [line.split()[1] for line in out.splitlines()] == [
        f"tiny/{row}_seed{seed}" for seed in (0, 1) for row in ("with", "plain")
    ]
    assert [study("list", tiny, "--task", i)[1].split()[1:] for i in range(4)] == [
        line.split()[1:] for line in out.splitlines()
    ]
    assert [line.split()[1] for line in study("list", tiny, "--row", "plain", "--seed", "1")[1].splitlines()] == [
        "tiny/plain_seed1"
    ]


@pytest.mark.parametrize("order", ["OPTIONS list STUDY", "list OPTIONS STUDY", "list STUDY OPTIONS"])
def test_options_may_stand_before_the_studies_or_after_them(tiny, order):
    given = {"OPTIONS": ["--runs", "x", "--row", "plain", "--seed", "1"], "STUDY": [tiny, tiny]}
    status, out, err = study(*(part for word in order.split() for part in given.get(word, [word])))
    assert (status, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines()] == ["tiny/plain_seed1"] * 2


WRONG = {
    "title: a small one": ("titel: x", "'titel' is unknown"),
    "seeds: [0, 1]": ("seeds: [0, 0]", "whole numbers, each once"),
    "script: cifar.train": ("script: os.system", "choose one of cifar.train"),
    "  plain:": ("  ../plain:", "small letters, digits and underscores"),
    "epochs: 2, ": ("", "needs a number of epochs"),
    "labels: {with": ("labels: {without", "labels names 'without', which is no row"),
    "synops: [with]": ("synops: [without]", "names 'without', which is no row"),
    "blocks: [with]": ("shell: [with]", "after knows no 'shell'"),
    "what: [with, plain]": ("what: [with]", "pair what has 1 rows"),
}


@pytest.mark.parametrize("right", WRONG)
def test_a_wrong_study_is_one_line(tiny, right):
    wrong, message = WRONG[right]
    assert right in TINY
    tiny.write_text(TINY.replace(right, wrong))
    with pytest.raises(UsageError, match=re.escape(message)):
        read_study(tiny)


def test_wrong_commands_are_one_line(tiny):
    for arguments, message in {
        (): "say what to do",
        ("run",): "need studies",
        ("list", tiny, "--row", "none"): "choose from with, plain",
        ("list", tiny, "--seed", "7"): "has 0, 1",
        ("list", tiny, "--task", "4"): "there are 4 runs",
        ("run", ROOT / "studies/cifar10_joins.yaml"): "--data cifar10=FOLDER is missing",
        ("run", tiny, "--data", "x"): "write cifar10=~/data/cifar10",
    }.items():
        status, _, err = study(*arguments)
        assert status == 2
        assert message in err
        assert len(err.splitlines()) == 1


def test_a_run_that_fails_is_said_and_the_others_go_on(tiny, tmp_path):
    tiny.write_text(TINY.replace("neuron: IF", "neuron: NONE").replace("[0, 1]", "[0]"))
    runner = Runner(tmp_path / "runs", {}, jobs=2)
    ended = {run.name: wrong for run, wrong in runner.all(read_study(tiny).runs())}
    assert ended["plain_seed0"] is None
    assert "train of with_seed0 ended with status" in ended["with_seed0"]


def test_a_run_that_cannot_be_started_is_said(tiny, tmp_path):
    """Where its log is to be there is a folder; the study goes on and ends."""
    (tmp_path / "runs" / tiny.stem / "with_seed0.log").mkdir(parents=True)
    done = subprocess.run(
        [*STUDY, "run", tiny, "--runs", tmp_path / "runs", "--row", "with", "--seed", "0"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"with_seed0: .*Is a directory", done.stdout), done.stdout


def test_every_study_can_be_parsed_by_its_script():
    for path in sorted((ROOT / "studies").glob("*.yaml")):
        for run in read_study(path).runs():
            importlib.import_module(run.study.script).parser.parse(run.arguments("/data"))


def test_statistics_are_scipys():
    first, second = {0: 71.0, 1: 69.5, 2: 70.4, 5: 1.0}, {0: 70.2, 1: 69.9, 2: 68.8, 4: 2.0}
    values = [0.8, -0.4, 1.6]
    found = paired(first, second)
    test = stats.ttest_rel([71.0, 69.5, 70.4], [70.2, 69.9, 68.8])
    low, high = test.confidence_interval(0.95)
    assert found.n == 3
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.deviation == pytest.approx(torch.tensor(values).double().std().item())
    assert found.shown == (test.pvalue < 0.05)
    assert summary([3.0]).half is None
    assert (summary([3.0, 3.0]).shown, summary([3.0, 3.0, 3.0]).shown) == (None, True)
    with pytest.raises(ValueError, match="no values"):
        summary([])


def test_a_table_by_hand(tiny):
    lines = [
        {"row": "with", "seed": s, "final_fsnn": v, "final_aap": 60.0, "final_sum": 61.0, "parameters_detached": 1234}
        for s, v in ((0, 50.0), (1, 52.0))
    ] + [{"row": "plain", "seed": 0, "final_output": 49.0, "parameters_detached": 99}]
    text = table(Ran(read_study(tiny), lines))
    assert "| the pathway | `with` | 2 | 51.00 ± 1.41 | 60.00 ± 0.00 | 61.00 ± 0.00 | 1,234 |" in text
    assert "| plain | `plain` | 1 | 49.00 | - | - | 99 |" in text
    assert "| what | 1 | +1.00 (one seed: no interval) | open |" in text
    assert "| plain | `plain` | 0 | not run | - | - | - |" in table(Ran(read_study(tiny), lines[:2]))
    assert table(Ran(read_study(tiny), [])).startswith("*Not run.* a small one. ")


def test_energy_and_integers_in_a_table_by_hand(tiny):
    lines = [
        {"row": "with", "seed": s, "final_fsnn": 50.0, "final_sum": 51.0, "parameters_detached": 9, "detached_ac": 2e6,
         "detached_mac": 1e6, "detached_mj": 0.0064, "trained_mj": 0.011, "integer8": 49.0 + s, "integer8_floats": 50.0}
        for s in (0, 1)
    ] + [{"row": "plain", "seed": 0, "final_output": 49.0, "parameters_detached": 99, "detached_mj": 0.5,
          "trained_mj": 0.5}]  # fmt: skip
    text = table(Ran(read_study(tiny), lines))
    same = "2.000 ± 0.000 | 1.000 ± 0.000 | 6.40 ± 0.00 | 11.00 ± 0.00"
    head = "| both, % | parameters | AC, M | MAC, M | µJ an image | µJ with the pathway kept | integers, 8 bits, % |\n"
    assert head in text  # no column that no row fills
    assert f"| 50.00 ± 0.00 | 51.00 ± 0.00 | 9 | {same} | 49.50 ± 0.71 |" in text
    assert "| plain | `plain` | 1 | 49.00 | - | 99 | - | - | 500.00 | - | - |" in text
    low, high = stats.ttest_1samp([-1.0, 0.0], 0).confidence_interval(0.95)
    assert f"| integers of 8 bits against floats, the pathway | 2 | -0.50 [{low:+.2f}, {high:+.2f}] | open |" in text


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

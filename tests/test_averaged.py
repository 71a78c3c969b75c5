"""Averaged weights (--ema-decay) where --ema asks for them."""

import copy
import json

import pytest
import torch

from full_spike.utils import checkpoint
from support.command import TINY, only, succeed
from support.refusals import command
from support.short_runs import FOLDER

RUN = "--ema-decay 0.9 --epochs 2 --cos_lr_T 2"


@pytest.mark.parametrize(("options", "judged"), [((), "test"), (("--ema",), "ema")])
def test_the_best_checkpoint_is_that_of_the_weights_that_are_asked_for(tmp_path, options, judged):
    options = (*TINY, "--width", 8, "-b", 32, "--ema-decay", 0.98, "--epochs", 3, *options)
    succeed("cifar.train", *options, "--output-dir", tmp_path)
    entries = [json.loads(line) for line in (only(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    reached = {part: max(next(iter(entry[part].values()))["acc1"] for entry in entries) for part in ("test", "ema")}
    assert reached["test"] != pytest.approx(reached["ema"], abs=0.1)  # or nothing could be told
    assert checkpoint.read(only(tmp_path) / checkpoint.BEST)["max_test_acc1"] == pytest.approx(reached[judged])


def test_the_averaged_network_without_its_pathway(short_run, tmp_path):
    run = short_run(FOLDER, RUN, out=tmp_path)
    for option, part, prefix in ((), "model", ""), (("--ema",), "ema", "module."):
        succeed(FOLDER, *run.command, "--resume", "auto", "--test-only", "--detach", *option)
        saved = checkpoint.load(run.folder / "fsnn.pth")["model"]
        assert all(torch.equal(value, run.state[part][prefix + name]) for name, value in saved.items())
    assert not torch.equal(saved["conv1.weight"], run.state["model"]["conv1.weight"])


def test_counting_and_certifying_the_averaged_network(short_run, tmp_path):
    """Of a checkpoint whose averaged network never fires."""
    state = copy.deepcopy(short_run(FOLDER, RUN).state)
    for name, value in state["ema"].items():
        if value.ndim == 1 and name.endswith("bias") and "fc" not in name:
            value.fill_(-100.0)
    torch.save(state, tmp_path / "a.pth")
    arguments = ("--model", "dsnn18", "--checkpoint", tmp_path / "a.pth", "--images", 2)
    for options, silent in (((), False), (("--ema",), True)):
        done = command("utils.fullspike", *arguments, "--detach-aap", *options)
        assert done.status == 0, done.err
        assert ("no spike ever entered layer1.0.conv1" in done.out) == silent
        done = command("utils.synops", *arguments, "--no-syops", "--output", tmp_path / "report", *options)
        assert done.status == 0, done.err
        report = json.loads((tmp_path / "report" / "synops.json").read_text())
        assert (sum(layer["ac"] for layer in report["networks"][1]["layers"]) == 0) == silent

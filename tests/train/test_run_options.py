"""What each option does that leaves the weights of a run as they are."""

import csv
import ctypes
import json
import math
import platform
import re
import resource
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from full_spike.utils import checkpoint
from support import processes
from support.command import call, refused, succeed
from support.short_runs import EVENTS, FOLDER, IMAGENET, same_weights


def test_dataset(short_run):
    """Two readings of one folder."""
    line = refused(FOLDER, *short_run(FOLDER).command, "--overwrite", "--dataset", "cifar10", status=1)
    assert "does not hold cifar10" in line
    line = refused(EVENTS, *short_run(EVENTS).command, "--overwrite", "--dataset", "dvsgesture", status=1)
    assert "DvsGesture.tar.gz: fetch it from" in line


def test_workers(short_run):
    """As many processes are started to load training images, and as many to load test images."""
    forks = 0

    def count(event, _):
        nonlocal forks
        forks += event == "os.fork"

    alone = short_run(IMAGENET)
    sys.addaudithook(count)
    assert same_weights(short_run(IMAGENET, "-j 2"), alone)
    assert forks == 4
    short_run(IMAGENET, fresh=True)
    short_run(FOLDER, "-j 2")  # which is kept in memory
    assert forks == 4


def test_cache_dataset(short_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (short_run(FOLDER, "--cache-dataset", fresh=True) for _ in range(2))
    assert "from the list" not in first.text
    assert "from the list" in second.text
    assert same_weights(first, second)
    assert "from the list" not in short_run(FOLDER, fresh=True).text


@pytest.mark.parametrize("option", ["--val-resize-size 20", "--val-crop-size 12"])
def test_how_test_images_are_cut(short_run, option):
    one, other = short_run(IMAGENET), short_run(IMAGENET, option)
    assert same_weights(one, other)
    assert one.entries[0]["test"] != other.entries[0]["test"]


test_val_resize_size = test_val_crop_size = test_how_test_images_are_cut


def test_ema_decay(short_run):
    plain, averaged, slower = (short_run(FOLDER, option) for option in ("", "--ema-decay 0.5", "--ema-decay 0.9"))
    assert same_weights(plain, averaged)
    assert plain.state["ema"] is None
    assert "ema" not in plain.entries[0]
    assert averaged.entries[0]["ema"] != slower.entries[0]["ema"]


def test_output_dir(short_run, tmp_path):
    there = short_run(FOLDER, out=tmp_path / "there")
    assert there.folder.parent == tmp_path / "there"
    assert same_weights(there, short_run(FOLDER))


def test_start_epoch(short_run):
    """The first epoch's number, the learning rate of that epoch and its order of the images."""
    first, second = (
        short_run(FOLDER, f"--epochs 2 --lr-scheduler step --step-size 1 {x}") for x in ("", "--start-epoch 1")
    )
    assert [entry["epoch"] for entry in second.entries] == [1]
    assert second.entries[0]["lr"] == first.entries[1]["lr"] != first.entries[0]["lr"]


def test_checkpoint_every(short_run):
    """Inside the epoch, which has three steps; at its end a run saves before it tests and after that."""
    written = []

    def note(event, details):
        if event == "open" and str(details[0]).endswith(f"{checkpoint.LATEST}.partial") and "w" in (details[1] or ""):
            written.append(details[0])

    plain = short_run(FOLDER)
    sys.addaudithook(note)
    often = short_run(FOLDER, "--checkpoint-every 1")
    assert len(written) == 2 + 2
    assert checkpoint.read(often.folder / checkpoint.PREVIOUS)["step"] == 3
    assert same_weights(plain, often)


def scores(text):
    """The rows of the table that --test-only prints: loss by readout."""
    return {found[1]: float(found[2]) for found in re.finditer(r"(?m)^(\w+) +[\d.]+ +[\d.]+ +([\d.]+) +\d+$", text)}


def test_test_only(short_run):
    trained = short_run(FOLDER)
    before = {path: path.read_bytes() for path in trained.folder.iterdir()}
    text = succeed(FOLDER, *trained.command, "--resume", "auto", "--test-only", "--epochs", 5, "--cos_lr_T", 1)
    losses = {name: score["loss"] for name, score in trained.entries[0]["test"].items()}
    assert scores(text) == pytest.approx(losses, abs=1e-4)
    assert {path: path.read_bytes() for path in trained.folder.iterdir()} == before


def test_ema(short_run):
    trained = short_run(FOLDER, "--ema-decay 0.5")
    command = (FOLDER, *trained.command, "--resume", "auto", "--test-only")
    for option, part in (("", "test"), ("--ema", "ema")):
        losses = {name: score["loss"] for name, score in trained.entries[0][part].items()}
        assert scores(succeed(*command, *option.split())) == pytest.approx(losses, abs=1e-4)
    assert trained.entries[0]["test"] != trained.entries[0]["ema"]


def test_predictions(short_run, tmp_path):
    """The table says of each image what the scores say of all."""
    trained = short_run(FOLDER)
    path = tmp_path / "tables" / "predictions.csv"
    command = (FOLDER, *trained.command, "--resume", "auto", "--test-only", "--predictions", path)
    text = succeed(*command)
    assert f"wrote {path}" in text
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * trained.entries[0]["test"]["fsnn"]["count"]
    for name, score in trained.entries[0]["test"].items():
        mine = [row for row in rows if row["readout"] == name]
        assert 100 * sum(row["class"] == row["top1"] for row in mine) / len(mine) == pytest.approx(score["acc1"])
        losses = [-math.log(float(row[f"p{1 if row['class'] == row['top1'] else 2}"])) for row in mine]  # of 2 classes
        assert sum(losses) / len(losses) == pytest.approx(score["loss"], abs=1e-4)
    assert all(Path(row["path"]).parent.name == row["class"] for row in rows)


def test_products(short_run, tmp_path):
    """Additions of attention's first product at 16 tokens and 8 channels a head: 16 for each spike of Q, 8 of K."""
    network = "--model fs_spikformer_4_384 --width 16 --heads 2 --depth 1 --patch 2 --neuron IF --lr 0 -b 2 --epochs 6"
    for products, second in (("qk", 16), ("kv", 8)):
        out = tmp_path / products
        trained = short_run(FOLDER, f"{network} --products {products}", out=out)
        succeed(FOLDER, *trained.command, *"--resume auto --test-only --synops --no-syops".split())
        report = json.loads(next(trained.folder.rglob("synops.json")).read_text())
        rows = {row["name"]: row for row in report["networks"][0]["layers"]}
        gate = rows["block.0.attn.product1"]
        assert gate["ac"] == pytest.approx(gate["rate"] * 2 * 16 * 16 * second)
        assert gate["ac"] > 0


def test_print_freq(short_run):
    counts = [len(re.findall(r"(?m)^epoch 1/1 +\d/3 ", short_run(FOLDER, f"--print-freq {n}").text)) for n in (1, 2, 4)]
    assert counts == [3, 1, 0]


def test_a_schedule_that_climbs_again_is_told(short_run):
    """As the released cosine does after --cos_lr_T epochs."""
    once, again = (short_run(FOLDER, f"--epochs 3 --cos_lr_T {period}") for period in (3, 1))
    assert "climbs again" not in once.text
    assert "warning: --cos_lr_T 1 ends before --epochs 3: the learning rate climbs again" in again.text
    assert again.entries[2]["lr"] > again.entries[1]["lr"]


def test_tb(short_run):
    plain, logged = short_run(FOLDER), short_run(FOLDER, "--tb")
    assert not plain.folder.with_name(f"{plain.folder.name}_logs").exists()
    assert list(logged.folder.with_name(f"{logged.folder.name}_logs").glob("te/events.out.tfevents.*"))
    assert "firing_rate" in logged.entries[0]
    assert "firing_rate" not in plain.entries[0]


def test_a_run_made_longer(short_run, tmp_path):
    """The old schedule goes on, with a warning, or the option plans it again over the epochs that are left."""
    two = "--epochs 2 --lr 0.1 --print-freq 1"

    def rates(out, options):
        outcome = short_run(FOLDER, f"{two} {options} --name run", out=tmp_path / out)
        return outcome.text, [entry["lr"] for entry in outcome.entries]

    for out in ("old", "new"):
        assert rates(out, "")[1] == pytest.approx([0.1, 0.05])
    text, lr = rates("old", "--epochs 4 --resume auto")
    assert "the learning rate follows the schedule of 2 epochs" in text
    assert lr[2:] == pytest.approx([0.0, 0.05], abs=1e-9)
    longer = "--epochs 4 --resume auto --new-schedule"
    text, lr = rates("new", longer)
    assert "follows the schedule" not in text
    assert lr == pytest.approx([0.1, 0.05, 0.1, 0.05])
    assert rates("new", longer)[1] == lr  # nothing is left to plan
    text, lr = rates("new", longer.replace("4", "8") + " --warmup-epochs 0")
    assert lr[4:] == pytest.approx([0.05 * (1 + math.cos(math.pi * t / 4)) for t in range(4)])


def faults_after(command):
    """Page faults of taking a large block again and again, once a run has ended; without transparent huge pages."""
    assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0  # PR_SET_THP_DISABLE
    assert call(FOLDER, *command).returncode == 0
    for _ in range(30):
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_keep_memory(short_run, tmp_path):
    """What a run leaves its process with."""
    command = (*short_run(FOLDER).command, "--overwrite")
    shares = []
    for option in ((), ("--no-keep-memory",)):
        log = tmp_path / "".join(("log", *option))
        process = processes.start(partial(faults_after, (*command, *option)), log=log)
        process.join(120)
        assert process.exitcode == 0, log.read_text()
        shares.append(int(log.read_text()) * resource.getpagesize() / 2**26)
    assert shares[0] < 0.01
    assert shares[1] > 0.9
    assert same_weights(short_run(FOLDER), short_run(FOLDER, "--no-keep-memory"))


def test_compile(short_run):
    """Compiling is begun, and refused here because it takes minutes; test_steps.py compiles a smaller network."""
    command = (FOLDER, *short_run(FOLDER).command, "--overwrite")
    with torch.compiler.set_stance("fail_on_recompile"):
        succeed(*command)
        with pytest.raises(RuntimeError, match="fail_on_recompile"):
            call(*command, "--compile")


def test_memory_saving(short_run):
    """Some convolutions are computed twice, and nothing changes."""

    def convolutions(option):
        calls = 0

        def count(module, *_):
            nonlocal calls
            calls += isinstance(module, nn.Conv2d)

        handle = nn.modules.module.register_module_forward_hook(count)
        outcome = short_run(FOLDER, option, fresh=True)
        handle.remove()
        return calls, outcome

    (plain, outcome), (saving, same) = convolutions(""), convolutions("--memory-saving")
    assert plain < saving < 2 * plain
    assert same_weights(outcome, same)

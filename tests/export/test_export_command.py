"""The export command: what it writes and says, what it refuses, and what is left where it was stopped."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from full_spike.models import create_model, detach_aap
from full_spike.utils.checkpoints import checkpoint
from full_spike.utils.errors import run_command
from full_spike.utils.export import main
from full_spike.utils.export.compare import model_spikes
from full_spike.utils.export.onnx import OnnxRuntime
from full_spike.utils.export.run import Runner
from full_spike.utils.export.saved import read_integer
from support import processes
from support.command import TINY, only, succeed
from support.fill import published_state
from support.images import image_tree
from support.refusals import command, snapshot
from torchvision.transforms.v2.functional import resize

from full_spike import exact

EXPORT = "full_spike.utils.export"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    succeed("full_spike.cifar.train", *TINY, "--epochs", 2, "--neuron", "IF", "--stem", "cifar", "--output-dir", folder)
    return only(folder, "digits*") / "checkpoint_latest.pth"


def exported(trained, folder, *args, to="integer"):
    """comparison.json of an export, what was printed, and the folder."""
    out = folder / f"out{len(list(folder.iterdir()))}"
    done = command(EXPORT, "--checkpoint", trained, "--to", to, "--output", out, "--images", 40, *args)
    assert done.status == 0, done.err
    return json.loads((out / "comparison.json").read_text()), done.out, out


@pytest.mark.parametrize(
    ("to", "files"),
    [
        ("integer", ["integer.pth"]),
        ("onnx", ["model.onnx"]),
        ("nir", ["model.nir"]),
        ("c", ["classify.c", "classify.h"]),
    ],
)
def test_the_command_writes_runs_and_compares(trained, tmp_path, to, files):
    found, said, out = exported(trained, tmp_path, to=to)
    assert found["same"]
    assert found["images"] == 40
    assert {layer["exported"] for layer in found["layers"]} == {0}
    assert f"saved {out}" in said
    assert "images a second" in said
    assert sorted(path.name for path in out.iterdir()) == sorted([*files, "comparison.json"])


def test_options_of_the_command(trained, tmp_path):
    plain, _, folder = exported(trained, tmp_path)
    bits, _, _ = exported(trained, tmp_path, "--bits", 4)
    assert plain["facts"]["weights"].startswith("8 bits")
    assert bits["facts"]["weights"].startswith("4 bits; membranes with 4 fraction bits")
    tuned, said, _ = exported(trained, tmp_path, "--bits", 4, "--finetune", 1)
    (loss,) = re.findall(r"fine-tuning with 4-bit weights, epoch 1/1: loss ([\d.]+)", said)
    slower, slower_said, _ = exported(trained, tmp_path, "--bits", 4, "--finetune", 1, "--lr", 0.001)
    assert f"loss {loss}" not in slower_said
    assert tuned["layers"] != bits["layers"] != slower["layers"]
    few, _, _ = exported(trained, tmp_path, "--calibrate", 1)
    assert few["layers"] != plain["layers"]
    half, _, _ = exported(trained, tmp_path, "--batch-size", 7)
    assert half["layers"] == plain["layers"]
    larger, _, _ = exported(trained, tmp_path, "--data-option", "image_size=12")
    assert larger["layers"][0]["neurons"] > plain["layers"][0]["neurons"]
    integer, _, out = exported(trained, tmp_path, "--bits", 8, to="onnx")
    assert integer["logits_exported"] == 0.0
    assert (out / "model.onnx").stat().st_size < (folder / "integer.pth").stat().st_size * 4


def test_the_differences_that_are_reported_are_there(trained, tmp_path):
    """Those of the integers from the trained network, counted here once more, on all test images."""
    from full_spike.utils.data.digits import load_digits

    done = command(EXPORT, "--checkpoint", trained, "--to", "integer", "--output", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    content = checkpoint.load(trained)
    model = create_model(**content["config"])
    model.load_state_dict(content["model"])
    model = detach_aap(model).eval()
    scans, classes = (torch.as_tensor(values) for values in load_digits(train=False))
    x = (resize(scans[:, None].float(), [8, 8]) / 16.0 - 0.3054) / 0.3761
    assert len(x) == found["images"] == 360
    spikes, logits = Runner(read_integer(tmp_path / "out" / "integer.pth").graph).spikes(x)
    ours, our_logits = model_spikes(model, list(spikes), x)
    differing = {name: int((ours[name] != spikes[name]).sum()) for name in spikes}
    assert {layer["name"]: layer["original"] for layer in found["layers"]} == differing
    assert sum(differing.values()) > 0
    assert found["classes_original"] == int((logits.argmax(1) != our_logits.argmax(1)).sum())
    assert found["right_original"] == int((our_logits.argmax(1) == classes).sum())
    assert found["right_runtime"] == int((logits.argmax(1) == classes).sum())
    assert f"{sum(logits.argmax(1) == classes) / 3.6:.2f} % on torch, in integers" in done.out


def test_a_published_checkpoint_fires_the_spikes_of_its_weights(tmp_path):
    state = published_state("dsnn18")  # the release's names, with the pathway's projections inside the blocks
    torch.save({"model": state}, tmp_path / "published.pth")
    image_tree(tmp_path / "images", [f"class{k}" for k in range(10)], count=1)
    done = command(
        EXPORT, "--checkpoint", tmp_path / "published.pth", "--to", "onnx", "--output", tmp_path / "out",
        "--model", "dsnn18", "--option", "stem=imagenet", "--option", "connect_f=IAND", "--num-classes", 10,
        "--data-set", "cifar", "--data", tmp_path / "images", "--data-option", "image_size=32",
    )  # fmt: skip
    assert done.status == 0, done.err
    model = create_model("fsnn18", num_classes=10, connect_f="IAND").eval()
    model.load_state_dict({name: state[name] for name in model.state_dict()})  # whose names are the release's
    runner = exact(model, (32, 32))
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    spikes, logits = runner.spikes(x)
    theirs, their_logits = OnnxRuntime(tmp_path / "out", runner.graph).spikes(x)
    assert all(torch.equal(theirs[name], layer) for name, layer in spikes.items())
    assert float(spikes["layer4.1.join"].mean()) > 0.01
    torch.testing.assert_close(their_logits, logits)


REFUSED = {
    "nothing trained": ("--to onnx", "there is no --checkpoint"),
    "a folder that is there": ("--checkpoint {trained} --to onnx --output {there}", "is there already"),
    "NIR with bits": ("--checkpoint {trained} --to nir --bits 8", "NIR holds floats"),
    "fine-tuned floats": ("--checkpoint {trained} --to onnx --finetune 1", "is for integer weights"),
    "a GPU": ("--checkpoint {trained} --to onnx --device cuda", "on the CPU; leave it out"),
    "another data set": (
        "--checkpoint {trained} --to c --data-set cifar --data {images}",
        "in_channels=1 and the data",
    ),
    "no data set": ("--checkpoint {trained} --to c --data-set nowhere", "there is no nowhere/data.py"),
    "an option of others": ("--checkpoint {trained} --to c --data-option side=3", "is no option of cifar"),
    "half a checkpoint": ("--checkpoint {half} --to c", "damaged"),
    "data that the checkpoint does not name": ("--checkpoint {mute} --to c", "does not say which data"),
    "sums": ("--checkpoint {sums} --to c", "layer1.0.join adds, so .* is not full-spike"),
}


@pytest.fixture(scope="module")
def refused_files(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    (folder / "there").mkdir()
    (folder / "half.pth").write_bytes(trained.read_bytes()[:5000])
    model = create_model("sew_resnet18", width=2, stem="cifar", num_classes=10, in_channels=1, T=2)
    for name, more in (("sums", {"data_set": "cifar"}), ("mute", {})):
        checkpoint.write(folder / f"{name}.pth", {"config": model.config, "model": model.state_dict(), **more})
    names = {name: folder / f"{name}.pth" for name in ("half", "sums", "mute")}
    return folder, {**names, "trained": trained, "there": folder / "there", "images": image_tree(folder / "images")}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(refused_files, what):
    folder, names = refused_files
    line, message = REFUSED[what]
    before = snapshot(folder)
    done = command(EXPORT, "--output", folder / "new", *line.format(**names).split())
    assert done.status in (1, 2), done.out
    (said,) = done.err.splitlines()
    assert re.search(f"^error: .*{message}", said), said
    assert snapshot(folder) == before


def stopped_at(event, name, number, args):
    """An export that sends itself a signal as soon as a file or folder of this name is to be opened or renamed."""
    moments = iter([number])

    def watch(kind, details):
        if kind == event and str(details[0]).endswith(name) and (kind != "open" or "w" in (details[1] or "")):
            for number in moments:
                os.kill(os.getpid(), number)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background inherits as ignored
    sys.addaudithook(watch)
    return run_command(partial(main, args))


@pytest.mark.parametrize(("event", "name"), [("open", "classify.c"), ("os.rename", "out.partial")])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_an_export_that_is_stopped_leaves_nothing_half(trained, tmp_path, event, name, number, status):
    out = tmp_path / "exports" / "out"
    args = [str(a) for a in ("--checkpoint", trained, "--to", "c", "--output", out, "--images", 4)]
    process = processes.start(stopped_at, event, name, number, args, log=tmp_path / "log")
    process.join(120)
    log = (tmp_path / "log").read_text()
    assert process.exitcode == status, log
    if status == 130:
        assert log == "error: interrupted\n"
        assert list(out.parent.iterdir()) == []
        return
    assert [path.name for path in out.parent.iterdir()] == ["out.partial"]  # which the next one takes away
    done = command(EXPORT, *args)
    assert done.status == 0, done.err
    assert list(out.parent.iterdir()) == [out]
    assert sorted(path.name for path in out.iterdir()) == ["classify.c", "classify.h", "comparison.json"]


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; sys.argv.append('--help')\nimport runpy\ntry:\n    runpy.run_module('full_spike.utils.export')\n"
    )
    code += "except SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

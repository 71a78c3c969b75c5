"""The export command: what it writes and says, and what it refuses."""

import json
import re
import resource
import subprocess
import sys
import time

import pytest
import torch
from torchvision.transforms.v2.functional import resize

from full_spike.models import create_model, detach_aap
from full_spike.utils import checkpoint
from full_spike.utils.export.compare import model_spikes
from full_spike.utils.export.run import Runner
from full_spike.utils.export.saved import read_integer
from support.command import ROOT, TINY, only, succeed
from support.images import image_tree
from support.refusals import command, snapshot

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
    plain, _, _ = exported(trained, tmp_path)
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
    integer, _, _ = exported(trained, tmp_path, "--bits", 8, to="onnx")
    assert integer["logits_exported"] == 0.0


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


REFUSED = {
    "nothing trained": ("--to onnx", "there is no --checkpoint"),
    "a folder that is there": ("--checkpoint {trained} --to onnx --output {there}", "is there already"),
    "NIR with bits": ("--checkpoint {trained} --to nir --bits 8", "NIR holds floats"),
    "fine-tuned floats": ("--checkpoint {trained} --to onnx --finetune 1", "is for integer weights"),
    "another data set": (
        "--checkpoint {trained} --to c --data-set cifar --data {images}",
        "in_channels=1 and the data",
    ),
    "an option of data that nobody names": ("--checkpoint {mute} --to c --data-option a=b", "does not say which data"),
    "an opset that is too old": (
        "--checkpoint {trained} --to onnx --opset 17",
        "opset 17 is out of range: this needs 18",
    ),
    "C's names for ONNX": ("--checkpoint {trained} --to onnx --prefix a", "--prefix a is of --to c"),
    "no name of C": ("--checkpoint {trained} --to c --prefix 1x", "--prefix 1x is no name of C"),
    "training without data": ("--checkpoint cifar10/dsnn18 --to c --finetune 1", "needs the training images"),
    "a link to nowhere": ("--checkpoint {trained} --to c --output {link}", "is there already"),
    "sums": ("--checkpoint {sums} --to c", "layer1.0.join adds, so .* cannot become"),
}


@pytest.fixture(scope="module")
def refused_files(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    (folder / "there").mkdir()
    (folder / "link").symlink_to(folder / "nowhere")
    model = create_model("sew_resnet18", width=2, stem="cifar", num_classes=10, in_channels=1, T=2)
    for name, more in (("sums", {"data_set": "cifar"}), ("mute", {})):
        checkpoint.write(folder / f"{name}.pth", {"config": model.config, "model": model.state_dict(), **more})
    names = {name: folder / f"{name}.pth" for name in ("sums", "mute")}
    return folder, {
        **names,
        "trained": trained,
        "there": folder / "there",
        "link": folder / "link",
        "images": image_tree(folder / "images"),
    }


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


@pytest.mark.parametrize("to", ["integer", "onnx", "nir", "c"])
def test_a_full_disk_is_one_line_and_leaves_nothing(trained, tmp_path, to):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        done = command(EXPORT, "--checkpoint", trained, "--to", to, "--output", tmp_path / "out", "--images", 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.status == 1
    (line,) = done.err.splitlines()
    assert re.search("^error: .*File too large", line), line
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_export_leaves_nothing(trained, tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, "-m", EXPORT, "--checkpoint", trained, "--to", "nir", "--output", out, "--calibrate", 4000]
    process = subprocess.Popen([*map(str, words)], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not (tmp_path / "out.partial").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75, said
    assert "stopped: asked to stop by SIGTERM" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["onnx", "c"])
def test_without_data_it_is_compared_on_photographs(tmp_path, to):
    done = command(EXPORT, "--checkpoint", "cifar10/fsnn18", "--to", to, "--output", tmp_path / "out", "--images", 4)
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["facts"]["compared on"].startswith("pieces of scikit-learn's two photographs, for want of --data")
    assert found["same"]
    assert "accuracy" not in done.out


@pytest.mark.parametrize("to", ["integer", "onnx", "c"])
def test_networks_read_what_they_were_trained_on(tmp_path_factory, tmp_path, to):
    """Those made for events still images, and those made for images the frames of events."""
    tiny = ("--width", 2, "--T", 2, "-b", 64, "-j", 0, "--device", "cpu", "--epochs", 1, "--neuron", "IF")
    runs = tmp_path_factory.getbasetemp() / "read"
    for script, model, *options in (
        ("cifar", "fsnn_7b", "--image-size", 8), ("dvsgesture", "fsnn18", "--frame-size", 8, "--T-train", 2)
    ):  # fmt: skip
        if not (runs / model).exists():
            name = ("--output-dir", runs, "--name", model)
            succeed(f"full_spike.{script}.train", "--model", model, *options, *tiny, *name)
        out = tmp_path / model
        words = ("--checkpoint", runs / model / "checkpoint_latest.pth", "--to", to, "--output", out, "--images", 8)
        done = command(EXPORT, *words, "--calibrate", 16)
        assert done.status == 0, done.err
        assert json.loads((out / "comparison.json").read_text())["same"]

"""The export command: what it writes and says, and what it refuses."""

import json
import re

import pytest
import torch
from torchvision.transforms.v2.functional import resize

from full_spike.models import create_model, detach_aap
from full_spike.utils import checkpoint
from full_spike.utils.export.compare import model_spikes
from full_spike.utils.export.run import Runner
from full_spike.utils.export.saved import read_integer
from support.command import TINY, only, succeed
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
    "data that the checkpoint does not name": ("--checkpoint {mute} --to c", "does not say which data"),
    "sums": ("--checkpoint {sums} --to c", "layer1.0.join adds, so .* cannot become"),
}


@pytest.fixture(scope="module")
def refused_files(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    (folder / "there").mkdir()
    model = create_model("sew_resnet18", width=2, stem="cifar", num_classes=10, in_channels=1, T=2)
    for name, more in (("sums", {"data_set": "cifar"}), ("mute", {})):
        checkpoint.write(folder / f"{name}.pth", {"config": model.config, "model": model.state_dict(), **more})
    names = {name: folder / f"{name}.pth" for name in ("sums", "mute")}
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


def test_a_failing_write_leaves_nothing(trained, tmp_path, monkeypatch):
    def fail(_graph):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("full_spike.utils.export.c._Layers", fail)
    done = command(EXPORT, "--checkpoint", trained, "--to", "c", "--output", tmp_path / "out")
    assert done.status == 1
    assert list(tmp_path.iterdir()) == []

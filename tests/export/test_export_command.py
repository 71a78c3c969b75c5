"""`utils.export`: what it writes and says, what it refuses, and what is left where it was stopped."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from full_spike.cifar.options import ImageOptions
from full_spike.models import create_model, detach_aap, graph
from full_spike.utils.checkpoints import checkpoint
from full_spike.utils.distributed import World
from full_spike.utils.errors import run_command
from full_spike.utils.export.compare import compare, model_spikes
from full_spike.utils.export.runtimes import OnnxRuntime
from support import processes
from support.command import TINY, only, succeed
from support.deployed import digits, network
from support.fill import published_state
from support.images import image_tree
from support.refusals import command, snapshot


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    succeed("cifar.train", *TINY, "--epochs", 2, "--neuron", "IF", "--stem", "cifar", "--output-dir", folder)
    return only(folder, "digits*") / "checkpoint_latest.pth"


def exported(trained, folder, *args, to="integer"):
    """comparison.json of an export, and what was printed."""
    out = folder / f"out{len(list(folder.iterdir()))}"
    done = command("utils.export", "--checkpoint", trained, "--to", to, "--output", out, "--images", 40, *args)
    assert done.status == 0, done.err
    return json.loads((out / "comparison.json").read_text()), done.out, out


@pytest.mark.parametrize("to", ["integer", "onnx", "nir", "c"])
def test_the_command_writes_runs_and_compares(trained, tmp_path, to):
    found, said, out = exported(trained, tmp_path, to=to)
    assert found["same"]
    assert found["images"] == 40
    assert {layer["exported"] for layer in found["layers"]} == {0}
    assert f"saved {out}" in said
    assert "images a second" in said
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*found["facts"].keys() & {p.name for p in out.iterdir()}, "comparison.json"]
    )


def test_options_of_the_command(trained, tmp_path):
    plain, _, folder = exported(trained, tmp_path)
    bits, _, _ = exported(trained, tmp_path, "--bits", 4)
    assert plain["facts"]["weights"].startswith("8 bits")
    assert bits["facts"]["weights"].startswith("4 bits; membranes with 4 fraction bits")
    tuned, said, _ = exported(trained, tmp_path, "--bits", 4, "--finetune", 1)
    assert "fine-tuning with 4-bit weights, epoch 1/1: loss" in said
    slower, slower_said, _ = exported(trained, tmp_path, "--bits", 4, "--finetune", 1, "--lr", 0.001)
    assert [line for line in said.splitlines() if "loss" in line] != [
        line for line in slower_said.splitlines() if "loss" in line
    ]
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
    done = command("utils.export", "--checkpoint", trained, "--to", "integer", "--output", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    content = checkpoint.load(trained)
    model = create_model(**content["config"])
    model.load_state_dict(content["model"])
    model = detach_aap(model).eval()
    data = cifar.data.load(ImageOptions(image_size=8), World(), model.T).test
    x, classes = torch.stack([image for image, _ in data]), torch.tensor([target for _, target in data])
    assert len(x) == found["images"] == 360
    whole = graph.Runner(graph.from_plain(checkpoint.load(tmp_path / "out" / "integer.pth")["graph"]))
    spikes, logits = whole.spikes(x)
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
    classes = [f"class{k}" for k in range(10)]
    image_tree(tmp_path / "images", classes, count=1)
    done = command(
        "utils.export", "--checkpoint", tmp_path / "published.pth", "--to", "onnx", "--output", tmp_path / "out",
        "--model", "dsnn18", "--option", "stem=imagenet", "--option", "connect_f=IAND", "--num-classes", 10,
        "--data-set", "cifar", "--data", tmp_path / "images", "--data-option", "image_size=32",
    )  # fmt: skip
    assert done.status == 0, done.err
    model = create_model("fsnn18", num_classes=10, connect_f="IAND").eval()
    model.load_state_dict({name: state[name] for name in model.state_dict()})  # whose names are the release's
    runner = graph.exact(model, (32, 32))
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    spikes, logits = runner.spikes(x)
    theirs, their_logits = OnnxRuntime(tmp_path / "out" / "model.onnx", runner.graph).spikes(x)
    assert all(torch.equal(theirs[name], layer) for name, layer in spikes.items())
    assert float(spikes["layer4.1.join"].mean()) > 0.01
    torch.testing.assert_close(their_logits, logits)


REFUSED = {
    "nothing trained": ("--to onnx --output {out}", "there is no --checkpoint"),
    "a folder that is there": ("--checkpoint {trained} --to onnx --output {there}", "is there already"),
    "NIR with bits": ("--checkpoint {trained} --to nir --bits 8 --output {out}", "NIR holds floats"),
    "fine-tuned floats": ("--checkpoint {trained} --to onnx --finetune 1 --output {out}", "is for integer weights"),
    "a GPU": ("--checkpoint {trained} --to onnx --device cuda --output {out}", "on the CPU; leave it out"),
    "another data set": (
        "--checkpoint {trained} --to c --data-set cifar --data {images} --output {out}",
        "in_channels=1 and the data set 3",
    ),
    "no data set": ("--checkpoint {trained} --to c --data-set nowhere --output {out}", "there is no nowhere/data.py"),
    "an option of others": (
        "--checkpoint {trained} --to c --data-option side=3 --output {out}",
        "is no option of cifar",
    ),
    "an option out of range": (
        "--checkpoint {trained} --to c --data-option image_size=0 --output {out}",
        "0 is below 1",
    ),
    "a hostile checkpoint": ("--checkpoint {hostile} --to c --output {out}", "could run code"),
    "half a checkpoint": ("--checkpoint {half} --to c --output {out}", "damaged"),
    "data that the checkpoint does not name": (
        "--checkpoint {mute} --to c --output {out}",
        "mute.pth does not say which data it was trained on: name .* by --data-set",
    ),
    "data that are not ours": (
        "--checkpoint {elsewhere} --to c --output {out}",
        r"elsewhere.pth was trained on data of os\\n: name .* by --data-set",
    ),
    "sums": ("--checkpoint {sums} --to c --output {out}", "layer1.0.join adds, so .* is not full-spike"),
}


@pytest.fixture(scope="module")
def refused_files(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    (folder / "there").mkdir()
    torch.save({"model": subprocess.run}, folder / "hostile.pth")
    (folder / "half.pth").write_bytes(trained.read_bytes()[:5000])
    model = create_model("sew_resnet18", width=2, stem="cifar", num_classes=10, in_channels=1, T=2)
    for name, about in (("sums", {"data_set": "cifar"}), ("mute", {}), ("elsewhere", {"data_set": "os\n"})):
        checkpoint.write(folder / f"{name}.pth", {"config": model.config, "model": model.state_dict(), **about})
    names = {name: folder / f"{name}.pth" for name in ("hostile", "half", "sums", "mute", "elsewhere")}
    return folder, {
        **names,
        "trained": trained,
        "there": folder / "there",
        "out": folder / "out",
        "images": image_tree(folder / "images", count=2),
    }


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(refused_files, what):
    folder, names = refused_files
    line, message = REFUSED[what]
    before = snapshot(folder)
    done = command("utils.export", *line.format(**names).split())
    assert done.status in (1, 2), done.out
    (said,) = done.err.splitlines()
    assert re.search(f"^error: .*{message}", said), said
    assert snapshot(folder) == before
    assert not (folder / "out").exists()


def test_other_logits_are_seen_where_no_class_differs():
    """Also of a way that is taken where nobody asks for spikes."""
    model = network("fsnn18", "OR")
    runner = graph.quantize(model, [digits(4)])
    batches = [(digits(6), torch.zeros(6))]
    for logits, same in ((runner, True), (lambda x: runner(x) + 1, False)):
        runtime = SimpleNamespace(spikes=runner.spikes, logits=logits)
        found = compare(model, runner, runtime, batches)
        assert (found.same, found.classes_exported) == (same, 0)


def test_a_failing_write_leaves_nothing(trained, tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.export.targets.write_c", fail)
    done = command("utils.export", "--checkpoint", trained, "--to", "c", "--output", tmp_path / "out")
    assert done.status == 1
    assert list(tmp_path.iterdir()) == []


def stopped_at(event, name, stop, args):
    """An export in which `stop` is called as soon as a file or folder of this name is about to be opened or renamed."""
    moments = iter([stop])

    def watch(kind, details):
        if kind == event and str(details[0]).endswith(name) and (kind != "open" or "w" in (details[1] or "")):
            next(moments, lambda: None)()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background inherits as ignored
    sys.addaudithook(watch)
    return run_command(lambda: utils.export.main(args))


def send(number):
    os.kill(os.getpid(), number)


def write_only(size):
    """The kernel ends a process that makes a file larger than this."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


STOPPED = {
    "killed as it begins to write": ("open", "classify.c", partial(send, signal.SIGKILL), -signal.SIGKILL),
    "killed within a file": ("open", "classify.c", partial(write_only, 5000), -signal.SIGXFSZ),
    "killed at the end": ("os.rename", "out.partial", partial(send, signal.SIGKILL), -signal.SIGKILL),
    "interrupted while it writes": ("open", "classify.c", partial(send, signal.SIGINT), 130),
    "interrupted at the end": ("os.rename", "out.partial", partial(send, signal.SIGINT), 130),
}


@pytest.mark.parametrize("how", list(STOPPED))
def test_an_export_that_is_stopped_leaves_nothing_half(trained, tmp_path, how):
    *moment, status = STOPPED[how]
    out = tmp_path / "exports" / "out"
    args = [str(a) for a in ("--checkpoint", trained, "--to", "c", "--output", out, "--images", 4)]
    process = processes.start(stopped_at, *moment, args, log=tmp_path / "log")
    process.join(120)
    log = (tmp_path / "log").read_text()
    assert process.exitcode == status, log
    assert not out.exists()
    if status == 130:
        assert log == "error: interrupted\n"
        assert list(out.parent.iterdir()) == []
        return
    assert [path.name for path in out.parent.iterdir()] == ["out.partial"]  # which the next one takes away
    done = command("utils.export", *args)
    assert done.status == 0, done.err
    assert list(out.parent.iterdir()) == [out]
    assert sorted(path.name for path in out.iterdir()) == ["classify.c", "classify.h", "comparison.json"]
    assert json.loads((out / "comparison.json").read_text())["same"]

"""Counting networks side by side: the report, its files, and the command."""

import csv
import doctest
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from full_spike.models import create_model, model_options
from full_spike.utils.errors import UserError
from full_spike.utils.measure.synops import count, plain_resnet, write_report
from full_spike.utils.trained import random_inputs, set_norms
from support.refusals import command

ROOT = Path(__file__).parents[2]


def small(name="dsnn18", **options):
    torch.manual_seed(0)
    stem = {"stem": "cifar"} if "stem" in model_options(name) else {}
    model = create_model(name, **{"num_classes": 5, "T": 2, "width": 8, **stem, **options})
    set_norms(model, random_inputs(model, 4, 16))
    return model


def loader(frames=False, images=5):
    x = torch.randn(images, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batches = DataLoader(TensorDataset(x, torch.zeros(images)), batch_size=3)
    return [(x.expand(4, -1, -1, -1, -1), y) for x, y in batches] if frames else batches


def event_loader():
    """Two batches as those of `loader(frames=True)`: T = 4, of 3 and of 2 samples."""
    counts = torch.poisson(torch.full((4, 5, 2, 16, 16), 0.4), generator=torch.Generator().manual_seed(0))
    return [(x, torch.zeros(x.shape[1])) for x in counts.split(3, 1)]


@pytest.mark.parametrize("frames", [False, True])
def test_of_frames_syops_takes_time_steps_for_images(frames):
    (report,) = count({"dsnn18": small()}, loader(frames))
    assert report.images == 5
    assert report.syops.inputs == (8 if frames else 5)


def test_the_report_is_saved_whole(tmp_path, capsys):
    model = small(width=64)
    reports = write_report(model, loader(), tmp_path / "new", data="some data")
    assert [report.title for report in reports] == ["dsnn18 OR, AAP kept", "dsnn18 OR, AAP detached", "ANN ResNet-18"]
    saved = json.loads((tmp_path / "new/synops.json").read_text())
    rows = list(csv.DictReader((tmp_path / "new/synops.csv").open()))
    for report, network in zip(reports, saved["networks"], strict=True):
        assert network["totals"]["ac"] == report.totals.ac > 0
        energy = [float(row["energy_mj"]) for row in rows if row["network"] == report.title]
        assert sum(energy) == pytest.approx(network["energy_mj"]) == pytest.approx(report.energy_mj)
    assert reports[0].totals.mac > reports[1].totals.mac
    assert reports[1].part("body").mac == 0
    assert saved["data"] == "some data"
    assert {"total", "ac", "mac", "energy_mj"} < set(saved["networks"][0]["syops"]["batch_norm_ignored"])
    assert "syops: AC" in capsys.readouterr().out


def test_of_frames_the_plain_network_sees_their_mean(tmp_path):
    kept, _, plain = write_report(small(width=64), loader(frames=True), tmp_path, syops=False)
    assert (kept.images, plain.images) == (5, 5)
    assert kept.part("stem").mac == 4 * plain.part("stem").mac  # four frames, one image


def test_networks_without_a_plain_counterpart_say_so(tmp_path, capsys):
    model = small("dsnn_7b")
    assert plain_resnet(model) is None
    kept, detached = write_report(model, event_loader(), tmp_path)
    assert (kept.title, kept.images, detached.images) == ("dsnn_7b OR, AAP kept", 5, 5)
    assert detached.part("body").mac == 0 < kept.part("pathway").mac
    stem = next(row for row in kept.layers if row.part == "stem")
    events = sum(x.sum().item() for x, _ in event_loader())
    assert (stem.mac, stem.event_ac) == (4 * 2 * 8 * 16 * 16, events * 8 / 5)
    assert detached.notes == [stem.describe_stem()]
    assert kept.notes == [*detached.notes, "no ANN beside it: there is no plain network of this shape to compare with"]
    printed = capsys.readouterr().out
    assert all(note in printed for note in kept.notes)
    saved = json.loads((tmp_path / "synops.json").read_text())["networks"]
    assert saved[0]["layers"][0]["event_ac"] == stem.event_ac
    assert all(row.kind != "join none" for row in count({"p": small("plain_7b")}, event_loader())[0].layers)


def test_layers_that_never_ran_or_are_unknown_are_noted():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU())
    model.forgotten = nn.Sequential()
    model.forgotten.conv = nn.Conv2d(4, 1, 1)
    model.forgotten.forward = lambda x: x
    (report,) = count({"net": model}, [(torch.randn(1, 3, 4, 4), torch.zeros(1))], syops=False)
    unknown = "layer 1 (GELU) is of an unknown kind without weights: not counted"
    assert report.notes == ["layer forgotten.conv never ran", unknown]


def test_bad_data_is_refused():
    with pytest.raises(UserError, match="the data set is empty"):
        count({"net": small()}, [])
    with pytest.raises(UserError, match="has 2 images and 4 targets: give images"):
        count({"net": small()}, [(torch.randn(4, 2, 3, 16, 16), torch.zeros(4))])


def test_the_worked_examples_of_the_documentation_hold():
    failures, examples = doctest.testfile(str(ROOT / "docs/ENERGY.md"), module_relative=False)
    assert examples > 15
    assert failures == 0


# --- the command ---

OPTIONS = ["--model", "dsnn18", "--T", 2, "--num-classes", 5, "--option", "stem=cifar", "--option", "width=8"]


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), (200, 30, 90)).save(tmp_path / "val" / name / "1.png")
    return tmp_path


def save_checkpoint(path, model, **others):
    known = {"format": {"name": "full-spike-aap", "version": 1}, "config": model.config, "model": model.state_dict()}
    torch.save({**known, **others}, path)
    return path


def synops(output, *arguments):
    done = command("utils.synops", *arguments, "--output", output)
    assert done.status == 0, done.err
    return json.loads((output / "synops.json").read_text()), done


def test_the_command_counts_a_checkpoint_on_a_data_set(tmp_path, folder):
    """What the command leaves out, the checkpoint's config says."""
    path = save_checkpoint(tmp_path / "dsnn18.pth", small())
    arguments = ["--model", "dsnn18", "--checkpoint", path, "--data", folder, "--size", 16]
    saved, done = synops(tmp_path / "out", *arguments)
    assert not done.err
    assert saved["rates_are_real"]
    assert [network["images"] for network in saved["networks"]] == [2, 2, 2]
    plain = create_model("resnet18", width=8, stem="cifar", num_classes=5)
    with FlopCounterMode(display=False) as flops:
        plain(torch.zeros(1, 3, 16, 16))
    assert saved["networks"][2]["network"] == "ANN resnet18"
    assert saved["networks"][2]["totals"]["mac"] == flops.get_total_flops() / 2


@pytest.mark.parametrize(
    ("data_set", "options", "side"),
    [("cifar", [], 32), ("imagenet", [], 224), ("cifar", ["--data-option", "image_size=24"], 24)],
)
def test_images_are_read_as_the_data_set_of_the_checkpoint_reads_them(tmp_path, folder, data_set, options, side):
    path = save_checkpoint(tmp_path / "named.pth", small(), data_set=data_set)
    arguments = ["--model", "dsnn18", "--checkpoint", path, "--images", 1, "--no-syops", *options, "--data", folder]
    saved, _ = synops(tmp_path / "out", *arguments)
    assert saved["networks"][0]["parts"]["stem"]["mac"] == 8 * 3 * 3 * 3 * side**2
    done = command("utils.synops", *arguments, "--size", 16)
    assert done.status == 2
    assert f"--size 16 is not used, since images are read as those of {data_set}" in done.err


def test_without_data_the_command_counts_random_inputs(tmp_path):
    saved, done = synops(tmp_path / "image", *OPTIONS, "--no-syops", "--size", 16)
    assert done.err.startswith("warning: firing rates are not real")
    assert "dsnn18 OR, AAP detached" in done.out
    assert not saved["rates_are_real"]
    arguments = ["--model", "dsnn_wide7b", "--option", "width=4", "--T", 3, "--size", 16, "--batch-size", 1]
    saved, _ = synops(tmp_path / "events", *arguments)
    assert saved["data"] == "random frames of event counts, random weights"
    assert [network["images"] for network in saved["networks"]] == [2, 2]
    assert saved["networks"][0]["parts"]["stem"]["mac"] == 3 * 2 * 4 * 16 * 16


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--mac-pj", -1], 2, "argument --mac-pj: -1.0 is negative"),
        (["--data", "none"], 1, "there is no folder none"),
        (["--T", 1, "--images", 1, "--size", 8], 1, "Expected more than 1 value per channel"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, status, message):
    done = command("utils.synops", *OPTIONS, *arguments, "--output", tmp_path)
    assert done.status == status
    (error,) = [line for line in done.err.splitlines() if not line.startswith("warning: ")]
    assert error.startswith(f"error: {message}")

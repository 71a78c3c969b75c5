"""cifar/train.py from a user's chair: training, resuming, evaluating, and every wrong turn."""

import json
import shutil

import pytest
import torch
from PIL import Image
from torch.utils.tensorboard.summary import scalar  # noqa: F401  (tensorboard is installed)

from full_spike.models import create_model, detach_aap
from full_spike.utils import checkpoint
from full_spike.utils.checkpoints.weights import read_weights
from full_spike.utils.errors import UserError
from support.command import TINY, refused, run, succeed
from support.images import image_tree

TRAIN = "cifar.train"


def weights(path):
    return checkpoint.read(path)["model"]


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three epochs on digits, and what it printed."""
    out = tmp_path_factory.mktemp("trained")
    text = succeed(TRAIN, *TINY, "--epochs", 3, "--tb", "--output-dir", out)
    folder = next(p for p in out.iterdir() if not p.name.endswith("_logs"))
    return folder, text


def test_a_run_writes_what_it_says(trained):
    folder, text = trained
    assert "1437 training and 360 test images of 10 classes" in text
    assert folder.name == "digits_8px_dsnn18_b256_lr0.1_T2_wd0.0005_coslr3_sgd_cnf_OR_width4"
    assert {"checkpoint_latest.pth", "checkpoint_previous.pth", "checkpoint_0.pth", "checkpoint_2.pth"} <= {
        p.name for p in folder.iterdir()
    }
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in entries] == [0, 1, 2]
    assert all(set(entry["test"]) == {"fsnn", "aap", "sum"} for entry in entries)
    assert all(score["count"] == 360 for entry in entries for score in entry["test"].values())
    assert all(0 <= rate <= 1 for entry in entries for rate in entry["firing_rate"].values())
    assert len(entries[0]["firing_rate"]) == 20
    assert entries[-1]["train_loss"] < entries[0]["train_loss"]


def test_tensorboard_has_the_released_tags_and_more(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = trained
    logs = folder.with_name(folder.name + "_logs")
    tags = {}
    for split in ("train", "te"):
        events = EventAccumulator(str(logs / split))
        events.Reload()
        tags[split] = {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert {"train_loss", "train_acc1", "train_acc5", "lr", "images_per_second"} <= tags["train"].keys()
    assert {"test_loss", "test_acc1", "test_acc5", "test_acc1_aap", "test_acc1_sum"} <= tags["te"].keys()
    assert {"firing_rate/sn1", "firing_rate/layer4.1.sn2"} <= tags["te"].keys()
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert tags["te"]["test_acc1"] == pytest.approx([entry["test"]["fsnn"]["acc1"] for entry in entries])
    assert (logs / "args.txt").exists()


def test_evaluating_a_checkpoint_repeats_the_runs_scores(trained):
    folder, _ = trained
    text = succeed(TRAIN, *TINY, "--epochs", 3, "--output-dir", folder.parent, "--test-only", "--resume", "auto")
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["test"]
    for name in ("fsnn", "aap", "sum"):
        row = next(line.split() for line in text.splitlines() if line.startswith(f"{name} "))
        assert row[1:] == [f"{last[name]['acc1']:.2f}", f"{last[name]['acc5']:.2f}", f"{last[name]['loss']:.4f}", "360"]


def test_detaching_gives_the_trunk_and_saves_it(trained):
    folder, _ = trained
    common = (*TINY, "--output-dir", folder.parent, "--test-only")
    text = succeed(TRAIN, *common, "--resume", folder / "checkpoint_latest.pth", "--detach")
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["test"]["fsnn"]
    row = next(line.split() for line in text.splitlines() if line.startswith("output "))
    assert row[1:] == [f"{last['acc1']:.2f}", f"{last['acc5']:.2f}", f"{last['loss']:.4f}", "360"]

    config, state = read_weights(folder / "fsnn.pth")
    dual = create_model(**{**config, "model": "dsnn18"})
    dual.load_state_dict(weights(folder / "checkpoint_latest.pth"))
    assert_same_weights(state, detach_aap(dual).state_dict())
    again = succeed(TRAIN, *common, "--model", "fsnn18", "--resume", folder / "fsnn.pth")
    assert next(line.split() for line in again.splitlines() if line.startswith("output ")) == row
    whole, alone = (checkpoint.load(folder / name) for name in ("checkpoint_latest.pth", "fsnn.pth"))
    kept = ("data_set", "classes", "inputs", "recipe")  # so that images are read as in training
    assert {name: alone[name] for name in kept} == {name: whole[name] for name in kept}
    assert whole["data_set"] == "cifar"


def test_counting_a_trained_network(trained):
    folder, _ = trained
    common = (*TINY, "--output-dir", folder.parent, "--epochs", 3, "--resume", "auto", "--synops")
    text = succeed(TRAIN, *common, "--test-only")
    assert "AAP kept" in text
    counted = json.loads((folder / "synops" / "synops.json").read_text())
    assert counted["rates_are_real"]
    names = [network["network"] for network in counted["networks"]]
    assert names == ["dsnn18 OR, AAP kept", "dsnn18 OR, AAP detached", "ANN resnet18"]
    assert "use it with --test-only" in refused(TRAIN, *common, status=2)


@pytest.mark.parametrize(
    "options", [(), ("--amp", "--ema-decay", "0.9", "--accumulate", "2", "--warmup-epochs", "1", "-b", "512")]
)
def test_resuming_gives_the_weights_of_a_run_that_never_stopped(tmp_path, options):
    options = (*TINY, "--epochs", 2, "--cos_lr_T", 2, *options)
    succeed(TRAIN, *options, "--output-dir", tmp_path / "whole")
    succeed(TRAIN, *options, "--epochs", 1, "--output-dir", tmp_path / "parts")
    text = succeed(TRAIN, *options, "--output-dir", tmp_path / "parts", "--resume", "auto")
    assert "epoch 2, batch 0" in text
    whole, parts = (next((tmp_path / name).iterdir()) for name in ("whole", "parts"))
    ours, theirs = (checkpoint.read(folder / checkpoint.LATEST) for folder in (whole, parts))
    assert_same_weights(ours["model"], theirs["model"])
    if ours["ema"] is not None:
        assert_same_weights(ours["ema"], theirs["ema"])
    for key, state in ours["optimizer"]["state"].items():
        assert all(torch.equal(state[name], theirs["optimizer"]["state"][key][name]) for name in state)
    records = [[json.loads(x) for x in (f / "metrics.jsonl").read_text().splitlines()] for f in (whole, parts)]
    assert [r["test"] for r in records[0]] == [r["test"] for r in records[1]]


def test_a_baseline_has_one_readout(tmp_path):
    text = succeed(TRAIN, *TINY, "--model", "spiking_resnet18", "--epochs", 1, "--output-dir", tmp_path)
    assert "test output " in text
    text = succeed(
        TRAIN, *TINY, "--model", "spiking_resnet18", "--epochs", 1, "--output-dir", tmp_path, "--test-only",
        "--resume", "auto",
    )  # fmt: skip
    assert [line.split()[0] for line in text.splitlines() if line.endswith(" 360")] == ["output"]


def test_published_weights_are_evaluated(tmp_path):
    """A published checkpoint carries its command line as an argparse.Namespace beside the weights."""
    from argparse import Namespace

    from full_spike.models import to_published

    model = create_model("sew_resnet18", num_classes=10, in_channels=1, width=4, T=2, stem="cifar", neuron="LIF")
    path = tmp_path / "published.pth"
    torch.save({"model": to_published(model), "epoch": 319, "args": Namespace(model="sew_resnet18", T=4)}, path)
    text = succeed(TRAIN, *TINY, "--model", "sew_resnet18", "--test-only", "--resume", path)
    assert [line.split()[0] for line in text.splitlines() if line.endswith(" 360")] == ["output"]


# Wrong turns


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "dsnn17"], "model='dsnn17' is unknown: did you mean dsnn18"),
        (["--connect_f", "NOR"], "connect_f='NOR' is unknown: choose one of ADD, AND, IAND, OR, XOR"),
        (["--neuron", "ALIF"], "neuron='ALIF' is unknown"),
        (["--dataset", "mnist"], "--dataset 'mnist' is unknown: choose one of digits, cifar10, cifar100, folder"),
        (["--T", "0"], "argument --T: 0 is below 1"),
        (["--dataset", "folder"], "--dataset folder needs --data-path"),
        (["--test-only"], "--test-only needs weights"),
        (["--device", "tpu"], "--device tpu is unknown"),
        (["--checkpoint-every", "soon"], "--checkpoint-every 'soon' is no interval"),
        (["--sync-bn"], "--sync-bn needs GPUs"),
        (["--model", "spiking_resnet18", "--connect_f", "OR"], "spiking_resnet18 has no option 'connect_f'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(tmp_path, args, message):
    assert message in refused(TRAIN, *TINY, "--output-dir", tmp_path, *args, status=2)


def test_a_folder_of_images_trains(tmp_path):
    image_tree(tmp_path / "data")
    Image.new("L", (8, 8), 100).save(tmp_path / "data/train/cat/grey.jpg")
    Image.new("CMYK", (9, 12)).save(tmp_path / "data/train/dog/cmyk.jpg")
    text = succeed(
        TRAIN, *TINY, "-j", 2, "--dataset", "folder", "--data-path", tmp_path / "data", "--epochs", 1,
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert "8 training and 6 test images of 2 classes" in text


def damage_image(root):
    (root / "train" / "cat" / "1.jpg").write_bytes(b"\xff\xd8 no picture")


def test_a_worker_that_cannot_read_an_image_ends_the_run_in_one_line(tmp_path):
    root = image_tree(tmp_path / "data")
    damage_image(root)
    line = refused(
        TRAIN, *TINY, "-j", 2, "--dataset", "folder", "--data-path", root, "--output-dir", tmp_path, status=1, how=run
    )
    assert f"error: cannot read the image {root}/train/cat/1.jpg" in line


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(tmp_path):
    line = refused(TRAIN, *TINY, "--lr", "1e30", "--epochs", 2, "--output-dir", tmp_path, status=1)
    assert "the loss became" in line
    assert "lower --lr" in line
    assert list(tmp_path.rglob("*.pth")) == []


class TestCheckpoints:
    """Files that cannot be resumed from, beside a whole one that must survive."""

    @pytest.fixture
    def folder(self, trained, tmp_path):
        copied = tmp_path / trained[0].name
        shutil.copytree(trained[0], copied)
        return copied

    def resume(self, folder, path, *options, status=1):
        before = {p.name: p.read_bytes() for p in folder.glob("*.pth")}
        line = refused(
            TRAIN, *TINY, "--epochs", 3, "--output-dir", folder.parent, "--resume", path, *options, status=status
        )
        assert {p.name: p.read_bytes() for p in folder.glob("*.pth")} == before
        return line

    def test_missing(self, folder):
        assert "there is no checkpoint" in self.resume(folder, folder / "none.pth")

    def test_a_folder(self, folder):
        assert "is a folder" in self.resume(folder, folder)

    def test_truncated(self, folder):
        data = (folder / checkpoint.LATEST).read_bytes()
        (folder / "cut.pth").write_bytes(data[: len(data) // 2])
        assert "damaged" in self.resume(folder, folder / "cut.pth")

    def test_every_flipped_payload_bit_is_noticed(self, folder):
        data = bytearray((folder / checkpoint.LATEST).read_bytes())
        for i, position in enumerate(range(1000, len(data) - 5000, len(data) // 5)):
            flipped = bytearray(data)
            flipped[position] ^= 1 << i % 8
            (folder / "flipped.pth").write_bytes(flipped)
            try:
                content = checkpoint.read(folder / "flipped.pth")
            except UserError:
                continue
            # between two records there is padding that means nothing
            assert_same_weights(content["model"], weights(folder / checkpoint.LATEST))

    def test_a_flipped_weight_is_refused(self, folder):
        state = checkpoint.read(folder / checkpoint.LATEST)
        data = bytearray((folder / checkpoint.LATEST).read_bytes())
        weight = state["model"]["layer3.0.conv1.0.weight"].numpy().tobytes()
        position = data.find(weight)
        assert position > 0
        data[position + 5] ^= 16
        (folder / "flipped.pth").write_bytes(data)
        assert "is damaged (checksum of" in self.resume(folder, folder / "flipped.pth")

    def test_foreign(self, folder):
        torch.save({"format": {"name": "other", "version": 1}}, folder / "foreign.pth")
        assert "another program" in self.resume(folder, folder / "foreign.pth")
        torch.save([1, 2, 3], folder / "list.pth")
        assert "no checkpoint of a run" in self.resume(folder, folder / "list.pth")
        (folder / "text.pth").write_text("hello")
        assert "damaged or no checkpoint" in self.resume(folder, folder / "text.pth")

    def test_newer(self, folder):
        torch.save({"format": {"name": "full-spike-aap", "version": 99}}, folder / "newer.pth")
        assert "format version 99" in self.resume(folder, folder / "newer.pth")

    def test_another_network(self, folder):
        path = folder / checkpoint.LATEST
        assert "model=dsnn18 instead of dsnn34" in self.resume(folder, path, "--model", "dsnn34", status=2)
        assert "T=2 instead of 3" in self.resume(folder, path, "--T", 3, status=2)
        assert "connect_f=OR instead of IAND" in self.resume(folder, path, "--connect_f", "IAND", status=2)

    def test_another_number_of_classes(self, folder, tmp_path):
        root = image_tree(tmp_path / "data", classes=("a", "b", "c"))
        line = self.resume(
            folder, folder / checkpoint.LATEST, "--dataset", "folder", "--data-path", root, "--test-only", status=2
        )
        assert "num_classes=10 instead of 3" in line

    def test_code_in_a_pickle_is_refused_and_does_not_run(self, folder, tmp_path):
        class Malicious:
            def __reduce__(self):
                return (open, (str(tmp_path / "executed"), "w"))

        torch.save({"model": Malicious()}, folder / "malicious.pth")
        for options in ((), ("--test-only",)):
            line = self.resume(folder, folder / "malicious.pth", *options)
            assert "could run code" in line
        assert not (tmp_path / "executed").exists()

    def test_auto_passes_over_a_damaged_one_and_says_so(self, folder):
        latest = folder / checkpoint.LATEST
        latest.write_bytes(latest.read_bytes()[:1000])
        text = succeed(TRAIN, *TINY, "--epochs", 3, "--output-dir", folder.parent, "--resume", "auto")
        assert f"passed over: {latest} is damaged" in text
        assert f"resumed from {folder / checkpoint.PREVIOUS}: epoch 3, batch 0" in text
        assert weights(latest)

    def test_a_run_is_not_written_over_by_accident(self, folder):
        before = {p.name: p.read_bytes() for p in folder.glob("*.pth")}
        line = refused(TRAIN, *TINY, "--epochs", 3, "--output-dir", folder.parent, status=2)
        assert "holds a run already" in line
        assert "--resume auto" in line
        assert {p.name: p.read_bytes() for p in folder.glob("*.pth")} == before
        for wrong in (("--warmup-epochs", 9), ("--sync-bn",)):
            refused(TRAIN, *TINY, "--epochs", 3, "--output-dir", folder.parent, "--overwrite", *wrong, status=2)
        assert {p.name: p.read_bytes() for p in folder.glob("*.pth")} == before
        text = succeed(TRAIN, *TINY, "--epochs", 3, "--output-dir", folder.parent, "--overwrite")
        assert "epoch 1/3" in text

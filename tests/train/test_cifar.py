"""cifar/train.py from a user's chair: training, resuming, evaluating, and every wrong turn."""

import json
from argparse import Namespace

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from full_spike.models import create_model, detach_aap, to_published
from full_spike.utils import checkpoint
from support.command import TINY, assert_same_run, entries, newest, only, refused, row, run, succeed
from support.images import image_tree

TRAIN = "full_spike.cifar.train"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs on digits, and what it printed."""
    out = tmp_path_factory.mktemp("trained")
    text = succeed(TRAIN, *TINY, "--epochs", 2, "--tb", "--output-dir", out)
    return next(p for p in out.iterdir() if not p.name.endswith("_logs")), text


def test_a_run_writes_what_it_says(trained):
    folder, text = trained
    assert "1437 training and 360 test images of 10 classes" in text
    assert folder.name == "digits_8px_dsnn18_b256_lr0.1_T2_wd0.0005_coslr2_sgd_cnf_OR_width4"
    assert {p.name for p in folder.iterdir()} >= {
        "checkpoint_latest.pth", "checkpoint_previous.pth", "checkpoint_0.pth", "checkpoint_1.pth", "config.yaml",
    }  # fmt: skip
    found = entries(folder)
    assert [entry["epoch"] for entry in found] == [0, 1]
    assert all(set(entry["test"]) == {"fsnn", "aap", "sum"} for entry in found)
    assert all(score["count"] == 360 for entry in found for score in entry["test"].values())
    assert all(0 <= rate <= 1 for entry in found for rate in entry["firing_rate"].values())
    assert len(found[0]["firing_rate"]) == 20
    assert found[-1]["train_loss"] < found[0]["train_loss"]


def test_tensorboard_has_the_released_tags_and_more(trained):
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
    assert tags["te"]["test_acc1"] == pytest.approx([entry["test"]["fsnn"]["acc1"] for entry in entries(folder)])
    assert (logs / "args.txt").exists()


def test_evaluating_and_detaching_repeat_the_runs_scores(trained):
    folder, _ = trained
    common = (*TINY, "--output-dir", folder.parent, "--test-only")
    last = entries(folder)[-1]["test"]

    def expected(scores):
        return [f"{scores['acc1']:.2f}", f"{scores['acc5']:.2f}", f"{scores['loss']:.4f}", "360"]

    text = succeed(TRAIN, *common, "--epochs", 2, "--resume", "auto")
    assert all(row(text, name) == expected(last[name]) for name in ("fsnn", "aap", "sum"))
    text = succeed(TRAIN, *common, "--resume", folder / checkpoint.LATEST, "--detach")
    assert row(text, "output") == expected(last["fsnn"])

    whole, alone = (checkpoint.load(folder / name) for name in (checkpoint.LATEST, "fsnn.pth"))
    dual = create_model(**whole["config"])
    dual.load_state_dict(whole["model"])
    trunk = detach_aap(dual).state_dict()
    assert alone["model"].keys() == trunk.keys()
    assert all(torch.equal(alone["model"][key], trunk[key]) for key in trunk)
    again = succeed(TRAIN, *common, "--model", "fsnn18", "--resume", folder / "fsnn.pth")
    assert row(again, "output") == expected(last["fsnn"])
    kept = ("data_set", "classes", "inputs", "recipe")  # so that images are read as in training
    assert {name: alone[name] for name in kept} == {name: whole[name] for name in kept}
    assert whole["data_set"] == "cifar"


def test_counting_a_trained_network(trained):
    folder, _ = trained
    common = (*TINY, "--output-dir", folder.parent, "--epochs", 2, "--resume", "auto", "--synops")
    assert "AAP kept" in succeed(TRAIN, *common, "--test-only", "--no-syops")
    counted = json.loads((folder / "synops" / "synops.json").read_text())
    assert counted["rates_are_real"]
    names = [network["network"] for network in counted["networks"]]
    assert names[:2] == ["dsnn18 OR, AAP kept", "dsnn18 OR, AAP detached"]
    assert "use it with --test-only" in refused(TRAIN, *common, status=2)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--amp --ema-decay 0.9 --accumulate 2 --warmup-epochs 1 -b 512 --cos_lr_T 3",
        "--fused --memory-saving --checkpoint-every 1",
    ],
)
def test_resuming_gives_the_weights_of_a_run_that_never_stopped(tmp_path, options):
    options = (*TINY, "--epochs", 2, "--cos_lr_T", 2, *options.split())
    succeed(TRAIN, *options, "--output-dir", tmp_path / "whole")
    succeed(TRAIN, *options, "--epochs", 1, "--output-dir", tmp_path / "parts")
    text = succeed(TRAIN, *options, "--output-dir", tmp_path / "parts", "--resume", "auto")
    assert "epoch 2, batch 0" in text
    assert_same_run(only(tmp_path / "whole"), only(tmp_path / "parts"))


def test_a_baseline_has_one_readout(tmp_path):
    command = (*TINY, "--model", "spiking_resnet18", "--epochs", 1, "--output-dir", tmp_path)
    assert "test output " in succeed(TRAIN, *command)
    text = succeed(TRAIN, *command, "--test-only", "--resume", "auto")
    assert [line.split()[0] for line in text.splitlines() if line.endswith(" 360")] == ["output"]


def test_published_weights_are_evaluated(tmp_path):
    """A published checkpoint carries its command line as an argparse.Namespace beside the weights."""
    model = create_model("sew_resnet18", num_classes=10, in_channels=1, width=4, T=2, stem="cifar", neuron="LIF")
    path = tmp_path / "published.pth"
    torch.save({"model": to_published(model), "epoch": 319, "args": Namespace(model="sew_resnet18", T=4)}, path)
    text = succeed(TRAIN, *TINY, "--model", "sew_resnet18", "--test-only", "--resume", path)
    assert [line.split()[0] for line in text.splitlines() if line.endswith(" 360")] == ["output"]


SPIKFORMER = "--model ds_spikformer_2_384 --width 16 --heads 2 --depth 1 --patch 2"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SPIKFORMER, ("ds_spikformer_2_384", "width16", "heads2", "depth1", "patch2")),
        ("--width 2 --aux-head separate --neuron IF", ("width2", "auxheadseparate", "neuronIF")),
        ("--width 2 --momentum 0.8 --no-crop --hflip 0.3", ("momentum0.8", "nocrop", "hflip0.3")),
        ("--width 2 --seed 7 --ema-decay 0.9 --aap-weight 0.5", ("seed7", "emadecay0.9", "aapweight0.5")),
    ],
)
def test_every_option_that_is_not_the_default_is_in_the_folders_name(tmp_path, options, words):
    data = image_tree(tmp_path / "data", count=2)
    common = "--dataset folder --image-size 8 -b 4 --T 2 -j 0 --device cpu --epochs 1".split()
    succeed(TRAIN, *common, "--data-path", data, *options.split(), "--output-dir", tmp_path / "out")
    name = only(tmp_path / "out").name
    assert set(words) <= {*name.split("_"), *words[:1]}, name
    assert words[0] in name


# Wrong turns


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "dsnn17"], "'dsnn17' is unknown: did you mean dsnn18"),
        (["--connect_f", "NOR"], "connect_f='NOR' is unknown: choose one of ADD, AND, IAND, OR, XOR"),
        (["--neuron", "ALIF"], "neuron='ALIF' is unknown"),
        (["--dataset", "mnist"], "--dataset: invalid choice: 'mnist'"),
        (["--T", "0"], "argument --T: 0 is below 1"),
        (["--dataset", "folder"], "--dataset folder needs --data-path"),
        (["--test-only"], "--test-only needs weights"),
        (["--device", "tpu"], "--device tpu "),
        (["--world-size", "4"], "start with torchrun --nproc-per-node=4"),
        (["--checkpoint-every", "soon"], "--checkpoint-every"),
        (["--resume", ""], "--resume"),
        (["--initial-checkpoint", ""], "--initial-checkpoint"),
        (["--name", "a/b"], "--name"),
        (["--name", ".."], "--name"),
        (["--sync-bn"], "--sync-bn needs GPUs"),
        (["--model", "spiking_resnet18", "--connect_f", "OR"], "spiking_resnet18 has no option 'connect_f'"),
        (["--model", "fsnn18", "--aap-weight", "0.5"], "fsnn18 has no pathway"),
        (["--neuron", "IF", "--tau", "3"], "IF neurons have no time constant"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(tmp_path, args, message):
    assert message in refused(TRAIN, *TINY, "--output-dir", tmp_path, *args, status=2)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_images_trains_until_one_cannot_be_read(tmp_path):
    root = image_tree(tmp_path / "data")
    Image.new("L", (8, 8), 100).save(root / "train/cat/grey.jpg")
    Image.new("CMYK", (9, 12)).save(root / "train/dog/cmyk.jpg")
    args = (*TINY, "-j", 2, "--dataset", "folder", "--data-path", root, "--epochs", 1)
    assert "8 training and 6 test images of 2 classes" in succeed(TRAIN, *args, "--output-dir", tmp_path / "a")
    (root / "train" / "cat" / "1.jpg").write_bytes(b"\xff\xd8 no picture")
    line = refused(TRAIN, *args, "--output-dir", tmp_path / "b", status=1, how=run)
    assert f"error: cannot read the image {root}/train/cat/1.jpg" in line


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(tmp_path):
    line = refused(TRAIN, *TINY, "--lr", "1e30", "--epochs", 2, "--output-dir", tmp_path, status=1)
    assert "the loss became" in line
    assert "lower --lr" in line
    assert list(tmp_path.rglob("*.pth")) == []


def test_the_layout_of_memory_changes_little(tmp_path):
    """Nothing at all where layers are computed again; rounding where channels come last."""
    succeed(TRAIN, *TINY, "--epochs", 1, "--output-dir", tmp_path / "0")
    succeed(TRAIN, *TINY, "--epochs", 1, "--output-dir", tmp_path / "1", "--memory-saving")
    succeed(TRAIN, *TINY, "--epochs", 1, "--output-dir", tmp_path / "2", "--memory-saving", "--channels-last")
    assert_same_run(only(tmp_path / "0"), only(tmp_path / "1"))
    assert newest(tmp_path / "2")["model"]["conv1.weight"].is_contiguous(memory_format=torch.channels_last)
    losses = [entries(only(tmp_path / name))[0]["train_loss"] for name in "02"]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)

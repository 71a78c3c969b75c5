"""Recipes in files: the published values, and that they run; and what of a recipe a run cannot change on its way."""

import math
import re

import pytest
import torch
import yaml

from full_spike.cifar.train import make_parser as cifar_parser
from full_spike.imagenet.train import make_parser as imagenet_parser
from full_spike.utils.optim import make_schedule
from full_spike.utils.options import parse
from support.command import ROOT, TINY, assert_same_run, entries, only, refused, run_together, succeed
from support.images import image_tree, imagenet_tree

# What the release's cifar10.yml and imagenet.yml say, in its own words
PUBLISHED = {
    "cifar/spikformer_4_384.yaml": {
        "epochs": 300, "cooldown_epochs": 10, "batch_size": 128, "processes": 1, "images": 50_000, "lr": 5e-4,
        "min_lr": 1e-5, "warmup_lr": 1e-5, "warmup_epochs": 20, "weight_decay": 6e-2, "n": 1, "m": 9, "mixup": 0.5,
        "cutmix": 0.0, "mixup_off_epoch": 200, "reprob": 0.25, "smoothing": 0.1,
    },
    "imagenet/spikformer_8_512.yaml": {
        "epochs": 300, "cooldown_epochs": 10, "batch_size": 24, "processes": 8, "images": 1_281_167, "lr": 5e-4,
        "min_lr": 1e-5, "warmup_lr": 1e-6, "warmup_epochs": 20, "weight_decay": 5e-2, "n": 2, "m": 9, "mixup": 0.8,
        "cutmix": 1.0, "mixup_off_epoch": 0, "reprob": 0.25, "smoothing": 0.1,
    },
}  # fmt: skip
PARSERS = {"cifar": cifar_parser, "imagenet": imagenet_parser}


def read(path):
    return parse(PARSERS[path.split("/")[0]](), ["--config", str(ROOT / path)])


@pytest.mark.parametrize("path", PUBLISHED)
def test_a_recipe_has_the_published_values(path):
    published, args = PUBLISHED[path], read(path)
    assert (args.optimizer, args.lr, args.weight_decay) == ("adamw", published["lr"], published["weight_decay"])
    assert (args.betas, args.eps, args.decay_weights_only) == ((0.9, 0.999), 1e-8, True)
    assert args.epochs == published["epochs"] + published["cooldown_epochs"]
    assert (args.label_smoothing, args.amp, args.T) == (published["smoothing"], True, 4)
    assert (args.auto_augment, args.ra_ops, args.ra_magnitude) == ("randaugment", published["n"], 3 * published["m"])
    assert (args.random_erase, args.hflip) == (published["reprob"], 0.5)
    assert (args.mixup, args.cutmix) == (published["mixup"], published["cutmix"])
    assert args.mixup_off_epoch == published["mixup_off_epoch"]
    assert args.batch_size == published["batch_size"]
    assert args.model == f"ds_{re.search(r'spikformer_[0-9_]+[0-9]', path)[0]}"


@pytest.mark.parametrize("path", PUBLISHED)
def test_a_recipes_learning_rate_is_timms(path):
    published, recipe = PUBLISHED[path], read(path)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    schedule = make_schedule(optimizer, recipe)
    lr, first, lowest = published["lr"], published["warmup_lr"], published["min_lr"]
    for t in range(recipe.epochs):
        expected = lowest
        if t < 20:
            expected = first + t * (lr - first) / 20
        elif t < 300:
            expected = lowest + 0.5 * (lr - lowest) * (1 + math.cos(math.pi * t / 300))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("path", PUBLISHED)
def test_a_recipes_arithmetic(path):
    """The numbers in its head and in the README beside it."""
    published, text = PUBLISHED[path], (ROOT / path).read_text()
    share = math.ceil(published["images"] / published["processes"])
    steps = math.ceil(share / published["batch_size"])
    for number in (published["images"], steps, steps * 310):
        assert f"{number:,}" in text
        assert f"{number:,}" in (ROOT / path).with_name("README.md").read_text()


# Sizes that take a second; every other value is the recipe's
SMALL = "--model dsnn18 --width 2 --T 2 -b 4 -j 0 --device cpu --epochs 3 --warmup-epochs 1 --cooldown-epochs 1"
SIZES = "--train-crop-size 16 --val-resize-size 18 --val-crop-size 16"


@pytest.mark.parametrize("path", PUBLISHED)
def test_a_recipe_runs_and_is_kept(tmp_path, path):
    command = ["--config", ROOT / path, *SMALL.split(), "--output-dir", tmp_path / "out"]
    if path.startswith("cifar"):
        command += ["--dataset", "folder", "--data-path", image_tree(tmp_path / "data", count=4)]
    else:
        command += ["--data-path", imagenet_tree(tmp_path / "data", count=3), "--cos_lr_T", 2, *SIZES.split()]
    module = f"full_spike.{path.split('/')[0]}.train"
    text = succeed(module, *command)
    assert "epoch 3/3 " in text
    folder = only(tmp_path / "out")
    assert "_wd0.0" in folder.name
    assert "_coslr2_adamw" in folder.name
    given = yaml.safe_load((ROOT / path).read_text())
    flags = {flag.replace("-", "_") for flag in f"{SMALL} {SIZES}".split()}
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    same = {name for name in given if f"__{name}" not in flags} - {"batch_size", "dataset", "cos_lr_T"}
    assert len(same) > 15
    assert {name: kept[name] for name in same} == {name: given[name] for name in same}


# What a run cannot change


RECIPE = "--optimizer adamw --lr 0.01 --sched-on-updates --warmup-epochs 1 --decay-weights-only --cos_lr_T 2"
CHANGES = {
    "steps": ("-b 4", "steps_per_epoch 3 -> 6"),
    "groups": ("without --decay-weights-only", "decay_weights_only True -> False"),
    "counting": ("without --sched-on-updates", "sched_on_updates True -> False"),
    "kind": ("--lr-scheduler cosine-timm", "lr_scheduler cosine -> cosine-timm"),
    "warm-up": ("--warmup-epochs 0", "warmup_epochs 1 -> 0"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The command of a run of three steps an epoch."""
    data = image_tree(tmp_path_factory.mktemp("data") / "images", count=12)
    return ("full_spike.cifar.train", *TINY, "--dataset", "folder", "--data-path", data, "-b", 8)


@pytest.fixture(scope="module")
def half(run, tmp_path_factory):
    """A run of the first of two epochs."""
    out = tmp_path_factory.mktemp("half")
    succeed(*run, *RECIPE.split(), "--epochs", 1, "--output-dir", out)
    return only(out) / "checkpoint_latest.pth"


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_optimizer_and_the_schedule_are_made_for_stays(run, half, tmp_path, name):
    change, message = CHANGES[name]
    left_out = change.removeprefix("without ") if change.startswith("without") else ""
    options = [x for x in RECIPE.split() if x != left_out] + ([] if left_out else change.split())
    command = (*run, *options, "--epochs", 2, "--output-dir", tmp_path, "--resume", half)
    assert message in refused(*command, status=2)


def test_the_same_number_of_steps_is_enough(run, half, tmp_path):
    """Half of the batch, and two batches a step."""
    options = ("-b", 4, "--accumulate", 2, "--epochs", 2, "--output-dir", tmp_path, "--resume", half)
    assert "epoch 2, batch 0" in succeed(*run, *RECIPE.split(), *options)


@pytest.mark.parametrize("batch", ["-b 8", "-b 4 --accumulate 2"])
def test_the_learning_rate_that_a_run_ends_an_epoch_with(run, tmp_path, batch):
    """Three steps an epoch, four epochs: the warm-up takes 3 steps, the cosine 6, the cool-down 3."""
    options = "--sched-on-updates --lr 0.1 --min-lr 0.02 --warmup-epochs 1 --cooldown-epochs 1 --epochs 4"
    succeed(*run, *options.split(), *batch.split(), "--output-dir", tmp_path)
    assert [entry["lr"] for entry in entries(only(tmp_path))] == pytest.approx([0.1, 0.06, 0.02, 0.02])


@pytest.mark.parametrize("flag", ["--decay-weights-only", "--sched-on-updates"])
def test_a_run_without_these_options_is_refused_with_them(run, tmp_path, flag):
    """Its optimizer has one group, its schedule counts epochs."""
    options = (*run, "--cos_lr_T", 2, "--output-dir", tmp_path, "--name", "run")
    succeed(*options, "--epochs", 1)
    line = refused(*options, flag, "--epochs", 2, "--resume", "auto", status=2)
    assert f"{flag[2:].replace('-', '_')} False -> True): use the same" in line
    assert "epoch 2, batch 0" in succeed(*options, "--epochs", 2, "--resume", "auto")


def test_two_processes_mix_and_go_on_alike(run, tmp_path):
    recipe = "--mixup 0.8 --cutmix 1 --random-erase 0.5 --clip-grad-norm 0.5 --label-smoothing 0.1 --aa trivialaugment"
    options = (*run, *RECIPE.split(), *recipe.split(), "-b", 4, "--output-dir")
    succeed(*options, tmp_path / "whole", "--epochs", 2, how=run_together)
    for epochs in (1, 2):
        go_on = ("--epochs", epochs, "--resume", "auto", "-j", 1)
        text = succeed(*options, tmp_path / "parts", *go_on, how=run_together)
    assert "epoch 2, batch 0" in text
    assert_same_run(only(tmp_path / "whole"), only(tmp_path / "parts"))

"""Every option of every training script does something: a run with it differs from one without it, where it should.

The scripts' own --help says which options there are. An option without a row here is an error.
"""

import ast
import re

import pytest

from support.command import ROOT, succeed
from support.short_runs import EVENTS, FOLDER, IMAGENET, same_weights

SCRIPTS = {module.__name__: module for module in (cifar.train, cifar10dvs.train, dvsgesture.train, imagenet.train)}

SPIKFORMER = "--model ds_spikformer_4_384 --width 16 --heads 2 --depth 1 --patch 2 --tau 1.2"

# Options that must change the weights of a short run: script, what both runs are given, what one of them is.
CHANGES = {
    "data_path": (FOLDER, "", "--data-path {other}"),
    "batch_size": (FOLDER, "", "-b 3"),
    "mean": (FOLDER, "--mean 0.5 --std 0.3", "--mean 0.4"),
    "std": (FOLDER, "--mean 0.5 --std 0.3", "--std 0.2"),
    "channels": (FOLDER, "", "--channels 1"),
    "split": (FOLDER, "--data-path {alone} --split 0.2", "--split 0.5"),
    "split_seed": (FOLDER, "--data-path {alone} --split 0.3", "--split-seed 1"),
    "image_size": (FOLDER, "", "--image-size 12"),
    "train_crop_size": (IMAGENET, "", "--train-crop-size 12"),
    "T_train": (EVENTS, "--T-train 4", "--T-train 2"),
    "train_crop_scale": (IMAGENET, "", "--train-crop-scale 1"),
    "interpolation": (IMAGENET, "", "--interpolation bicubic"),
    "crop": (FOLDER, "", "--no-crop"),
    "hflip": (FOLDER, "", "--hflip 1"),
    "auto_augment": (FOLDER, "", "--aa randaugment"),
    "ra_ops": (FOLDER, "--aa randaugment", "--ra-ops 1"),
    "ra_magnitude": (FOLDER, "--aa randaugment", "--ra-magnitude 30"),
    "random_erase": (FOLDER, "", "--random-erase 1"),
    "mixup": (FOLDER, "", "--mixup 1"),
    "cutmix": (FOLDER, "", "--cutmix 1"),
    "mixup_off_epoch": (FOLDER, "--epochs 2 --mixup 1", "--mixup-off-epoch 1"),
    "frame_size": (EVENTS, "", "--frame-size 32"),
    "augment": (EVENTS, "", "--augment roll"),
    "model": (FOLDER, "", "--model fsnn18"),
    "T": (FOLDER, "", "--T 3"),
    "connect_f": (FOLDER, "", "--connect_f AND"),
    "neuron": (FOLDER, "", "--neuron PLIF"),
    "tau": (FOLDER, "", "--tau 4"),
    "surrogate": (FOLDER, "", "--surrogate atan"),
    "alpha": (FOLDER, "", "--alpha 2"),
    "stem": (FOLDER, "", "--stem imagenet"),
    "width": (FOLDER, "", "--width 3"),
    "depth": (FOLDER, SPIKFORMER, "--depth 2"),
    "heads": (FOLDER, SPIKFORMER, "--heads 4"),
    "patch": (FOLDER, SPIKFORMER, "--patch 4"),
    "aux_head": (FOLDER, "", "--aux-head separate"),
    "aap_pool": (EVENTS, "", "--aap-pool max"),
    "zero_init_residual": (FOLDER, "", "--zero_init_residual"),
    "epochs": (FOLDER, "--cos_lr_T 2", "--epochs 2"),
    "lr": (FOLDER, "", "--lr 0.05"),
    "cos_lr_T": (FOLDER, "--epochs 2", "--cos_lr_T 3"),
    "lr_scheduler": (FOLDER, "--epochs 2", "--lr-scheduler step"),
    "step_size": (FOLDER, "--epochs 2 --lr-scheduler step", "--step-size 1"),
    "gamma": (FOLDER, "--epochs 2 --lr-scheduler step --step-size 1", "--gamma 0.5"),
    "warmup_epochs": (FOLDER, "--epochs 2", "--warmup-epochs 1"),
    "warmup_lr": (FOLDER, "--epochs 2 --warmup-epochs 1", "--warmup-lr 0.05"),
    "min_lr": (FOLDER, "--epochs 2", "--min-lr 0.05"),
    "cooldown_epochs": (FOLDER, "--epochs 2 --min-lr 0.05", "--cooldown-epochs 1"),
    "sched_on_updates": (FOLDER, "", "--sched-on-updates"),
    "optimizer": (FOLDER, "", "--optimizer adamw"),
    "momentum": (FOLDER, "", "--momentum 0.5"),
    "betas": (FOLDER, "--adam", "--betas 0.5,0.9"),
    "eps": (FOLDER, "--adam", "--eps 0.1"),
    "weight_decay": (FOLDER, "", "--wd 0.1"),
    "decay_weights_only": (FOLDER, "--wd 0.1", "--decay-weights-only"),
    "clip_grad_norm": (FOLDER, "", "--clip-grad-norm 0.01"),
    "aap_weight": (FOLDER, "", "--aap-weight 0.5"),
    "aap_off_epoch": (FOLDER, "--epochs 2", "--aap-off-epoch 1"),
    "label_smoothing": (FOLDER, "", "--label-smoothing 0.2"),
    "accumulate": (FOLDER, "", "--accumulate 2"),
    "amp": (FOLDER, "", "--amp"),
    "amp_dtype": (FOLDER, "--amp", "--amp-dtype fp16"),
    "seed": (FOLDER, "", "--seed 7"),
}

# Options that a test of another file covers.
ELSEWHERE = {
    "sync_bn": ("test_devices.py", "test_synchronised_batch_norm_makes_two_processes_equal_one"),
    "initial_checkpoint": (
        "test_initial_weights.py",
        "test_a_new_run_begins_with_the_weights_in_whatever_form_they_are",
    ),
    "dist_url": ("test_event_training.py", "test_several_processes_prepare_once_train_and_score_each_sample_once"),
    "dist_timeout": ("test_imagenet.py", "test_an_unreachable_rendezvous"),
    "fused": ("test_fused.py", "test_the_training_flag"),
    "config": ("test_config.py", "test_a_run_started_from_another_runs_configuration_gives_the_same_weights"),
}


# The table against --help


def named(file):
    """What a file of tests defines."""
    nodes = list(ast.walk(ast.parse((ROOT / "tests" / file).read_text())))
    targets = [target for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return functions | {target.id for target in targets if isinstance(target, ast.Name)}


def in_help(script):
    """Every flag that --help lists."""
    entries = re.findall(r"(?m)^  (-\S.*?)(?:  .*)?$", succeed(script, "--help"))
    return {flag.split()[0] for entry in entries for flag in entry.split(", ")} - {"-h", "--help"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_in_help_has_a_test(script):
    names = {flag: name for name, flags in SCRIPTS[script].parser.flags().items() for flag in flags}
    shown = in_help(script)
    assert len(shown) > 65
    found = {names.get(flag) or names.get(flag.replace("--no-", "--"), flag.removeprefix("--")) for flag in shown}
    tests = {name.removeprefix("test_") for name in named("test_options_of_runs.py") if name.startswith("test_")}
    assert found - {*CHANGES, *ELSEWHERE, *tests} == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_spelling_of_an_option_is_the_same_option(script):
    parser = SCRIPTS[script].parser
    examples = {name: one for name, (_, _, one) in CHANGES.items()} | {"workers": "-j 7"}
    for name, flags in parser.flags().items():
        spellings = [flag for flag in flags if flag != "--adam"]  # which is one value of --optimizer
        if len(spellings) > 1:
            value = examples[name].split()[1:]
            found = [parser.parse([flag, *value]) for flag in spellings]
            assert found == [found[0]] * len(found), name


def test_no_table_has_an_option_that_is_gone():
    known = {"config"}.union(*(module.parser.flags() for module in SCRIPTS.values()))
    assert CHANGES.keys() | ELSEWHERE.keys() <= known


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_test_that_is_named_is_there(name):
    file, test = ELSEWHERE[name]
    assert test in named(file)


# What changes the weights


def test_the_same_command_gives_the_same_weights(short_run):
    """Or a difference would show nothing below."""
    for script in (FOLDER, EVENTS, IMAGENET):
        assert same_weights(short_run(script), short_run(script, fresh=True))


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_that_changes_the_weights(short_run, name):
    script, both, one = CHANGES[name]
    assert not same_weights(short_run(script, both), short_run(script, f"{both} {one}"))

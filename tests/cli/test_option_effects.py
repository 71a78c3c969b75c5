"""Every option of training that acts on the weights does so: a run with it differs from one without it."""

import pytest

from full_spike.cifar.train import make_parser as cifar
from full_spike.dvsgesture.train import make_parser as gesture
from full_spike.imagenet.train import make_parser as imagenet
from support.short_runs import EVENTS, FOLDER, IMAGENET, same_weights

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
    "aap_weight_end": (FOLDER, "--epochs 2", "--aap-weight-end 0.5"),
    "loss": (FOLDER, "", "--loss tet"),
    "label_smoothing": (FOLDER, "", "--label-smoothing 0.2"),
    "accumulate": (FOLDER, "", "--accumulate 2"),
    "amp": (FOLDER, "", "--amp"),
    "amp_dtype": (FOLDER, "--amp", "--amp-dtype fp16"),
    "seed": (FOLDER, "", "--seed 7"),
}

# Options that leave the weights of a short run as they are, or say what it begins with
OTHERS = set(
    "config output_dir name start_epoch resume overwrite checkpoint_every ema ema_decay print_freq tb test_only synops "
    "no_syops detach predictions device world_size dist_url dist_timeout fused channels_last keep_memory compile "
    "deterministic memory_saving sync_bn initial_checkpoint products dataset download workers cache_dataset "
    "val_resize_size val_crop_size teacher exit_confidence new_schedule check_data "
    "data_format frames_path loader".split()
)


@pytest.mark.parametrize("parser", [cifar, gesture, imagenet])
def test_every_option_is_in_the_table(parser):
    names = {action.dest for action in parser()._actions} - {"help"}
    assert names - CHANGES.keys() - OTHERS == set()


def test_the_same_command_gives_the_same_weights(short_run):
    """Or a difference would show nothing below."""
    for script in (FOLDER, EVENTS, IMAGENET):
        assert same_weights(short_run(script), short_run(script, fresh=True))


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_that_changes_the_weights(short_run, name):
    script, both, one = CHANGES[name]
    assert not same_weights(short_run(script, both), short_run(script, f"{both} {one}"))

"""Which folder a run has: the released name, what else differs, and what --resume auto finds where it has none."""

import dataclasses
import shutil

import pytest
import yaml

from full_spike import models
from full_spike.cifar.train import parser as small
from full_spike.imagenet.train import parser as imagenet
from full_spike.utils import checkpoint
from full_spike.utils.train.folder import run_name
from support.command import TINY, only, refused, succeed

TRAIN = "cifar.train"


def name(parser, *argv):
    """The folder's name of a command."""
    config = parser.parse(argv).resolved()
    known = models.model_options(config.network.model)
    network = {**known, **config.network.options(known, parser.defaults.network)}
    usual = known | {key: value for key, value in vars(parser.defaults.network).items() if value is not None}
    return run_name(config, network, parser.defaults, usual)


def test_the_released_command_has_the_released_name():
    command = "--cos_lr_T 320 --model dsnn18 -b 64 --output-dir ./logs --tb --print-freq 500 --amp --cache-dataset"
    command += " --connect_f OR --T 4 --lr 0.1 --epoch 320 --data-path /datasets/imagenet"
    assert name(imagenet, *command.split()) == "dsnn18_b64_lr0.1_T4_wd1e-05_coslr320_sgd_cnf_OR"
    assert name(imagenet) == "dsnn18_b64_lr0.1_T4_wd1e-05_coslr320_sgd_cnf_OR"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("--seed 7", "_seed7"),
        ("--momentum 0.5", "_momentum0.5"),
        ("--ema-decay 0.99", "_emadecay0.99"),
        ("--label-smoothing 0.1", "_labelsmoothing0.1"),
        ("--aap-weight 0.5", "_aapweight0.5"),
        ("--accumulate 4", "_accumulate4"),
        ("--betas 0.8,0.9 --adam", "_betas0.8-0.9"),
        ("--sync-bn", "_syncbn"),
        ("--width 8", "_width8"),
    ],
)
def test_what_is_not_the_default_is_in_the_name(options, part):
    plain = name(small).replace("sgd", "adam") if "--adam" in options else name(small)
    assert name(small, *options.split()) == plain + part


def test_every_option_of_the_recipe_makes_another_name():
    """But for those that a run may be given as it goes on, and --amp, which the published command has."""
    other = {
        bool: lambda _: True,
        int: lambda value: value + 1,
        float: lambda value: value / 2 + 0.25,
        str: lambda value: "step" if value == "cosine" else "adam" if value == "sgd" else f"{value}x",
        tuple: lambda _: (0.5, 0.6),
    }
    config = small.parse(["--lr-scheduler", "cosine"]).resolved()
    plain = run_name(config, {}, small.defaults, {})
    for field in dataclasses.fields(config.recipe):
        value = getattr(config.recipe, field.name)
        if field.name in ("epochs", "amp", "amp_dtype", "step_size", "gamma"):
            continue
        changed = 3 if value is None else value if value is True else other[type(value)](value)
        recipe = dataclasses.replace(config.recipe, **{field.name: changed})
        assert run_name(dataclasses.replace(config, recipe=recipe), {}, small.defaults, {}) != plain, field.name


def test_a_name_that_is_too_long_is_cut_and_still_its_own():
    config = small.parse([]).resolved()
    made = [run_name(config, {}, small.defaults, {}, prefix="x" * 250 + end) for end in ("a_", "b_")]
    assert made[0] != made[1]
    assert max(len(one) for one in made) <= 200


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An output folder with a run of one epoch."""
    out = tmp_path_factory.mktemp("out")
    succeed(TRAIN, *TINY, "--epochs", 1, "--cos_lr_T", 3, "--output-dir", out)
    return out


@pytest.fixture
def out(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "out")
    return tmp_path / "out"


COMMAND = (*TINY, "--cos_lr_T", "3", "--resume", "auto", "--output-dir")


def test_other_options_begin_anew_and_it_is_said_beside_what(out):
    first = only(out)
    text = succeed(TRAIN, *COMMAND, out, "--epochs", 1, "--lr", 0.05, "--seed", 5)
    assert f"beginning at epoch 1; beside it: {first} (lr 0.1 there and 0.05 here, seed 2020 there and 5 here)" in text
    assert len(list(out.iterdir())) == 2


def test_a_run_in_a_folder_of_another_name_goes_on_there(out):
    """As names were, without all options: the same options are the same run."""
    older = out / "as_it_was"
    only(out).rename(older)
    text = succeed(TRAIN, *COMMAND, out, "--epochs", 2)
    assert f"taking the one in {older} (the same options)" in text
    assert "epoch 2, batch 0" in text
    assert only(out) == older


def test_an_older_configuration_lacks_options_and_is_the_same(out):
    folder = only(out)
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    for option in ("name", "mean", "std", "split", "split_seed", "channels"):
        del kept[option]
    (folder / "config.yaml").write_text(yaml.safe_dump(kept))
    folder.rename(out / "as_it_was")
    assert "epoch 2, batch 0" in succeed(TRAIN, *COMMAND, out, "--epochs", 2)


def test_a_named_run_is_another_run(out):
    """Neither is its folder taken for a command without the name, nor another one for a command with a name."""
    text = succeed(TRAIN, *COMMAND, out, "--epochs", 1, "--name", "mine")
    assert f"no checkpoint in {out / 'mine'} yet: beginning at epoch 1; beside it: " in text
    next(path for path in out.iterdir() if path.name != "mine").rename(out.with_name("elsewhere"))
    assert f"beside it: {out / 'mine'} (the same options)" in succeed(TRAIN, *COMMAND, out, "--epochs", 1)


def test_testing_takes_the_run_of_the_same_network_and_data(out):
    """How it was trained need not be told again; where that leaves two, they are named."""
    first = only(out)
    text = succeed(TRAIN, *COMMAND, out, "--test-only", "--seed", 9, "--momentum", 0.5)
    assert f"from {first / checkpoint.LATEST}" in text
    succeed(TRAIN, *COMMAND, out, "--epochs", 1, "--seed", 5)
    line = refused(TRAIN, *COMMAND, out, "--test-only", "--seed", 9, status=1)
    assert "name one by --resume; beside it: " in line
    assert "seed 2020 there and 9 here" in line
    assert "seed 5 there and 9 here" in line
    line = refused(TRAIN, *COMMAND, out, "--test-only", "--width", 5, status=1)
    assert "width 4 there and 5 here" in line


def test_damaged_neighbours_are_nothing(out):
    folder = only(out)
    folder.rename(out / "as_it_was")
    (out / "as_it_was" / "config.yaml").write_bytes(b"\xff{")
    text = succeed(TRAIN, *COMMAND, out, "--epochs", 1)
    assert "beside it" not in text

"""Options as a file: what a run keeps of itself starts it again, and a wrong file is one line."""

import dataclasses
import shutil

import pytest
import torch
import yaml

from full_spike.cifar.train import parser as cifar_parser
from full_spike.dvsgesture.train import parser as gesture_parser
from full_spike.imagenet.train import parser as imagenet_parser
from full_spike.utils import checkpoint
from full_spike.utils.errors import UsageError
from full_spike.utils.options import option, options_of
from full_spike.utils.runtime.parser import OptionsParser, to_yaml
from full_spike.utils.train.config import Config
from support.command import TINY, assert_same_run, only, refused, run, succeed
from support.images import image_tree

TRAIN = "cifar.train"
PARSERS = {"cifar": cifar_parser, "dvsgesture": gesture_parser, "imagenet": imagenet_parser}
OPTIONS = ("--epochs", 2, "--lr", 0.05, "--adam", "--wd", "1e-4", "--warmup-epochs", 1, "--connect_f", "IAND")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = tmp_path_factory.mktemp("first")
    succeed(TRAIN, *TINY, *OPTIONS, "--output-dir", out)
    return only(out)


def test_a_run_started_from_another_runs_configuration_gives_the_same_weights(first, tmp_path):
    succeed(TRAIN, "--config", first / "config.yaml", "--output-dir", tmp_path)
    assert only(tmp_path).name == first.name
    assert_same_run(first, only(tmp_path))
    kept, again = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (first, only(tmp_path)))
    assert again == {**kept, "output_dir": str(tmp_path)}


def test_the_configuration_holds_every_value_in_effect(first):
    kept = yaml.safe_load((first / "config.yaml").read_text())
    lasting = [
        item.name
        for group in dataclasses.fields(Config)
        for item in options_of(type(getattr(cifar_parser.defaults, group.name)))
        if item.about.lasting
    ]
    assert [*kept] == [*lasting, "versions"]
    given = {"epochs": 2, "lr": 0.05, "optimizer": "adam", "weight_decay": 1e-4, "connect_f": "IAND", "width": 4}
    in_effect = {"cos_lr_T": 2, "channels_last": False, "surrogate": "sigmoid", "tau": 2.0, "aap_pool": None}
    assert {name: kept[name] for name in {**given, **in_effect}} == {**given, **in_effect}
    assert kept["versions"]["torch"].startswith("2.")


def test_the_same_run_again_is_refused_as_the_command_is(first):
    assert "holds a run already" in refused(TRAIN, "--config", first / "config.yaml", status=2)


def test_a_configuration_evaluates_its_run(first):
    text = succeed(TRAIN, "--config", first / "config.yaml", "--test-only", "--resume", "auto")
    assert f"dsnn18 from {first / 'checkpoint_latest.pth'}" in text


def write(tmp_path, text):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    return path


def test_the_command_line_wins_over_the_file_and_the_file_over_the_script(tmp_path):
    path = write(tmp_path, "lr: 0.3\nepochs: 7\nfused: true\nneuron: PLIF\n")
    config = cifar_parser.parse(["--config", str(path), "--epochs", "9", "--no-fused"])
    assert (config.recipe.lr, config.recipe.epochs, config.speed.fused) == (0.3, 9, False)
    assert (config.network.neuron, config.network.stem) == ("PLIF", "cifar")


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_written_is_what_is_read(tmp_path, name):
    parser = PARSERS[name]
    config = parser.parse(["--betas", "0.8,0.9", "--amp", "--checkpoint-every", "10min", "--T", "6"])
    assert parser.parse(["--config", str(write(tmp_path, to_yaml(config, {"python": "3"})))]) == config


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_may_be_called_as_any_of_its_flags(tmp_path, name):
    parser = PARSERS[name]
    config = to_yaml(parser.defaults)
    values = yaml.safe_load(config)
    for option_, flags in parser.flags().items():
        for flag in flags:
            if not flag.startswith("--") or flag == "--adam" or option_ not in values:
                continue
            if values[option_] is None:
                continue
            text = yaml.safe_dump({flag.removeprefix("--"): values[option_]})
            assert parser.parse(["--config", str(write(tmp_path, text))]) == parser.defaults, flag


def test_adam_is_an_optimizer_and_an_alias(tmp_path):
    for argv in (["--adam"], ["--optimizer", "adam"], ["--config", str(write(tmp_path, "adam: true\n"))]):
        assert cifar_parser.parse(argv).recipe.optimizer == "adam"
    assert cifar_parser.parse([]).recipe.optimizer == "sgd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 0.1", "there is no option 'learning_rate': did you mean lr?"),
        ("epoch: 3", "there is no option 'epoch': did you mean epochs?"),
        ("batchsize: 3", "there is no option 'batchsize': did you mean batch_size?"),
        ("lr: fast", "lr: 'fast' is no float"),
        ("lr: -1", "lr: -1.0 is negative"),
        ("epochs: 0", "epochs: 0 is below 1"),
        ("epochs: true", "epochs: True is no int"),
        ("epochs: 2.5", "epochs: 2.5 is no int"),
        ("amp: 3", "amp: 3 is neither true nor false"),
        ("optimizer: lion", "optimizer: 'lion' is unknown, choose one of sgd, adam, adamw"),
        ("betas: [0.9]", "betas: 0.9 is no pair"),
        ("wd: 1\nweight_decay: 2", "gives weight_decay twice"),
        ("lr: [1, 2", "is no YAML in line"),
        ("- lr", "holds no options"),
        ("lr: {a: 1}", "lr: {'a': 1} is no float"),
        ("!!python/object/apply:os.getcwd []", "is no YAML in line 1"),
        ("lr: 1\nepochs: 2\nlr: 3", "gives 'lr' twice in line 3"),
        ("betas: &a [0.9, 0.9]\nlr: *a", "repeats a value by *a in line 2"),
        ("seed: " + "9" * 5000, "is no YAML"),
        ("name: 2026-13-45", "is no YAML"),
        ("lr: !!float fast", "is no YAML"),
        ("lr: 1 #" + "." * 70_000, "has more than 65536 bytes"),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path, text, message):
    line = refused(TRAIN, "--config", write(tmp_path, text), status=2)
    assert str(tmp_path / "options.yaml") in line
    assert message in line


def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path):
    assert "cannot be read" in refused(TRAIN, "--config", tmp_path / "none.yaml", status=2)
    (tmp_path / "bytes.yaml").write_bytes(b"lr: \xff\xfe")
    assert "is no text in UTF-8 (byte 4)" in refused(TRAIN, "--config", tmp_path / "bytes.yaml", status=2)
    assert "is a folder, not a regular file" in refused(TRAIN, "--config", tmp_path, status=2)


def test_two_groups_cannot_have_an_option_of_one_name():
    @dataclasses.dataclass(frozen=True)
    class Data(type(cifar_parser.defaults.data)):
        lr: float = option(1.0, "again")

    with pytest.raises(ValueError, match="two groups have an option 'lr'"):
        OptionsParser("", Config, {"data": Data})
    with pytest.raises(ValueError, match="there is no option 'speed_limit'"):
        OptionsParser("", Config, speed_limit=3)


def test_options_of_the_network_that_it_does_not_have(tmp_path):
    """A script's default is left out where a model has no such option; what the user gives is not."""
    config = cifar_parser.parse(["--model", "dsnn_7b"])
    known = {"T": 16, "neuron": "PLIF"}
    assert config.network.options(known, cifar_parser.defaults.network) == {"neuron": "LIF"}
    path = write(tmp_path, "model: dsnn_7b\nstem: imagenet\n")
    config = cifar_parser.parse(["--config", str(path)])
    assert config.network.options(known, cifar_parser.defaults.network) == {"neuron": "LIF", "stem": "imagenet"}


def test_the_recipe_that_a_checkpoint_keeps_is_all_of_it(first, tmp_path):
    """What changes within a run is said, whichever option it is."""
    options = (
        *TINY,
        *OPTIONS,
        "--epochs",
        3,
        "--cos_lr_T",
        2,
        "--seed",
        2020,
        "--label-smoothing",
        0.1,
        "--name",
        "run",
    )
    start = (
        "--config",
        first / "config.yaml",
        "--output-dir",
        tmp_path,
        "--epochs",
        1,
        "--cos_lr_T",
        2,
        "--name",
        "run",
    )
    succeed(TRAIN, *start)
    text = succeed(TRAIN, *options, "--momentum", 0.5, "--output-dir", tmp_path, "--resume", "auto")
    (line,) = (line for line in text.splitlines() if line.startswith("warning: options changed"))
    for change in ("label_smoothing 0.0 -> 0.1", "momentum 0.9 -> 0.5"):
        assert change in line
    assert line.count("->") == 2


def test_a_command_of_its_own_process_reads_it(first, tmp_path):
    """What the other tests run in this process."""
    text = succeed(TRAIN, "--config", first / "config.yaml", "--output-dir", tmp_path, "--epochs", 1, how=run)
    assert "epoch 1/1" in text


def test_unreadable_options_are_seen_before_anything_is_made(tmp_path):
    with pytest.raises(UsageError, match="did you mean"):
        cifar_parser.parse(["--config", str(write(tmp_path, "lrr: 1"))])


def test_other_files_are_said_between_epochs_and_refused_inside_one(tmp_path):
    """A checkpoint keeps a fingerprint of the training files: names, classes, sizes."""
    root = image_tree(tmp_path / "data", count=4)
    options = (*TINY, "-b", 2, "--dataset", "folder", "--data-path", root, "--output-dir", tmp_path / "out")
    succeed(TRAIN, *options, "--epochs", 2, "--cos_lr_T", 9)
    folder = only(tmp_path / "out")
    kept = checkpoint.load(folder / checkpoint.LATEST)
    shutil.copy(root / "train/cat/1.jpg", root / "train/cat/2.jpg")  # as many files, of the same names
    text = succeed(TRAIN, *options, "--epochs", 3, "--cos_lr_T", 9, "--resume", "auto")
    assert f"warning: options changed since the checkpoint (files {kept['recipe']['files']} -> " in text
    torch.save({**kept, "step": 1}, folder / checkpoint.LATEST)
    line = refused(TRAIN, *options, "--epochs", 3, "--cos_lr_T", 9, "--resume", "auto", status=1)
    assert "stopped inside epoch 3, where the data are dealt out by" in line
    assert "files" in line


@pytest.mark.parametrize("change", [("--image-size", 16), ("--amp",), ("--label-smoothing", 0.1)])
def test_what_changes_a_step_is_said_on_resuming(first, tmp_path, change):
    options = (*TINY, "--cos_lr_T", 3, "--output-dir", tmp_path, "--name", "run")
    succeed(TRAIN, *options, "--epochs", 1)
    text = succeed(TRAIN, *options, "--epochs", 2, "--resume", "auto", *change)
    assert f"{change[0].removeprefix('--').replace('-', '_')} " in text.split("options changed")[1]

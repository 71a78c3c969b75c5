"""Wrong command lines and --config files of training: each is one line that names the value and the constraint."""

import re

import pytest
import yaml

from full_spike.cifar.train import make_parser as cifar
from full_spike.dvsgesture.train import make_parser as gesture
from full_spike.imagenet.train import make_parser as imagenet
from full_spike.utils.errors import UsageError
from full_spike.utils.options import parse, write_config
from support.command import TINY, assert_same_run, only, refused, succeed

PARSERS = {"cifar": cifar, "dvsgesture": gesture, "imagenet": imagenet}

WRONG = [
    ("--lr -0.1", "--lr: -0.1 is negative"),
    ("--lr nan", "--lr: nan is not finite"),
    ("--lr fast", "--lr: invalid non_negative value: 'fast'"),
    ("--wd inf", "--wd/--weight-decay: inf is not finite"),
    ("--tau 1", "--tau: 1.0 is not above 1"),
    ("--alpha 0", "--alpha: 0.0 is not above 0"),
    ("--momentum 1", "--momentum: 1.0 is outside"),
    ("--ema-decay 1.5", "--ema-decay: 1.5 is outside"),
    ("--betas 0.9", "--betas: 0.9 is no pair"),
    ("--betas 0.9,2", "--betas: 2.0 is outside"),
    ("--optimizer lion", "--optimizer: invalid choice: 'lion'"),
    ("--epochs 0", "--epochs: 0 is below 1"),
    ("--epochs 99999999999999999999", "is above 2147483647"),
    ("--start-epoch 2", "--start-epoch 2 leaves no epoch of --epochs 2"),
    ("--warmup-epochs 9", "--warmup-epochs 9 leaves nothing of --cos_lr_T 2"),
    ("--lr-scheduler cosine-timm --warmup-epochs 9", "--warmup-epochs 9 leaves nothing of --cos_lr_T 2"),
    ("--warmup-lr 0.5", "--warmup-lr 0.5 is above --lr 0.1"),
    ("--min-lr 0.5", "--min-lr 0.5 is above --lr 0.1"),
    ("--cooldown-epochs 1", "--cooldown-epochs 1 would train at a learning rate of 0"),
    ("--min-lr 0.01 --cooldown-epochs 2", "--cooldown-epochs 2 leave nothing of --epochs 2"),
    ("--min-lr 0.01 --cooldown-epochs 1 --cos_lr_T 2", "do not make up --epochs 2"),
    ("--clip-grad-norm 0", "--clip-grad-norm: 0.0 is not above 0"),
    ("--hflip 1.5", "--hflip: 1.5 is outside"),
    ("--ra-magnitude 31", "--ra-magnitude: invalid choice: 31"),
    ("-b 0", "-b/--batch-size: 0 is below 1"),
    ("-j -1", "-j/--workers: -1 is negative"),
    ("--seed -3", "--seed: -3 is outside"),
    ("--checkpoint-every soon", "'soon' is no interval"),
    ("--checkpoint-every 0", "'0' is no interval"),
    ("--name a/b", "'a/b' is no folder's name"),
    ("--dataset mnist", "--dataset: invalid choice: 'mnist'"),
    ("--dist-timeout 0", "--dist-timeout: 0.0 is not above 0"),
    ("--test-only", "--test-only needs weights"),
    ("--detach", "--detach is of a trained network: use it with --test-only"),
    ("--exit-confidence 0.9", "--exit-confidence is of a trained network: use it with --test-only"),
    ("--exit-confidence 0.9,2", "--exit-confidence: 2.0 is outside"),
    ("--teacher x.pth", "--teacher x.pth is not used by --loss ce: add --loss distill"),
    ("--ema", "--ema takes averaged weights, and this run keeps none"),
    ("--overwrite --resume auto", "--overwrite begins anew and --resume goes on"),
    ("--lerning-rate 1", "unrecognized arguments: --lerning-rate 1"),
    ("--labelsmoothing 1", "did you mean --label-smoothing?"),
    ("--ep 1", "ambiguous option: --ep could match"),
    ("--config no.yaml", "--config no.yaml cannot be read"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_command(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(cifar(), f"--epochs 2 {options}".split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model dsnn19", "model='dsnn19' is unknown: did you mean dsnn18"),
        ("--connect_f NAND", "connect_f='NAND' is unknown"),
        ("--model fsnn18 --aux-head shared", "fsnn18 has no option 'aux_head'"),
        ("--model fsnn18 --loss distill", "--loss distill needs a --teacher, or a network with a pathway"),
        ("--model fsnn18 --aap-weight-end 0", "weigh the pathway's loss, and fsnn18 has no pathway"),
        ("--device abacus", "--device abacus"),
        ("--world-size 4", "--world-size 4"),
    ],
)
def test_what_shows_once_the_network_is_built(tmp_path, options, message):
    assert message in refused("cifar.train", *TINY, *options.split(), "--output-dir", tmp_path, status=2)
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 0.1", "there is no option 'learning_rate': did you mean"),
        ("epoch: 3", "there is no option 'epoch': did you mean epochs?"),
        ("lr: fast", "--lr: invalid non_negative value: 'fast'"),
        ("epochs: 2.5", "--epochs: invalid positive_int value: '2.5'"),
        ("amp: 3", "amp: 3 is neither true nor false"),
        ("betas: [0.9]", "--betas: 0.9 is no pair"),
        ("lr: [1, 2", "cannot be read"),
        ("- lr", "holds no options"),
        ("lr: {a: 1}", "lr: a mapping is no value"),
        ("!!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_a_wrong_file_of_options(tmp_path, text, message):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        parse(cifar(), ["--config", str(path)])
    assert str(path) in str(error.value) or message.startswith(("lr:", "amp:"))


def test_the_command_line_wins_over_the_file_and_the_file_over_the_script(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("lr: 0.3\nepochs: 7\nfused: true\nneuron: PLIF\nadam: true\n")
    args = parse(cifar(), ["--config", str(path), "--epochs", "9", "--no-fused"])
    assert (args.lr, args.epochs, args.fused, args.neuron, args.stem) == (0.3, 9, False, "PLIF", "cifar")
    assert args.optimizer == "adam"


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_written_is_what_is_read(tmp_path, name):
    given = "--betas 0.8,0.9 --amp --checkpoint-every 10min --T 6 --fused".split()
    args = parse(PARSERS[name](), given)
    path = tmp_path / "config.yaml"
    path.write_text(write_config(args, {"python": "3"}))
    again = parse(PARSERS[name](), ["--config", str(path)])
    assert {**again.all(), "config": None} == args.all()


def test_the_released_spellings_are_taken():
    released = "--connect_f IAND --cos_lr_T 7 --zero_init_residual --lr_scheduler cosine --aux_head separate --epoch 9"
    ours = "--connect-f IAND --cos-lr-T 7 --zero-init-residual --lr-scheduler cosine --aux-head separate --epochs 9"
    assert parse(imagenet(), released.split()).all() == parse(imagenet(), ours.split()).all()


def test_a_run_started_from_another_runs_configuration_gives_the_same_weights(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    options = "--epochs 1 --lr 0.05 --adam --wd 1e-4 --connect_f IAND".split()
    succeed("cifar.train", *TINY, *options, "--output-dir", first)
    kept = only(first) / "config.yaml"
    succeed("cifar.train", "--config", kept, "--output-dir", second)
    assert only(second).name == only(first).name
    assert_same_run(only(first), only(second))
    assert yaml.safe_load((only(second) / "config.yaml").read_text()) == {
        **yaml.safe_load(kept.read_text()), "output_dir": str(second),
    }  # fmt: skip
    assert "holds a run already" in refused("cifar.train", "--config", kept, status=2)

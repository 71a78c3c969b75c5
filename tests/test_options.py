"""Every option of every training script does something: a run with it differs from one without it, where it should.

The scripts' own --help says which options there are. An option without a row here is an error.
"""

import ast
import ctypes
import json
import platform
import re
import resource
import sys
from functools import partial
from types import SimpleNamespace

import processes
import pytest
import torch
from command import ROOT, call, refused, succeed
from events import gestures
from images import image_tree, imagenet_tree
from torch import nn

import cifar.train
import cifar10dvs.train
import dvsgesture.train
import imagenet.train
from utils.train import checkpoint

SCRIPTS = {module.__name__: module for module in (cifar.train, cifar10dvs.train, dvsgesture.train, imagenet.train)}
FOLDER, EVENTS, IMAGENET = "cifar.train", "dvsgesture.train", "imagenet.train"

# Options that must change the weights of a short run: script, what both runs are given, what one of them is.
CHANGES = {
    "data_path": (FOLDER, "", "--data-path {other}"),
    "batch_size": (FOLDER, "", "-b 3"),
    "image_size": (FOLDER, "", "--image-size 12"),
    "train_crop_size": (IMAGENET, "", "--train-crop-size 12"),
    "T_train": (EVENTS, "--T-train 4", "--T-train 2"),
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
    "optimizer": (FOLDER, "", "--optimizer adamw"),
    "momentum": (FOLDER, "", "--momentum 0.5"),
    "betas": (FOLDER, "--adam", "--betas 0.5,0.9"),
    "eps": (FOLDER, "--adam", "--eps 0.1"),
    "weight_decay": (FOLDER, "", "--wd 0.1"),
    "label_smoothing": (FOLDER, "", "--label-smoothing 0.2"),
    "accumulate": (FOLDER, "", "--accumulate 2"),
    "amp": (FOLDER, "", "--amp"),
    "amp_dtype": (FOLDER, "--amp", "--amp-dtype fp16"),
    "seed": (FOLDER, "", "--seed 7"),
}

# Options that a test of another file covers.
ELSEWHERE = {
    "sync_bn": ("test_devices.py", "test_synchronised_batch_norm_makes_two_processes_equal_one"),
    "dist_url": ("test_event_training.py", "test_several_processes_prepare_once_train_and_score_each_sample_once"),
    "dist_timeout": ("test_imagenet.py", "test_an_unreachable_rendezvous"),
    "fused": ("test_fused.py", "test_the_training_flag"),
    "config": ("test_config.py", "test_a_run_started_from_another_runs_configuration_gives_the_same_weights"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(script, options): what a short run of it ends with; the same options are run once."""
    made = tmp_path_factory.mktemp("data")
    paths = {
        "images": image_tree(made / "images", count=6),
        "other": image_tree(made / "other", classes=("owl", "yak"), count=7),
        "imagenet": imagenet_tree(made / "imagenet", count=4),
        "events": gestures(made / "events", count=12),
    }
    common = "-j 0 --device cpu --epochs 1"
    base = {
        FOLDER: f"--dataset folder --data-path {paths['images']} --image-size 8 --width 2 --T 2 -b 4 {common}",
        EVENTS: f"--data-path {paths['events']} --frame-size 16 --width 2 --T 4 -b 6 {common}",
        IMAGENET: f"--data-path {paths['imagenet']} --train-crop-size 16 --val-resize-size 18 --val-crop-size 16 "
        f"--width 2 --T 2 -b 4 {common}",
    }
    done = {}

    def start(script, options="", out=None, fresh=False):
        command = f"{base[script]} {options.format(**paths)}"
        if fresh or out is not None or (script, command) not in done:
            folder = out or tmp_path_factory.mktemp("out")
            text = succeed(script, *command.split(), "--output-dir", folder)
            outcome = SimpleNamespace(text=text, out=folder, command=(*command.split(), "--output-dir", folder))
            (outcome.folder,) = (path for path in folder.iterdir() if not path.name.endswith("_logs"))
            outcome.state = checkpoint.read(outcome.folder / checkpoint.LATEST)
            lines = (outcome.folder / "metrics.jsonl").read_text().splitlines()
            outcome.entries = [{**json.loads(line), "images_per_second": None} for line in lines]
            if fresh or out is not None:
                return outcome
            done[script, command] = outcome
        return done[script, command]

    start.paths = paths
    return start


def same_weights(a, b):
    ours, theirs = a.state["model"], b.state["model"]
    shapes = [{key: value.shape for key, value in state.items()} for state in (ours, theirs)]
    return shapes[0] == shapes[1] and all(torch.equal(ours[key], value) for key, value in theirs.items())


# The table against --help


def in_help(script):
    """Every flag that --help lists."""
    entries = re.findall(r"(?m)^  (-\S.*?)(?:  .*)?$", succeed(script, "--help"))
    return {flag.split()[0] for entry in entries for flag in entry.split(", ")} - {"-h", "--help"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_in_help_has_a_test(script):
    names = {flag: name for name, flags in SCRIPTS[script].parser.flags().items() for flag in flags}
    shown = in_help(script)
    assert len(shown) > 70
    found = {names.get(flag) or names.get(flag.replace("--no-", "--"), flag.removeprefix("--")) for flag in shown}
    tested = {*CHANGES, *ELSEWHERE, *(name.removeprefix("test_") for name in globals() if name.startswith("test_"))}
    assert found - tested == set()


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
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


# What changes the weights


def test_the_same_command_gives_the_same_weights(run):
    """Or a difference would show nothing below."""
    for script in (FOLDER, EVENTS, IMAGENET):
        assert same_weights(run(script), run(script, fresh=True))


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_that_changes_the_weights(run, name):
    script, both, one = CHANGES[name]
    assert not same_weights(run(script, both), run(script, f"{both} {one}"))


# What changes something else, and not the weights


def test_dataset(run):
    """Two readings of one folder."""
    line = refused(FOLDER, *run(FOLDER).command, "--overwrite", "--dataset", "cifar10", status=1)
    assert "does not hold cifar10" in line
    assert "of 10 classes" in run(EVENTS).text
    assert "of 11 classes" in run(EVENTS, "--dataset dvsgesture").text


def test_workers(run):
    """As many processes are started to load training images, and as many to load test images."""
    forks = 0

    def count(event, _):
        nonlocal forks
        forks += event == "os.fork"

    alone = run(FOLDER)
    sys.addaudithook(count)
    assert same_weights(run(FOLDER, "-j 2"), alone)
    assert forks == 4
    run(FOLDER, fresh=True)
    assert forks == 4


def test_cache_dataset(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (run(FOLDER, "--cache-dataset", fresh=True) for _ in range(2))
    assert "from the index" not in first.text
    assert "from the index" in second.text
    assert same_weights(first, second)
    assert "from the index" not in run(FOLDER, fresh=True).text


def test_download(tmp_path, monkeypatch):
    """It is tried: here by way of a proxy that is not there."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    options = ("--dataset", "cifar10", "--data-path", tmp_path / "data", "--device", "cpu", "--output-dir", tmp_path)
    assert "add --download to fetch it there" in refused(FOLDER, *options, status=1)
    assert "cannot download to" in refused(FOLDER, *options, "--download", status=1)


@pytest.mark.parametrize("option", ["--val-resize-size 20", "--val-crop-size 12"])
def test_how_test_images_are_cut(run, option):
    one, other = run(IMAGENET), run(IMAGENET, option)
    assert same_weights(one, other)
    assert one.entries[0]["test"] != other.entries[0]["test"]


test_val_resize_size = test_val_crop_size = test_how_test_images_are_cut


def test_ema_decay(run):
    plain, averaged, slower = (run(FOLDER, option) for option in ("", "--ema-decay 0.5", "--ema-decay 0.9"))
    assert same_weights(plain, averaged)
    assert plain.state["ema"] is None
    assert "ema" not in plain.entries[0]
    assert averaged.entries[0]["ema"] != slower.entries[0]["ema"]


def test_output_dir(run, tmp_path):
    there = run(FOLDER, out=tmp_path / "there")
    assert there.folder.parent == tmp_path / "there"
    assert same_weights(there, run(FOLDER))


def test_start_epoch(run):
    """The first epoch's number, the learning rate of that epoch and its order of the images."""
    first, second = (run(FOLDER, f"--epochs 2 --lr-scheduler step --step-size 1 {x}") for x in ("", "--start-epoch 1"))
    assert [entry["epoch"] for entry in second.entries] == [1]
    assert second.entries[0]["lr"] == first.entries[1]["lr"] != first.entries[0]["lr"]


def test_resume(run, tmp_path):
    whole = run(FOLDER, "--epochs 2 --cos_lr_T 2")
    half = run(FOLDER, "--cos_lr_T 2", out=tmp_path)
    assert "holds a run already" in refused(FOLDER, *half.command, status=2)
    on = run(FOLDER, "--epochs 2 --cos_lr_T 2 --resume auto", out=tmp_path)
    assert "epoch 2, batch 0" in on.text
    assert same_weights(on, whole)
    assert on.entries == whole.entries


def test_overwrite(run, tmp_path):
    first = run(FOLDER, "--seed 3 --epochs 2 --cos_lr_T 1", out=tmp_path)
    assert "holds a run already" in refused(FOLDER, *first.command, status=2)
    second = run(FOLDER, "--overwrite --epochs 1", out=tmp_path)
    assert same_weights(second, run(FOLDER))
    assert [entry["epoch"] for entry in second.entries] == [0]


def test_checkpoint_every(run):
    """The one before the last was written inside the epoch, which has three steps."""
    plain, often = run(FOLDER), run(FOLDER, "--checkpoint-every 1")
    assert not (plain.folder / checkpoint.PREVIOUS).exists()
    assert checkpoint.read(often.folder / checkpoint.PREVIOUS)["step"] == 2
    assert same_weights(plain, often)


def scores(text):
    """The rows of the table that --test-only prints: loss by readout."""
    return {found[1]: float(found[2]) for found in re.finditer(r"(?m)^(\w+) +[\d.]+ +[\d.]+ +([\d.]+) +\d+$", text)}


def test_test_only(run):
    trained = run(FOLDER)
    before = {path: path.read_bytes() for path in trained.folder.iterdir()}
    text = succeed(FOLDER, *trained.command, "--resume", "auto", "--test-only", "--epochs", 5, "--cos_lr_T", 1)
    losses = {name: score["loss"] for name, score in trained.entries[0]["test"].items()}
    assert scores(text) == pytest.approx(losses, abs=1e-4)
    assert {path: path.read_bytes() for path in trained.folder.iterdir()} == before


def test_ema(run):
    trained = run(FOLDER, "--ema-decay 0.5")
    command = (FOLDER, *trained.command, "--resume", "auto", "--test-only")
    for option, part in (("", "test"), ("--ema", "ema")):
        losses = {name: score["loss"] for name, score in trained.entries[0][part].items()}
        assert scores(succeed(*command, *option.split())) == pytest.approx(losses, abs=1e-4)
    assert trained.entries[0]["test"] != trained.entries[0]["ema"]


def test_detach(run, tmp_path):
    trained = run(FOLDER, out=tmp_path)
    command = (FOLDER, *trained.command, "--resume", "auto", "--test-only")
    assert scores(succeed(*command)).keys() == {"fsnn", "aap", "sum"}
    assert not (trained.folder / "fsnn.pth").exists()
    assert scores(succeed(*command, "--detach")).keys() == {"output"}
    assert (trained.folder / "fsnn.pth").exists()


def test_synops(run, tmp_path):
    """With and without --no-syops, which is about the package of that name."""
    trained = run(FOLDER, out=tmp_path)
    command = (FOLDER, *trained.command, "--resume", "auto", "--test-only")
    succeed(*command)
    assert not (trained.folder / "synops").exists()
    assert "syops: AC" in succeed(*command, "--synops")
    assert (trained.folder / "synops" / "synops.json").exists()
    alone = succeed(*command, "--synops", "--no-syops")
    assert "AC" in alone
    assert "syops: AC" not in alone


test_no_syops = test_synops


def test_print_freq(run):
    counts = [len(re.findall(r"(?m)^epoch 1/1 +\d/3 ", run(FOLDER, f"--print-freq {n}").text)) for n in (1, 2, 4)]
    assert counts == [3, 1, 0]


def test_tb(run):
    plain, logged = run(FOLDER), run(FOLDER, "--tb")
    assert not plain.folder.with_name(f"{plain.folder.name}_logs").exists()
    assert list(logged.folder.with_name(f"{logged.folder.name}_logs").glob("te/events.out.tfevents.*"))
    assert "firing_rate" in logged.entries[0]
    assert "firing_rate" not in plain.entries[0]


def test_device(run):
    command = (FOLDER, *run(FOLDER).command, "--overwrite")
    assert "--device abacus is unknown" in refused(*command, "--device", "abacus", status=2)
    if not torch.cuda.is_available():
        assert "this machine has no CUDA device" in refused(*command, "--device", "cuda", status=2)


def test_world_size(run):
    command = (FOLDER, *run(FOLDER).command, "--overwrite")
    assert "--world-size 2, but this is a single process" in refused(*command, "--world-size", 2, status=2)


def test_channels_last(run):
    def strides(outcome):
        return outcome.state["model"]["layer1.0.conv1.0.weight"].stride()

    assert strides(run(FOLDER)) == (18, 9, 3, 1)
    assert (
        strides(run(FOLDER, "--channels-last")) == strides(run(FOLDER, "--channels-last --no-fused")) == (18, 1, 6, 2)
    )
    assert strides(run(FOLDER, "--no-channels-last")) == (18, 9, 3, 1)


def faults_after(command):
    """Page faults of taking a large block again and again, once a run has ended; without transparent huge pages."""
    assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0  # PR_SET_THP_DISABLE
    assert call(FOLDER, *command).returncode == 0
    for _ in range(30):
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_keep_memory(run, tmp_path):
    """What a run leaves its process with."""
    command = (*run(FOLDER).command, "--overwrite")
    shares = []
    for option in ((), ("--no-keep-memory",)):
        log = tmp_path / "".join(("log", *option))
        process = processes.start(partial(faults_after, (*command, *option)), log=log)
        process.join(120)
        assert process.exitcode == 0, log.read_text()
        shares.append(int(log.read_text()) * resource.getpagesize() / 2**26)
    assert shares[0] < 0.01
    assert shares[1] > 0.9
    assert same_weights(run(FOLDER), run(FOLDER, "--no-keep-memory"))


def test_compile(run):
    """Compiling is begun, and refused here because it takes minutes; test_training.py compiles a smaller network."""
    command = (FOLDER, *run(FOLDER).command, "--overwrite")
    with torch.compiler.set_stance("fail_on_recompile"):
        succeed(*command)
        with pytest.raises(RuntimeError, match="fail_on_recompile"):
            call(*command, "--compile")


def test_memory_saving(run):
    """Some convolutions are computed twice, and nothing changes."""

    def convolutions(option):
        calls = 0

        def count(module, *_):
            nonlocal calls
            calls += isinstance(module, nn.Conv2d)

        handle = nn.modules.module.register_module_forward_hook(count)
        outcome = run(FOLDER, option, fresh=True)
        handle.remove()
        return calls, outcome

    (plain, outcome), (saving, same) = convolutions(""), convolutions("--memory-saving")
    assert plain < saving < 2 * plain
    assert same_weights(outcome, same)

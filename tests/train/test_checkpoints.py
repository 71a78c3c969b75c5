"""Checkpoints as files: what a failing write leaves, what is read of damaged ones, and what a run goes on from."""

import resource
import shutil
import subprocess
import sys

import pytest
import torch

from full_spike.utils import checkpoint
from full_spike.utils.errors import UserError
from support.command import ROOT, TORCHRUN, assert_same_run, newest, only, refused, run_together, succeed
from support.images import image_tree

TRAIN = "full_spike.cifar.train"
OPTIONS = "--image-size 8 --width 2 --T 2 -b 4 -j 0 --device cpu --cos_lr_T 3".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The options of a run of three steps an epoch."""
    data = image_tree(tmp_path_factory.mktemp("data") / "images", count=6)
    return (*OPTIONS, "--dataset", "folder", "--data-path", data)


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """The folders of the same run after two epochs, and after all three."""
    root = tmp_path_factory.mktemp("made")
    for epochs in (2, 3):
        succeed(TRAIN, *run, "--epochs", epochs, "--output-dir", root / str(epochs))
    return only(root / "2"), only(root / "3")


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the run of two epochs."""
    return shutil.copytree(made[0], tmp_path / "out" / made[0].name)


def test_a_failing_write_leaves_the_newest_two(tmp_path):
    """The kernel refuses files as large as the third."""
    for number in (1, 2):
        checkpoint.write_latest(tmp_path, {"number": number})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*untouched"):
            checkpoint.write_latest(tmp_path, {"number": 3, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([checkpoint.LATEST, checkpoint.PREVIOUS])
    kept = [checkpoint.load(tmp_path / name)["number"] for name in (checkpoint.PREVIOUS, checkpoint.LATEST)]
    assert kept == [1, 2]
    checkpoint.write_latest(tmp_path, {"number": 3})
    assert checkpoint.load(tmp_path / checkpoint.PREVIOUS)["number"] == 2


@pytest.mark.parametrize(
    "launcher",
    [(), pytest.param((*TORCHRUN, "--nproc-per-node=2", "-m"), marks=pytest.mark.slow)],
    ids=["one process", "two"],
)
def test_a_full_disk_is_one_line_and_the_checkpoint_before_it_survives(run, folder, launcher):
    if launcher:  # the same, trained by two
        shutil.rmtree(folder)
        succeed(TRAIN, *run, "--epochs", 2, "--output-dir", folder.parent, how=run_together)
    before = checkpoint.read(folder / checkpoint.LATEST)["model"]
    size = (folder / checkpoint.LATEST).stat().st_size
    command = [sys.executable, "-m", *launcher, "cifar.train", *map(str, run)]
    command += ["--epochs", "3", "--output-dir", str(folder.parent), "--resume", "auto"]
    limited = ["bash", "-c", f'ulimit -f {size // 2048}; exec "$@"', "-", *command]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"error: cannot write {folder / checkpoint.LATEST} (File too large)" in done.stderr
    if not launcher:
        assert "Traceback" not in done.stderr
    after = checkpoint.read(folder / checkpoint.LATEST)["model"]
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not list(folder.glob("*.partial"))


def test_a_checkpoint_that_lacks_an_option_of_today_goes_on(run, made, folder):
    """As one that was written before the option was."""
    latest = folder / checkpoint.LATEST
    state = checkpoint.read(latest)
    del state["config"]["surrogate"], state["recipe"]["aap_weight"], state["recipe"]["hflip"]
    checkpoint.write(latest, state)
    text = succeed(TRAIN, *run, "--epochs", 3, "--output-dir", folder.parent, "--resume", "auto")
    assert f"resumed from {latest}: epoch 3, batch 0" in text
    assert "options changed" not in text
    assert_same_run(folder, made[1])


def test_another_number_of_processes_is_for_between_epochs(run, folder):
    args = (*run, "--epochs", 3, "--output-dir", folder.parent, "--resume", "auto")
    latest = folder / checkpoint.LATEST
    state = checkpoint.read(latest)
    text = succeed(TRAIN, *args, how=run_together)
    assert "warning: options changed since the checkpoint (world_size 1 -> 2)" in text
    checkpoint.write(latest, {**state, "step": 1})
    for options, change, how in (((), "world_size 1 -> 2", run_together), (("-b", 2), "batch_size 4 -> 2", None)):
        if how:
            done, _ = run_together(TRAIN, *args)
            line = done.stderr
            assert done.returncode == 1
        else:
            line = refused(TRAIN, *args[:-2], *options, "--name", "x", "--resume", latest, status=1)
        assert "stopped inside epoch 3, whose data would be dealt out otherwise" in line
        assert change in line


def resume(run, folder, path, *options, status=1):
    """The line that a run which cannot go on from this says; the checkpoints beside it stay."""
    before = {p.name: p.read_bytes() for p in folder.glob("*.pth")}
    command = (*run, "--epochs", 3, "--output-dir", folder.parent, "--resume", path)
    line = refused(TRAIN, *command, *options, status=status)
    assert {p.name: p.read_bytes() for p in folder.glob("*.pth")} == before
    return line


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_what_is_no_checkpoint_of_a_run_is_one_line(run, folder):
    assert "there is no checkpoint" in resume(run, folder, folder / "none.pth")
    (folder / "empty").mkdir()
    assert "there is no checkpoint" in resume(run, folder, folder / "empty")
    assert "--resume" in resume(run, folder, "", status=2)
    state, path = checkpoint.read(folder / checkpoint.LATEST), folder / "other.pth"
    for content, message in (
        ({**state, "format": {"name": "other", "version": 1}}, "another program"),
        ({**state, "format": {"name": "full-spike-aap", "version": 99}}, "format version 99"),
        ({"model": state["model"]}, "holds weights alone"),
        ([1, 2, 3], "holds weights alone"),
        ({key: value for key, value in state.items() if key != "random_states"}, "it has no 'random_states'"),
        ({**state, "model": {**state["model"], "fc.bias": torch.tensor([1.0, float("nan")])}}, "are not finite"),
        ({**state, "optimizer": []}, "does not fit this run"),
    ):
        torch.save(content, path)
        assert message in resume(run, folder, path)
    path.write_text("hello")
    assert "damaged or no checkpoint" in resume(run, folder, path)


def test_code_in_a_checkpoint_does_not_run(run, folder, tmp_path):
    path = folder / "malicious.pth"
    torch.save({"model": Malicious(str(tmp_path / "executed"))}, path)
    for options in ((), ("--test-only",)):
        assert "could run code" in resume(run, folder, path, *options)
    assert not (tmp_path / "executed").exists()


def test_damage_is_noticed(run, folder):
    data = (folder / checkpoint.LATEST).read_bytes()
    (folder / "cut.pth").write_bytes(data[: len(data) // 2])
    assert "damaged" in resume(run, folder, folder / "cut.pth")
    state = checkpoint.read(folder / checkpoint.LATEST)
    weight = state["model"]["layer3.0.conv1.0.weight"].numpy().tobytes()
    position = data.find(weight)
    assert position > 0
    places = [position + 5, *range(1000, len(data) - 5000, len(data) // 5)]
    for i, place in enumerate(places):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (i + 4) % 8
        (folder / "flipped.pth").write_bytes(flipped)
        if i == 0:
            assert "(checksum of" in resume(run, folder, folder / "flipped.pth")
        try:
            content = checkpoint.read(folder / "flipped.pth")
        except UserError:
            continue
        # between two records there is padding that means nothing
        assert all(torch.equal(value, state["model"][key]) for key, value in content["model"].items())


def test_a_runs_folder_goes_on_and_is_tested(run, made, folder, tmp_path):
    args = (*run, "--epochs", 3, "--output-dir", tmp_path / "elsewhere", "--resume", folder)
    assert f"resumed from {folder / checkpoint.LATEST}: epoch 3, batch 0" in succeed(TRAIN, *args)
    assert_same_run(folder, made[1])
    assert f"dsnn18 from {folder / checkpoint.LATEST}" in succeed(TRAIN, *args, "--test-only")
    assert not (tmp_path / "elsewhere").exists()


def test_another_network_is_named(run, folder):
    path = folder / checkpoint.LATEST
    assert "model='dsnn18' instead of 'dsnn34'" in resume(run, folder, path, "--model", "dsnn34")
    assert "T=2 instead of 3" in resume(run, folder, path, "--T", 3)
    assert "connect_f='OR' instead of 'IAND'" in resume(run, folder, path, "--connect_f", "IAND")
    assert "has no averaged weights" in resume(run, folder, path, "--ema-decay", 0.9, "--name", "x", status=2)


def test_auto_passes_over_a_damaged_one_and_says_so(run, made, folder):
    latest = folder / checkpoint.LATEST
    latest.write_bytes(latest.read_bytes()[:1000])
    text = succeed(TRAIN, *run, "--epochs", 3, "--output-dir", folder.parent, "--resume", "auto")
    assert f"passed over: {latest} is damaged" in text
    assert f"resumed from {folder / checkpoint.PREVIOUS}: epoch 2, batch 3" in text  # trained, and not yet tested
    assert_same_run(folder, made[1])
    for path in folder.glob("*.pth"):
        path.write_bytes(b"")
    assert f"every checkpoint in {folder} is damaged" in resume(run, folder, "auto")


def test_a_run_is_not_written_over_by_accident(run, made, folder):
    before = {p.name: p.read_bytes() for p in folder.glob("*.pth")}
    again = (*run, "--epochs", 3, "--output-dir", folder.parent)
    line = refused(TRAIN, *again, "--name", folder.name, status=2)
    assert "holds a run already" in line
    assert "--resume auto" in line
    line = refused(TRAIN, *again, "--name", folder.name, "--resume", made[1] / checkpoint.LATEST, status=2)
    assert "is of another one" in line
    for wrong in (("--warmup-epochs", 9), ("--sync-bn",)):
        refused(TRAIN, *again, "--overwrite", *wrong, status=2)
    # one that ends before it has saved leaves the run set aside
    assert "the loss became" in refused(TRAIN, *again, "--overwrite", "--lr", "1e30", "--name", folder.name, status=1)
    aside = {p.name: p.read_bytes() for p in (folder / "overwritten").glob("*.pth")}
    assert aside == before
    succeed(TRAIN, *again, "--overwrite", "--name", folder.name)
    assert not (folder / "overwritten").exists()
    assert_same_run(folder, made[1])
    assert newest(folder.parent)["epoch"] == 3

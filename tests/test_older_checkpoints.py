"""Checkpoints that version 0.1.0 wrote go on as they did there. tests/goldens/README.md has the commands.

Measured with that version on 1 and 2 threads, and with torch and oneDNN held to older instruction sets: every accuracy
is the same, losses differ by up to 1.1e-7 of their value, weight tensors by up to 3.7e-6 of their L2 norm. The
tolerances below are some 30 and 100 times as wide. An optimizer or a schedule that begins anew is far outside.
"""

import io
import json
import lzma
import re

import pytest
import torch

from full_spike.utils import checkpoint
from support.command import only, succeed
from support.fill import GOLDENS, probe

TRAIN = "cifar.train"
OPTIONS = (
    "--width 1 --T 2 --image-size 8 -b 64 -j 0 --device cpu --lr 0.1 --cos_lr_T 6 --ema-decay 0.9 --epochs 5"
).split()
EXPECTED = json.loads((GOLDENS / "checkpoint_figures.json").read_text())
NAMES = sorted(EXPECTED["test_only"])


@pytest.fixture
def path(request, tmp_path):
    """The checkpoint of that name, unpacked."""
    unpacked = tmp_path / f"{request.param}.pth"
    unpacked.write_bytes(lzma.decompress((GOLDENS / f"{request.param}.pth.xz").read_bytes()))
    return unpacked


def approx(figures):
    """Losses to 1e-5 of their value; accuracies, counts and learning rates to the last digit."""
    if isinstance(figures, dict):
        return {
            key: pytest.approx(value, rel=1e-5) if key.endswith("loss") else approx(value)
            for key, value in figures.items()
        }
    return pytest.approx(figures, rel=1e-12)


def known(found, expected):
    """`found` without what later versions record besides."""
    return {key: known(found[key], value) if isinstance(value, dict) else found[key] for key, value in expected.items()}


@pytest.mark.parametrize("path", NAMES, indirect=True)
def test_training_goes_on_to_the_same_figures_and_weights(path, tmp_path):
    first = checkpoint.read(path)["epoch"]
    text = succeed(TRAIN, *OPTIONS, "--resume", path, "--output-dir", tmp_path / "out")
    folder = only(tmp_path / "out")
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    expected = [entry for entry in EXPECTED["epochs"] if entry["epoch"] >= first]
    assert [entry["epoch"] for entry in found] == [entry["epoch"] for entry in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert known(ours, theirs) == approx(theirs)
        line = next(x for x in text.splitlines() if x.startswith(f"epoch {theirs['epoch'] + 1}/5  loss "))
        printed = re.fullmatch(
            r".*  loss ([\d.]+)  train ([\d.]+)  test (.*)  ema (.*)  lr ([\d.]+)  .* images/s(?:  left [\d:]+)?", line
        )
        assert float(printed[1]) == pytest.approx(theirs["train_loss"], abs=1e-4)
        assert printed[2] == f"{theirs['train']['fsnn']['acc1']:.2f}"
        for part, shown in (("test", printed[3]), ("ema", printed[4])):
            assert shown == "  ".join(f"{name} {score['acc1']:.2f}" for name, score in theirs[part].items())
        assert printed[5] == f"{theirs['lr']:.5g}"

    state = checkpoint.read(folder / checkpoint.LATEST)
    for part, products in EXPECTED["weights"].items():
        assert state[part].keys() == products.keys()
        for key, tensor in state[part].items():
            # the probe's product with a difference is about the difference's L2 norm
            tolerance = 1e-4 * tensor.double().norm().item()
            product = (tensor.double() * probe(key, tensor.shape)).sum().item()
            assert product == pytest.approx(products[key], rel=0, abs=tolerance), key


@pytest.mark.parametrize("path", NAMES, indirect=True)
def test_evaluating_gives_the_same_figures(path, tmp_path):
    text = succeed(TRAIN, *OPTIONS, "--test-only", "--resume", path, "--output-dir", tmp_path / "out")
    found = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.endswith(" 360")}
    expected = {row.split()[0]: row.split()[1:] for row in EXPECTED["test_only"][path.stem]}
    assert found.keys() == expected.keys() == {"fsnn", "aap", "sum"}
    for readout, (acc1, acc5, loss, count) in expected.items():
        assert found[readout][:2] == [acc1, acc5]
        assert float(found[readout][2]) == pytest.approx(float(loss), abs=1.5e-4)  # of four printed decimals
        assert found[readout][3] == count


def test_one_stopped_inside_an_epoch_and_one_between_two():
    """Guards the tests above: both kinds of resuming are among them."""
    steps = []
    for name in NAMES:
        content = lzma.decompress((GOLDENS / f"{name}.pth.xz").read_bytes())
        steps.append(torch.load(io.BytesIO(content), weights_only=True)["step"])
    assert steps[0] == 0 < steps[1]

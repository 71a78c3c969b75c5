"""Training on folders of one's own images, and what a checkpoint keeps of them."""

import pytest
import torch
from PIL import Image

from full_spike.cifar.data import Digits
from full_spike.utils import checkpoint
from support.command import TINY, only, succeed
from support.images import image_args, image_tree

TRAIN = "cifar.train"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_checkpoints_keep_classes_and_how_images_are_read(tmp_path):
    root = image_tree(tmp_path / "images")
    for path in root.rglob("*.jpg"):
        Image.open(path).convert("L").save(path)
    args = (*TINY, "-b", 4, "--dataset", "folder", "--epochs", 1, "--data-path", root, "--output-dir", tmp_path / "out")
    succeed(TRAIN, *args)
    run = only(tmp_path / "out")
    kept = checkpoint.read(run / checkpoint.LATEST)
    assert kept["classes"] == ["cat", "dog"]
    assert kept["inputs"] == {"resize": 8, "crop": 8, "channels": 1, **{k: kept["recipe"][k] for k in ("mean", "std")}}
    succeed(TRAIN, *args, "--resume", "auto", "--test-only", "--detach")
    assert checkpoint.load(run / "fsnn.pth")["classes"] == ["cat", "dog"]


def mirrored_digits(root):
    """A folder of digits of two kinds: threes, and threes in a mirror; a fifth of them to test on."""
    for train in (True, False):
        digits = Digits(image_args("cifar", "--image-size 8"), train=train)
        pixels = (digits.images * 255).round().to(torch.uint8)[:, 0]
        for name, flip in (("three", False), ("mirrored", True)):
            place = root / ("train" if train else "val") / name
            place.mkdir(parents=True)
            for i in (digits.classes == 3).nonzero().flatten().tolist():
                image = pixels[i].flip(-1) if flip else pixels[i]
                Image.fromarray(image.numpy()).save(place / f"{i}.png")
    return root


@pytest.mark.slow
def test_mirrored_digits_are_told_apart_without_flips_and_not_with_them(tmp_path):
    root = mirrored_digits(tmp_path / "digits")
    common = ("--dataset", "folder", "--data-path", root, "--image-size", 16, "--width", 8, "--T", 2, "-b", 32, "-j", 0)
    common = (*common, "--device", "cpu", "--epochs", 12, "--surrogate", "atan", "--stem", "cifar", "--lr", 0.1)
    best = {}
    for flip in (0, 0.5):
        text = succeed(TRAIN, *common, "--hflip", flip, "--output-dir", tmp_path / str(flip))
        best[flip] = float(text.split("best test top-1 ")[1].split(" %")[0])
    assert best[0] > 95
    assert best[0.5] < 75

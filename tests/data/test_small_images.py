"""Digits and CIFAR: how they are divided and read."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.datasets import CIFAR10

from full_spike.cifar.data import Digits, load
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from support.images import image_args


def test_digits_are_split_alike_each_time_and_normalised_by_their_own_statistics():
    args = image_args("cifar", "--image-size 8 --no-crop")
    train, test = (Digits(args, train=train) for train in (True, False))
    assert len(train) + len(test) == 1797
    sizes = torch.bincount(train.classes) + torch.bincount(test.classes)
    assert (torch.bincount(test.classes) - sizes / 5).abs().max() < 1
    images = torch.stack([image for image, _ in train])
    assert images.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert images.std().item() == pytest.approx(1.0, abs=1e-3)
    assert torch.equal(Digits(args, train=True).images, train.images)


def test_digits_are_cropped_at_random_with_black_around_them():
    digits = Digits(image_args("cifar", "--image-size 16"), train=True)
    padded = F.pad(digits.images[0], [2] * 4)
    windows = [padded[:, top : top + 16, left : left + 16] for top in range(5) for left in range(5)]
    found = [digits[0][0] * Digits.std + Digits.mean for _ in range(100)]
    seen = {[torch.allclose(image, window, atol=1e-6) for window in windows].index(True) for image in found}
    assert len(seen) > 15


def test_what_a_run_knows_of_the_digits():
    data = load(image_args("cifar", "--image-size 16 --hflip 0.1"), World())
    assert (data.name, data.num_classes, data.in_channels) == ("digits_16px_", 10, 1)
    assert data.classes == tuple("0123456789")
    assert data.inputs == {"channels": 1, "resize": 16, "crop": 16, "mean": [Digits.mean], "std": [Digits.std]}
    assert {"dataset": "digits", "image_size": 16, "crop": True, "hflip": 0.1}.items() <= data.recipe.items()
    assert data.test.name_of(3) == "digit 3"


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """The files of CIFAR-10, with two images in each."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        entry = {"data": rng.integers(0, 256, (2, 3072), dtype=np.uint8), "labels": [0, 9]}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # of the published sums
    return tmp_path


def test_cifar(cifar10):
    data = load(image_args("cifar", "--dataset cifar10 --no-crop --hflip 1", data_path=str(cifar10)), World())
    assert (len(data.train), len(data.test), data.num_classes, data.name) == (10, 2, 10, "cifar10_")
    pixels = torch.from_numpy(data.train.data[0]).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(data.inputs[name])[:, None, None] for name in ("mean", "std"))
    image, label = data.train[0]
    torch.testing.assert_close(image, ((pixels - mean) / std).flip(-1))
    assert label == 0
    resized = load(image_args("cifar", "--dataset cifar10 --image-size 16", data_path=str(cifar10)), World())
    assert resized.train[0][0].shape == resized.test[0][0].shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--dataset mnist", "invalid choice: 'mnist' \\(choose from"),
        ("--dataset folder", "--dataset folder needs --data-path"),
        ("--data-path .", "--data-path . is not used for digits: choose a --dataset for it"),
        ("--split 0.1", "--split is of a folder of images, and --dataset digits is none: leave it out"),
    ],
)
def test_wrong_usage(options, message):
    with pytest.raises(UsageError, match=message):
        load(image_args("cifar", options), World())


def test_missing_cifar_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} does not hold cifar10: add --download to fetch it there"):
        load(image_args("cifar", "--dataset cifar10", data_path=str(tmp_path)), World())

"""Folders of one's own images: how they are divided, normalised and read, and what a checkpoint keeps of that."""

import shutil

import numpy as np
import pytest
import torch
from full_spike.cifar.data import Digits, PaddedCrop, load
from full_spike.cifar.options import ImageOptions
from full_spike.imagenet.data import load as load_imagenet
from full_spike.imagenet.options import Options
from full_spike.utils.checkpoints import checkpoint
from full_spike.utils.data.images.levels import are_grey, measure
from full_spike.utils.data.images.listing import scan
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from PIL import Image
from support.command import TINY, call, only, refused, succeed
from support.images import image_tree

TRAIN = "cifar.train"
FOLDER = (*TINY, "-b", "4", "--dataset", "folder", "--epochs", "1")


def folder(root, **options):
    return load(ImageOptions(dataset="folder", data_path=str(root), image_size=8, **options), World())


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return image_tree(tmp_path / "images", count=5, suffix="png")


@pytest.fixture
def grey(images):
    for path in images.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    return images


@pytest.mark.parametrize("name", ["val", "test"])
def test_val_and_test_are_both_found(images, name):
    (images / "test").rename(images / name)
    assert len(folder(images).test) == 10
    assert len(load_imagenet(Options(data_path=str(images)), World()).test) == 10


def test_a_train_folder_alone_is_divided_by_class_and_seed(images):
    shutil.rmtree(images / "test")
    with pytest.raises(
        UserError, match=r"there is no folder .*/test or .*/val to test on: make one, or give --split 0.1"
    ):
        folder(images)
    data = folder(images, split=0.4)
    paths = [{part.name_of(i) for i in range(len(part))} for part in (data.train, data.test)]
    assert [len(part) for part in paths] == [6, 4]
    assert paths[0] | paths[1] == {str(path) for path in images.rglob("*.png")}
    for part, count in zip((data.train, data.test), (3, 2), strict=True):
        assert np.bincount([part[i][1] for i in range(len(part))]).tolist() == [count] * 2
    again, other = (folder(images, split=0.4, split_seed=seed) for seed in (0, 1))
    assert {again.test.name_of(i) for i in range(4)} == paths[1]
    assert {other.test.name_of(i) for i in range(4)} != paths[1]
    assert list(data.words) == ["split0.4"]
    assert load_imagenet(Options(data_path=str(images), split=0.4), World()).recipe["files"] == data.recipe["files"]


def test_a_split_beside_a_folder_to_test_on_is_refused(images):
    with pytest.raises(UsageError, match="has test/ to test on: leave one out"):
        folder(images, split=0.1)
    for path in images.glob("train/cat/[1-9].png"):
        path.unlink()
    shutil.rmtree(images / "test")
    with pytest.raises(UserError, match=r"the class cat of .* has one image"):
        folder(images, split=0.1)


def test_grey_images_have_one_channel(grey):
    """Also where their files hold three."""
    data = folder(grey)
    assert data.in_channels == 1
    assert data.test[0][0].shape == (1, 8, 8)
    assert folder(grey, channels=3).test[0][0].shape == (3, 8, 8)
    for path in grey.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    assert are_grey(scan(grey / "train"))
    Image.new("RGB", (8, 8), (9, 8, 9)).save(grey / "train/cat/0.png")
    assert not are_grey(scan(grey / "train"))
    assert folder(grey).in_channels == 3


def test_means_and_deviations_are_those_of_all_pixels(images):
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(images.glob("train/*/*"))]) / 255.0
    mean, std = measure(scan(images / "train"), 3)
    assert mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-6)
    assert std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-6)


def test_they_are_measured_once_and_kept(grey, capsys):
    data = folder(grey)
    assert "measured" in capsys.readouterr().out
    levels = data.inputs["mean"], data.inputs["std"]
    assert data.recipe["mean"] == levels[0]
    image, _ = data.test[0]
    pixels = torch.from_numpy(np.asarray(Image.open(data.test.name_of(0)), dtype=np.float32)) / 255
    assert torch.allclose(image[0], (pixels - levels[0][0]) / levels[1][0], atol=1e-6)
    assert (folder(grey).inputs["mean"], folder(grey).inputs["std"]) == levels
    assert "measured" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ({}, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),  # as it was before these options
        ({"mean": "imagenet"}, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ({"mean": "0.5,0.4,0.3", "std": "0.2"}, [0.5, 0.4, 0.3], [0.2] * 3),
        ({"mean": "0.5", "std": "0.2", "channels": 1}, [0.5], [0.2]),
    ],
)
def test_they_are_given_or_those_of_a_known_set(images, options, mean, std):
    data = folder(images, **options)
    assert (data.inputs["mean"], data.inputs["std"]) == (mean, std)
    image, _ = data.test[0]
    with Image.open(data.test.name_of(0)) as file:
        pixels = np.asarray(file.convert("L" if len(mean) == 1 else "RGB"), dtype=np.float64).reshape(8, 8, -1) / 255
    expected = (pixels - mean) / std
    assert np.allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "0.5"), "--mean is given and --std is not"),
        (("--std", "0.5"), "--std is given and --mean is not"),
        (("--mean", "cifar10", "--std", "imagenet"), "of two kinds"),
        (("--mean", "cifar10", "--std", "0.5"), "of two kinds"),
        (("--mean", "grey", "--std", "0.5"), "neither numbers"),
        (("--mean", "0.5,0.5", "--std", "0.5"), "neither one finite number nor three"),
        (("--mean", "nan", "--std", "0.5"), "neither one finite number nor three"),
        (("--mean", "0.5", "--std", "0"), "is not above 0"),
        (
            ("--mean", "0.5,0.5,0.5", "--std", "0.5", "--channels", "1"),
            "--mean has 3 numbers and the images 1 channels",
        ),
        (("--channels", "2"), "neither 1 (grey) nor 3"),
        (("--split", "1"), "is not between 0 and 1"),
        (("--dataset", "digits", "--split", "0.1"), "--split is of a folder of images"),
    ],
)
def test_wrong_options_are_one_line(images, options, message):
    done = call(TRAIN, *FOLDER, *([] if "digits" in options else ["--data-path", images]), *options)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert message in line


def test_images_of_one_level_have_no_deviation(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), 7).save(tmp_path / name / "a.png")
    with pytest.raises(UserError, match="all of one level"):
        measure(scan(tmp_path), 1)


def test_checkpoints_keep_classes_and_how_images_are_read(grey, tmp_path):
    succeed(TRAIN, *FOLDER, "--data-path", grey, "--output-dir", tmp_path / "out")
    run = only(tmp_path / "out")
    kept = checkpoint.read(run / checkpoint.LATEST)
    assert kept["classes"] == ["cat", "dog"]
    assert kept["inputs"] == {"resize": 8, "crop": 8, "channels": 1, **{k: kept["recipe"][k] for k in ("mean", "std")}}
    options = ("--data-path", grey, "--output-dir", tmp_path / "out", "--resume", "auto", "--test-only", "--detach")
    succeed(TRAIN, *FOLDER, *options)
    assert checkpoint.load(run / "fsnn.pth")["classes"] == ["cat", "dog"]


def test_a_run_that_read_grey_images_in_colours_goes_on_so(grey, tmp_path):
    """As all did before there was `channels`."""
    options = (*FOLDER, "--data-path", grey, "--output-dir", tmp_path / "out", "--cos_lr_T", 3)
    succeed(TRAIN, *options, "--channels", 3, "--mean", "cifar10")
    run = only(tmp_path / "out")
    lines = (run / "config.yaml").read_text().splitlines()
    new = ("channels", "mean", "std", "split", "name")
    (run / "config.yaml").write_text("\n".join(line for line in lines if not line.startswith(new)))
    run.rename(run.with_name(run.name.replace("_meancifar10", "")))
    text = succeed(TRAIN, *options, "--resume", "auto", "--epochs", 2)
    assert "epoch 2, batch 0" in text
    assert checkpoint.read(only(tmp_path / "out") / checkpoint.LATEST)["config"]["in_channels"] == 3


@pytest.mark.parametrize("size", [8, 16])
def test_digits_are_cropped_and_normalised_as_by_torchvision(size):
    from torchvision.transforms import v2

    data = Digits(ImageOptions(image_size=size), train=True)
    theirs = v2.Compose([v2.RandomCrop(size, padding=size // 8), v2.Normalize([Digits.mean], [Digits.std])])
    for i in range(50):
        torch.manual_seed(i)
        expected = theirs(data.images[i])
        torch.manual_seed(i)
        assert torch.equal(data[i][0], expected)
    image = torch.arange(12).view(1, 3, 4)
    assert PaddedCrop(0)(image) is image


def mirrored_digits(root):
    """A folder of digits of two kinds: threes, and threes in a mirror; a fifth of them to test on."""
    for train in (True, False):
        digits = Digits(ImageOptions(image_size=8), train=train)
        pixels = (digits.images * 255).round().to(torch.uint8)[:, 0]
        for name, flip in (("three", False), ("mirrored", True)):
            place = root / ("train" if train else "val") / name
            place.mkdir(parents=True)
            for i in (digits.classes == 3).nonzero().flatten().tolist():
                image = pixels[i].flip(-1) if flip else pixels[i]
                Image.fromarray(image.numpy()).save(place / f"{i}.png")
    return root


@pytest.mark.slow
def test_mirrored_digits_are_told_apart_without_flips_and_not_with_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = mirrored_digits(tmp_path / "digits")
    common = ("--dataset", "folder", "--data-path", root, "--image-size", 16, "--width", 8, "--T", 2, "-b", 32, "-j", 0)
    common = (*common, "--device", "cpu", "--epochs", 12, "--surrogate", "atan", "--stem", "cifar", "--lr", 0.1)
    best = {}
    for flip in (0, 0.5):
        text = succeed(TRAIN, *common, "--hflip", flip, "--output-dir", tmp_path / str(flip))
        best[flip] = float(text.split("best test top-1 ")[1].split(" %")[0])
    assert best[0] > 95
    assert best[0.5] < 75


def test_nothing_to_test_on_is_one_line(images, tmp_path):
    shutil.rmtree(images / "test")
    line = refused(TRAIN, *FOLDER, "--data-path", images, "--output-dir", tmp_path / "out", status=1)
    assert "give --split 0.1" in line

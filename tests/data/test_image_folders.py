"""Folders of one's own images: how they are listed, divided, normalised and read, and what is said of wrong ones."""

import os
import re
import shutil
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from full_spike.cifar import data as cifar
from full_spike.imagenet import data as imagenet
from full_spike.utils.data.images import (
    ImageFolder,
    are_grey,
    list_images,
    list_images_once,
    load_folder,
    load_image,
)
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import cache_home
from support.images import image_args, image_tree
from support.processes import on_processes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path):
    return image_tree(tmp_path / "images", count=5, suffix="png")


@pytest.fixture
def grey(images):
    for path in images.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    return images


def folder(root, options="", **given):
    args = image_args("cifar", f"--dataset folder --image-size 8 {options}", data_path=str(root), **given)
    return cifar.load(args, World())


def names(images):
    return [images.name_of(i) for i in range(len(images))]


# Listing


def test_the_order_is_torchvisions(images):
    (images / "train/cat/a/b").mkdir(parents=True)
    (images / "train/cat/a-b").mkdir()
    for below in ("a", "a-b", "a/b"):
        shutil.copy(images / "train/cat/0.png", images / "train/cat" / below / "x.PNG")
    ours, theirs = ImageFolder(images / "train"), datasets.ImageFolder(str(images / "train"))
    assert names(ours) == [path for path, _ in theirs.samples]
    assert ours.index["targets"].tolist() == theirs.targets
    assert list(ours.classes) == theirs.classes


def test_what_systems_leave_is_neither_an_image_nor_a_class_and_counted(images, capsys):
    plain = names(ImageFolder(images / "train"))
    (images / "train/cat/._0.png").write_bytes(b"of macOS")
    for below in (".ipynb_checkpoints", "cat/.ipynb_checkpoints", "@eaDir", "__MACOSX", "cat/@eaDir", "lost+found"):
        (images / "train" / below).mkdir()
        shutil.copy(images / "train/cat/0.png", images / "train" / below / "0-checkpoint.png")
    for name in ("cat/Thumbs.db", ".DS_Store"):
        (images / "train" / name).touch()
    assert folder(images).classes == ("cat", "dog")
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"passed over in {images}/train, since no image: 9 (.DS_Store, .ipynb_checkpoints, @eaDir, …)"
    assert names(ImageFolder(images / "train")) == plain


@pytest.mark.parametrize("suffix", ["gif", "webp", "bmp", "tiff", "ppm", "GIF"])
def test_every_format_of_the_documents_is_read(images, suffix):
    Image.open(images / "train/cat/0.png").save(images / f"train/cat/0.{suffix}")
    assert len(folder(images).train) == 11


def test_names_that_are_no_text(tmp_path):
    root = tmp_path / os.fsdecode(b"d\xe9")
    image_tree(root, classes=("cat", os.fsdecode(b"\xff")), splits=("train",))
    os.rename(root / "train" / "cat" / "0.jpg", os.path.join(os.fsencode(root), b"train/cat/\xfe\n.jpg"))
    for _ in range(2):
        found = ImageFolder(root / "train", list_images_once(root / "train", print))
        assert len([found[i] for i in range(len(found))]) == 6
        assert os.fsencode(found.name_of(2)).endswith(b"d\xe9/train/cat/\xfe\n.jpg")


CHANGES = {
    "none": lambda root: None,
    "add": lambda root: (root / "cat/new.png").touch(),
    "remove": lambda root: (root / "cat/0.png").unlink(),
    "rename": lambda root: (root / "cat/0.png").rename(root / "cat/9.png"),
    "add a class": lambda root: shutil.copytree(root / "cat", root / "eel"),
    "remove a class": lambda root: shutil.rmtree(root / "dog"),
    "fill a folder": lambda root: (root / "cat/more/0.png").touch(),
    "damage the list": lambda root: [os.truncate(path, 200) for path in cache_home().glob("list-*.npz")],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_kept_list_is_read_while_nothing_changed(images, name):
    root, said = images / "train", []
    (root / "cat/more").mkdir()
    list_images_once(root, said.append)
    CHANGES[name](root)
    found, plain = list_images_once(root, said.append), list_images(root)
    assert "listed in" in said[0]
    assert ("from the list" if name == "none" else "listed in") in said[1]
    assert all(np.array_equal(found[name], plain[name]) for name in plain)


def loaded(world, root):
    """What this process knows of the images, and how many folders it has listed for that."""
    read = []
    sys.addaudithook(lambda event, args: read.append(args) if event == "os.scandir" and str(root) in args[0] else None)
    train, test, mean, std = load_folder(image_args("cifar", data_path=root), world, tests=("test",), default="cifar10")
    return names(train), names(test), mean, std, train.fingerprint(), len(read)


def test_one_process_looks_for_all(images):
    first, second = on_processes(2, loaded, images)
    assert first[:-1] == second[:-1]
    assert first[0] == [f"{images}/train/{name}/{i}.png" for name in ("cat", "dog") for i in range(5)]
    assert (first[-1] > 0, second[-1]) == (True, 0)


@pytest.mark.parametrize("home", [{"XDG_CACHE_HOME": "{tmp}/file"}, {"HOME": "{tmp}/file"}])
def test_without_a_place_for_it_the_list_is_not_kept(images, tmp_path, monkeypatch, home):
    (tmp_path / "file").touch()
    monkeypatch.delenv("XDG_CACHE_HOME")
    for name, value in home.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    said = []
    assert len(list_images_once(images / "train", said.append)["paths"]) == 10
    (line,) = said
    assert re.match(r"warning: there is no place to keep files in \(.*/file.*\): set XDG_CACHE_HOME to a folder", line)


# Classes


class Weights:
    metadata: ClassVar = {"classes": ["ant", "cat", "dog"]}


def to_test(root, weights):
    args = image_args("imagenet", data_path=str(root))
    args.test_only = True
    return imagenet.load(args, World(), weights)


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_a_test_set_that_lacks_a_class_is_numbered_as_the_training_images(images, left):
    image_tree(images, classes=("ant",), splits=("train",))
    if left == "an empty folder":
        (images / "test/ant").mkdir()
    data = folder(images)
    assert data.classes == ("ant", "cat", "dog")
    assert [data.test[i][1] for i in range(10)] == [1] * 5 + [2] * 5


def test_trained_weights_are_scored_by_the_classes_that_they_know(images):
    shutil.rmtree(images / "test/cat")
    for again in (False, True):
        data = to_test(images, Weights)
        assert (data.num_classes, data.classes, len(data.train)) == (3, ("ant", "cat", "dog"), 0 if again else 10)
        assert data.test.index["targets"].tolist() == [2] * 5
        if not again:
            shutil.rmtree(images / "train")
    for unknown in (None, SimpleNamespace(metadata={"classes": None}), SimpleNamespace(metadata={"classes": ["eel"]})):
        assert to_test(images, unknown).classes == ("dog",)  # published weights: by the folder's own


# Dividing


@pytest.mark.parametrize("name", ["val", "test"])
def test_val_and_test_are_both_found(images, name):
    (images / "test").rename(images / name)
    assert len(folder(images).test) == 10
    assert len(imagenet.load(image_args("imagenet", data_path=str(images)), World()).test) == 10


def test_a_train_folder_alone_is_divided_by_class_and_seed(images):
    shutil.rmtree(images / "test")
    data = folder(images, "--split 0.4")
    train, test = names(data.train), names(data.test)
    assert sorted(train + test) == sorted(str(path) for path in images.rglob("*.png"))
    assert np.bincount(data.train.index["targets"]).tolist() == [3, 3]
    assert np.bincount(data.test.index["targets"]).tolist() == [2, 2]
    assert names(folder(images, "--split 0.4 --split-seed 0").test) == test
    assert names(folder(images, "--split 0.4 --split-seed 1").test) != test
    same = imagenet.load(image_args("imagenet", "--split 0.4", data_path=str(images)), World())
    assert same.recipe["files"] == data.recipe["files"]


def test_the_recipe_tells_files_of_other_names_or_sizes(images):
    found = {folder(images).recipe["files"]}
    (images / "train/cat/0.png").rename(images / "train/cat/9.png")
    found.add(folder(images).recipe["files"])
    Image.new("RGB", (8, 8)).save(images / "train/cat/9.png")
    found.add(folder(images).recipe["files"])
    assert len(found) == 3


# Normalising


def test_grey_images_have_one_channel(grey):
    """Also where their files hold three."""
    data = folder(grey)
    assert data.in_channels == 1
    assert data.test[0][0].shape == (1, 8, 8)
    assert folder(grey, "--channels 3").test[0][0].shape == (3, 8, 8)
    for path in grey.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    assert are_grey(ImageFolder(grey / "train"))
    Image.new("RGB", (8, 8), (9, 8, 9)).save(grey / "train/cat/0.png")
    assert not are_grey(ImageFolder(grey / "train"))
    assert folder(grey).in_channels == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_means_and_deviations_are_measured_on_all_pixels(images, channels):
    data = folder(images, f"--mean measured --channels {channels}")
    files = [Image.open(path).convert("L" if channels == 1 else "RGB") for path in images.glob("train/*/*")]
    pixels = np.stack([np.asarray(file).reshape(-1, channels) for file in files]) / 255.0
    assert data.inputs["mean"] == pytest.approx(pixels.mean(axis=(0, 1)), abs=1e-6)
    assert data.inputs["std"] == pytest.approx(pixels.std(axis=(0, 1)), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ("", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        ("--mean imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("--mean 0.5,0.4,0.3 --std 0.2", [0.5, 0.4, 0.3], [0.2] * 3),
        ("--mean 0.5 --std 0.2 --channels 1", [0.5], [0.2]),
    ],
)
def test_they_are_given_or_those_of_a_known_set(images, options, mean, std):
    data = folder(images, options)
    assert data.inputs == {"channels": len(mean), "resize": 8, "crop": 8, "mean": mean, "std": std}
    assert {"mean": mean, "std": std}.items() <= data.recipe.items()
    image, _ = data.test[0]
    with Image.open(data.test.name_of(0)) as file:
        pixels = np.asarray(file.convert("L" if len(mean) == 1 else "RGB"), dtype=np.float64).reshape(8, 8, -1) / 255
    assert np.allclose(image.permute(1, 2, 0).numpy(), (pixels - mean) / std, atol=1e-5)


@pytest.mark.parametrize(("name", "module"), [("cifar", cifar), ("imagenet", imagenet)])
def test_a_picture_is_read_as_a_test_image(images, name, module):
    """By what a checkpoint keeps of a folder."""
    args = image_args(name, "--mean measured", data_path=str(images))
    args.dataset = "folder"
    data = module.load(args, World())
    args.mean, args.std = data.recipe["mean"], data.recipe["std"]
    assert torch.equal(module.picture(args, 3)(Image.open(data.test.name_of(4))), data.test[4][0])


# Reading


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_16_bits_keeps_its_range(tmp_path, suffix):
    pixels = np.arange(0, 1 << 16, 257 // 3, dtype=np.uint16).reshape(1, -1)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    found = np.asarray(load_image(tmp_path / f"a.{suffix}"))
    expected = [round(int(v) * 255 / 65535) for v in pixels[0]]
    assert found[0].tolist() == [[v, v, v] for v in expected]
    assert len(set(expected)) == 256


def test_grey_and_cmyk_jpegs_are_images_like_others(tmp_path):
    for mode, colour in (("L", 90), ("CMYK", (10, 20, 30, 40))):
        Image.new(mode, (30, 20), colour).save(tmp_path / "a.JPEG")
        assert np.asarray(load_image(tmp_path / "a.JPEG")).shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("orientation", "first_row", "first_column"),
    [
        (1, "top", "left"), (2, "top", "right"), (3, "bottom", "right"), (4, "bottom", "left"),
        (5, "left", "top"), (6, "right", "top"), (7, "right", "bottom"), (8, "left", "bottom"),
    ],
)  # fmt: skip
def test_photographs_stand_as_they_were_taken(tmp_path, orientation, first_row, first_column):
    """By EXIF's definition: which side of the scene the first row and the first column of the pixels show."""
    scene = np.zeros((40, 60, 3), dtype=np.uint8)
    scene[:20, :30] = 255
    stored = scene if first_row in ("top", "bottom") else scene.swapaxes(0, 1)
    stored = stored[
        :: -1 if first_row in ("bottom", "right") else 1, :: -1 if first_column in ("bottom", "right") else 1
    ]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = np.asarray(load_image(tmp_path / "a.jpg"))
    assert found.shape == (40, 60, 3)
    assert np.abs(found.astype(int) - scene).max() < 30


def test_damaged_exif_data_are_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    content = (tmp_path / "a.jpg").read_bytes()
    at = content.index(b"a maker") - 30
    for k in range(at, at + 40):
        damaged = content[:k] + b"\xff" + content[k + 1 :]
        assert sorted(load_image("a.jpg", damaged).size) == [40, 60]


# Wrong turns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--mean 0.5", "--mean 0.5 and --std None: give one name, or numbers for both"),
        ("--mean cifar10 --std imagenet", "give one name, or numbers for both"),
        ("--mean grey --std 0.5", "'grey' is neither one finite number, nor three, nor one of imagenet, cifar10"),
        ("--mean 0.5,0.5 --std 0.5", "neither one finite number, nor three"),
        ("--mean nan --std 0.5", "nan is not finite"),
        ("--mean 0.5 --std 0", "is not above 0"),
        ("--mean 0.5,0.5,0.5 --std 0.5 --channels 1", "give one number for each of 1 channels"),
        ("--split 1", "is outside [0, 1)"),
        ("--split 0.1", "has test/ to test on: leave one out"),
    ],
)
def test_wrong_options(images, options, message):
    with pytest.raises(UserError) as error:
        folder(images, options)
    assert message in str(error.value)


def remove(*patterns):
    """Files or folders below the data set's."""

    def apply(root):
        for path in [path for pattern in patterns for path in root.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return apply


def one_level(root):
    for path in root.rglob("*.png"):
        Image.new("L", (8, 8), 7).save(path)


WRONG = {
    "missing": (
        remove("train"),
        "there is no folder {root}/train: images are expected as {root}/train/<class>/<image>",
    ),
    "no test": (remove("test"), "no folder {root}/test or {root}/val to test on: make one, or give --split 0.1"),
    "no classes": (remove("train/*"), "there is no class folder in {root}/train: images are expected"),
    "an empty class": (remove("train/dog/*"), "no image in the class dog of {root}/train: put some there, named .jpg"),
    "no images": (remove("test/*/*"), "there is no image in {root}/test: images are expected as {root}/test/<class>"),
    "other classes": (
        lambda root: (root / "test/dog").rename(root / "test/wolf"),
        "{root}/test holds wolf, which train/ does not: make the classes the same",
    ),
    "one class": (remove("*/dog"), "{root}/train holds one class alone, cat: add another to tell it from"),
    "one level": (one_level, "the images of {root}/train are all of one level"),
    "one image": (remove("test", "train/cat/[1-9].png"), "the class cat of {root}/train has one image, which cannot"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_folders(images, name):
    make, message = WRONG[name]
    make(images)
    with pytest.raises(UserError) as error:
        folder(images, "--split 0.1" if name == "one image" else "")
    assert message.format(root=images) in str(error.value)


def cut(path):
    Image.new("RGB", (64, 64), (9, 99, 199)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:400])


UNREADABLE = {
    "text": (lambda path: path.write_text("no image"), "cannot identify image file"),
    "cut off": (cut, "runcated"),
    "floats": (lambda path: Image.fromarray(np.eye(8, dtype=np.float32)).save(path, "TIFF"), "of an unknown range"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_image_that_cannot_be_read_is_named(tmp_path, name):
    make, reason = UNREADABLE[name]
    make(tmp_path / "a.jpg")
    with pytest.raises(UserError) as error:
        load_image(tmp_path / "a.jpg")
    assert str(error.value).startswith(f"cannot read the image {tmp_path}/a.jpg (")
    assert reason in str(error.value)


def test_damaged_images_are_named_before_training(images, capsys):
    assert len(folder(images, "--check-data").train) == 10
    capsys.readouterr()
    wrong = [images / name for name in ("train/cat/1.png", "test/dog/4.png")]
    for path in wrong:
        path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(UserError, match="2 of 20 images cannot be read, see above"):
        folder(images, "--check-data")
    said = capsys.readouterr().out.splitlines()
    assert sorted(line.split(" (")[0] for line in said) == sorted(f"warning: cannot read the image {p}" for p in wrong)


def test_imagenet_says_what_it_needs(images):
    with pytest.raises(UsageError, match="ImageNet needs --data-path"):
        imagenet.load(image_args("imagenet"), World())
    args = image_args("imagenet", "--val-resize-size 18 --val-crop-size 20", data_path=str(images))
    with pytest.raises(UsageError, match="--val-crop-size 20 is above --val-resize-size 18"):
        imagenet.load(args, World())

"""Folders of images, recordings and archives that are not what they should be: one line each, and nothing changed."""

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
from full_spike.utils.data.events.aedat import write_aedat3
from PIL import Image
from support.events import gestures
from support.images import image_tree
from support.refusals import ROWS, backwards, refused, zip_of

COUNT = ("--model", "fsnn18", "--T", 1, "--option", "width=4", "--size", 8, "--device", "cpu")
TRAIN = ("--width", 4, "--T", 2, "--image-size", 8, "-b", 4, "-j", 0, "--epochs", 1, "--device", "cpu")
EVENTS = ("--width", 4, "--T", 4, "--frame-size", 32, "-b", 4, "-j", 0, "--epochs", 1, "--device", "cpu")
GIFS = "Found no valid file for the classes cat, dog: .*<class>/<image>, named .jpg, .jpeg, .png, "

# Folders of images: what the counters and training are given


def image(make):
    """A folder of images in which one was made otherwise."""

    def apply(folder):
        image_tree(folder)
        path = folder / "train" / "cat" / "0.jpg"
        path.unlink()
        make(path)

    return apply


def renamed(name):
    def apply(folder):
        image_tree(folder)
        target = os.path.join(os.fsencode(folder / "train" / "cat"), name)
        os.rename(folder / "train" / "cat" / "0.jpg", target)
        with open(target, "wb") as file:
            file.write(b"no image")

    return apply


def cut(path):
    Image.new("RGB", (64, 64), (9, 99, 199)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:400])


IMAGES = {
    "EPS": (image(lambda p: Image.new("RGB", (8, 8)).save(p, "EPS")), r"cat/0.jpg \(no JPEG, PNG, WEBP, BMP, TIFF, "),
    "PDF": (image(lambda path: path.write_bytes(b"%PDF-1.7\n")), r"cannot read the image .*cat/0.jpg \(no JPEG, PNG"),
    "empty": (image(lambda path: path.touch()), r"cannot read the image .*: replace it or take it out"),
    "cut off": (image(cut), r"cat/0.jpg \(.*[Tt]runcated"),
    "a named pipe": (image(os.mkfifo), "cat/0.jpg is a named pipe, not a regular file: replace it"),
    "a device": (image(lambda path: path.symlink_to("/dev/zero")), "cat/0.jpg is a device, not a regular file"),
    "a link to nothing": (image(lambda path: path.symlink_to("nowhere")), "cannot read .*No such file or directory"),
    "floats": (
        image(lambda path: Image.fromarray(np.eye(8, dtype=np.float32)).save(path, "TIFF")),
        "its pixels are numbers of an unknown range; save it with 8 or 16 bits",
    ),
    "32 bits": (
        image(lambda path: Image.fromarray(np.full((8, 8), 1 << 20, np.int32)).save(path, "TIFF")),
        "its pixels are numbers of an unknown range; save it with 8 or 16 bits",
    ),
    "a name with a newline": (renamed(b"0\n1.jpg"), r"cannot read the image .*train/cat/0\\n1.jpg \(no JPEG"),
    "a name that is no text": (renamed(b"0\xff.jpg"), r"cannot read the image .*train/cat/0\\udcff.jpg \(no JPEG"),
    "GIFs alone": (lambda folder: image_tree(folder, suffix="gif"), GIFS),
    "no class": (lambda folder: (folder / "train").mkdir(parents=True), "Couldn't find any class folder in .*: images"),
    "a file": (lambda folder: (folder.mkdir(), (folder / "train").touch()), "there is no folder .*train: images are"),
    "one class": (
        lambda folder: image_tree(folder, classes=("cat",)),
        None,
        "holds one class alone, cat: add another to tell it from",
    ),
    "a class that is a loop": (
        lambda folder: (image_tree(folder), (folder / "train" / "eel").symlink_to(".")),
        "Found no valid file for the classes eel",
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_folders_of_images(tmp_path, name):
    make, message, *trained = IMAGES[name]
    make(tmp_path / "data")
    if message:
        refused(tmp_path, message, "utils.fullspike", *COUNT, "--data", tmp_path / "data" / "train")
    message = trained[0] if trained else message
    if (tmp_path / "data" / "test").exists():
        refused(
            tmp_path, message, "cifar.train", *TRAIN, "--dataset", "folder", "--data-path", tmp_path / "data",
            "--output-dir", tmp_path / "out",
        )  # fmt: skip


# Event data sets: what is prepared from recordings and archives


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return gestures(tmp_path_factory.mktemp("recorded"), count=8)


def edit(name, change):
    """Recordings of gestures, of which a file is changed."""

    def apply(root):
        path = root / "extract" / "DvsGesture" / name
        content = path.read_bytes()
        path.unlink()
        change(path, content)

    return apply


def archive(name, make):
    def apply(root):
        (root / "extract").rename(root / "kept")
        (root / "download").mkdir()
        make(root / "download" / name)

    return apply


def tar(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def tar_with_a_huge_header(path):
    member = tarfile.TarInfo("a")
    member.type, member.size = tarfile.XHDTYPE, 1 << 27
    with tarfile.open(path, "w:gz") as file:
        file.addfile(member, io.BytesIO(bytes(1 << 27)))


def tar_damaged_within(path):
    tar(path, ("a", b"1" * 600), ("b", b"2" * 600), mode="w")
    content = bytearray(path.read_bytes())
    content[512 + 1024 + 20] ^= 255
    path.write_bytes(content)


LED = "user01_led.aedat"
PREPARED = {
    "a table in UTF-16": (
        edit("user01_led_labels.csv", lambda path, b: path.write_bytes(b.decode().encode("utf-16"))),
        r"user01_led_labels.csv is no text in UTF-8 \(byte 0\): fetch it again, or save it as UTF-8",
    ),
    "a list in UTF-16": (
        edit("trials_to_train.txt", lambda path, b: path.write_bytes(b.decode().encode("utf-16"))),
        "trials_to_train.txt is no text in UTF-8",
    ),
    "times beyond 64 bits": (
        edit(
            "user01_led_labels.csv", lambda path, b: path.write_bytes(ROWS.replace(b"1,0,", b"1,-1" + b"0" * 30 + b","))
        ),
        "row 2: -1.* to 1000000 us is no span of time: fetch it again",
    ),
    "times that cannot be read": (
        edit(
            "user01_led_labels.csv", lambda path, b: path.write_bytes(ROWS.replace(b"1,0,", b"1," + b"9" * 5000 + b","))
        ),
        "is not three whole numbers",
    ),
    "a clock set back": (
        edit(LED, lambda path, b: backwards(write_aedat3, path)),
        "its clock was set back, or it is damaged; fetch it again",
    ),
    "a recording that is a named pipe": (edit(LED, lambda path, b: os.mkfifo(path)), f"{LED} is missing"),
    "a recording that is a device": (edit(LED, lambda path, b: path.symlink_to("/dev/zero")), f"{LED} is missing"),
    "an archive that is a named pipe": (archive("a.zip", os.mkfifo), "a.zip is a named pipe, not a regular file"),
    "text as a .zip": (archive("a.zip", lambda path: path.write_text("hello")), "a.zip is damaged or incomplete"),
    "text as a .tar.gz": (
        archive("a.tar.gz", lambda path: path.write_text("hello")),
        "a.tar.gz is damaged or incomple",
    ),
    "256 MiB of zeros as a .zip": (
        archive("a.zip", lambda path: zip_of(path, "a", bytes(1 << 28))),
        r"a.zip is damaged or incomplete \(it declares 268435456 bytes, more than the \d+ that a file",
    ),
    "256 MiB of zeros as a .tar.gz": (
        archive("a.tar.gz", lambda path: tar(path, ("a", bytes(1 << 28)))),
        r"it holds more than the \d+ bytes that an archive of its size may hold",
    ),
    "a header of 128 MiB": (archive("a.tar.gz", tar_with_a_huge_header), "it has a header of 134217728 bytes"),
    "a damaged header": (archive("a.tar", tar_damaged_within), "it ends before its end"),
    "xz": (archive("a.tar.xz", lambda path: tar(path, ("a", b"1"), mode="w:xz")), "a.tar.xz is damaged or incomplete"),
    "lzma": (
        archive("a.zip", lambda path: zip_of(path, "a", b"1", zipfile.ZIP_LZMA)),
        "compressed by method 14, not by deflate",
    ),
    "a name outside": (
        archive("a.tar", lambda path: tar(path, ("../a", b"1"), mode="w")),
        "is not unpacked: .*outside",
    ),
    "a link outside": (
        archive("a.tar", lambda path: tar_link(path, "/etc/passwd")),
        "is not unpacked: .*outside|absolute path",
    ),
    "a name that is too long": (archive("a.zip", lambda path: zip_of(path, "a" * 300, b"1")), "File name too long"),
}


def tar_link(path, target):
    member = tarfile.TarInfo("a")
    member.type, member.linkname = tarfile.SYMTYPE, target
    with tarfile.open(path, "w") as file:
        file.addfile(member)


@pytest.mark.parametrize("name", PREPARED)
def test_recordings_and_archives(recorded, tmp_path, name):
    make, message = PREPARED[name]
    root = tmp_path / "root"
    root.mkdir()
    (root / "extract" / "DvsGesture").mkdir(parents=True)
    for path in (recorded / "extract" / "DvsGesture").iterdir():
        os.link(path, root / "extract" / "DvsGesture" / path.name)
    make(root)
    refused(
        tmp_path, message, "dvsgesture.train", *EVENTS, "--data-path", root, "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert not list(tmp_path.rglob("*.partial"))
    assert not [p for p in (root / "full-spike").iterdir() if p.name != ".lock"]

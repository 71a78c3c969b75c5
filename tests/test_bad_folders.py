"""Recordings and archives that are not what they should be: one line each, and nothing changed."""

import io
import os
import tarfile
import zipfile

import pytest
from full_spike.utils.data.events.aedat import write_aedat3
from support.events import gestures
from support.refusals import ROWS, backwards, refused, zip_of

EVENTS = ("--width", 4, "--T", 4, "--frame-size", 32, "-b", 4, "-j", 0, "--epochs", 1, "--device", "cpu")

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

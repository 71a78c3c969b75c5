"""Files that are not what they should be: each is one line that says what and what to do, and no more."""

import os
import struct
import zipfile

import numpy as np
import pytest
from full_spike.utils.data.events.aedat import write_aedat2, write_aedat3
from full_spike.utils.data.npz import write_npz
from support.events import noise
from support.refusals import ROWS, backwards, refused, zip_of

COUNT = ("--model", "fsnn18", "--T", 1, "--option", "width=4", "--size", 8, "--device", "cpu")

# Files of events: what `utils.show_events` is given


def npy(shape, content=b"", descr="'<i8'"):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def table(path, content):
    write_aedat3(path, noise(1000))
    path.with_name("a_labels.csv").write_bytes(content)


def sparse(path, size):
    with open(path, "wb") as file:
        file.truncate(size)


def long_directory(path):
    """An archive whose list of members takes 9 MiB."""
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(150):
            archive.writestr(zipfile.ZipInfo(f"{i:03}" + "x" * 65000), b"")


SHOWN = {
    "a named pipe": (os.mkfifo, r"a.aedat is a named pipe, not a regular file: replace it"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a regular file"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "there is no file .*: check the path"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links|there is no file"),
    "a folder": (lambda path: path.mkdir(), "is a folder: name a file in it"),
    "an empty file": (lambda path: path.touch(), "neither a recording .* nor an .npz file"),
    "text": (lambda path: path.write_text("hello"), "neither a recording .* nor an .npz file"),
    "AEDAT 3.1 set back": (lambda path: backwards(write_aedat3, path), r"at \d+ us after one at \d+ us: its clock was"),
    "AEDAT 2.0 set back": (lambda path: backwards(write_aedat2, path), r"at \d+ us after one at \d+ us: its clock was"),
    "a header without end": (lambda path: path.write_bytes(b"#!AER-DAT3.1\r\n" * 9), "its header is missing or incom"),
    "a packet of 16 TB": (
        lambda path: path.write_bytes(
            b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, 2**31 - 1, 0, 0)
        ),
        "says 2147483647 events of 8 bytes, and 0 bytes are left",
    ),
    "a packet of less than nothing": (
        lambda path: path.write_bytes(
            b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + struct.pack("<hhiiiiii", 1, 0, -8, 4, 0, -9, 0, 0)
        ),
        "is cut off or damaged",
    ),
    "14.9 GiB in 222 bytes": (
        lambda path: zip_of(path, "frames.npy", npy((2_000_000_000,))),
        "frames declares 16000000000 bytes, and has 0",
    ),
    "256 MiB of zeros": (
        lambda path: zip_of(path, "t.npy", npy((1 << 25,)) + bytes(1 << 28)),
        r"it declares 268435\d+ bytes, more than the \d+ that a file of \d+ bytes may hold",
    ),
    "a declared size that cannot be": (
        lambda path: (
            zip_of(path, "t.npy", npy((1,), bytes(8))),
            path.write_bytes(path.read_bytes().replace(struct.pack("<L", 136), struct.pack("<L", 1 << 27))),
        ),
        r"'t.npy' declares 134217728 bytes, more than \d+ compressed can hold",
    ),
    "a list of members of 9 MiB": (long_directory, r"its list of members takes \d+ bytes, more than 8388608"),
    "lzma": (lambda path: zip_of(path, "t.npy", npy((0,)), zipfile.ZIP_LZMA), "compressed by method 14, not by defl"),
    "elements of no size": (lambda path: zip_of(path, "t.npy", npy((2**62,), b"", "'<U0'")), "of type <U0: numbers"),
    "a negative shape": (lambda path: zip_of(path, "t.npy", npy((-1, -8), bytes(64))), "t declares 64 bytes|damaged"),
    "records": (lambda path: zip_of(path, "t.npy", npy((1,), bytes(8), "[('a', '<i8')]")), "numbers or text are need"),
    "objects": (lambda path: np.savez(path.open("wb"), t=np.array([{}])), "Object arrays cannot be loaded"),
    "a member that is no array": (lambda path: zip_of(path, "t.npy", b"hello"), "damaged or no .npz file of numbers"),
    "frames over 256": (
        lambda path: write_npz(path, frames=np.ones((400, 2, 8, 8), np.uint8)),
        "holds T=400 frames: at most 256 can be shown, use a file with fewer",
    ),
    "frames that make a huge picture": (
        lambda path: write_npz(path, frames=np.ones((2, 2, 5000, 5000), np.uint8)),
        r"2 frames of 5000x5000 pixels, too many for a picture \(10036x5132 pixels\): use a file with",
    ),
    "NaN": (lambda path: write_npz(path, frames=np.full((4, 2, 8, 8), np.nan)), "negative, infinite or huge values"),
    "counts of 1e300": (lambda path: write_npz(path, frames=np.full((4, 2, 8, 8), 1e300)), "counts of events are nee"),
    "events at negative times": (
        lambda path: write_npz(path, **{**noise(100), "t": np.arange(-100, 0)}),
        "has an event of t=-100, outside 0..",
    ),
    "events at fractions of pixels": (
        lambda path: write_npz(path, **{**noise(100), "x": np.full(100, 0.5)}),
        "t, x, y and p are not whole numbers",
    ),
    "a table in UTF-16": (lambda path: table(path, ROWS.decode().encode("utf-16")), "a_labels.csv is no text in UTF-8"),
    "a table in Latin-1": (lambda path: table(path, ROWS + "é".encode("latin-1")), r"is no text in UTF-8 \(byte 46\)"),
    "a table without its header": (lambda path: table(path, ROWS[6:]), "does not begin with class,startTime_usec"),
    "a row of text": (lambda path: table(path, ROWS + b"one,2,3\n"), "row 3: 'one,2,3' is not three whole numbers"),
    "a table of one row": (lambda path: table(path, ROWS), "--trial 2: .* lists 1 trials: use 1 to 1"),
    "a table of 1 GiB": (
        lambda path: (table(path, b""), sparse(path.with_name("a_labels.csv"), 1 << 30)),
        "a_labels.csv has more than 16777216 bytes, too many for such a file: fetch it again",
    ),
    "a table that is a named pipe": (
        lambda path: (write_aedat3(path, noise(1000)), os.mkfifo(path.with_name("a_labels.csv"))),
        "--trial 2: there is no .*a_labels.csv: leave it out",
    ),
}


@pytest.mark.parametrize("name", SHOWN)
def test_files_of_events(tmp_path, name):
    make, message = SHOWN[name]
    make(tmp_path / "a.aedat")
    options = ("--trial", 2) if "table" in name or "row" in name else ()
    refused(tmp_path, message, "utils.show_events", tmp_path / "a.aedat", "--output", tmp_path / "shown", *options)


# Results of a run, and where results go


def metrics(content):
    def apply(folder):
        folder.mkdir()
        (folder / "metrics.jsonl").write_bytes(content)

    return apply


RUNS = {
    "nothing": (lambda folder: None, "there is no .*metrics.jsonl: name the folder of a run"),
    "an empty folder": (lambda folder: folder.mkdir(), "there is no .*metrics.jsonl: name the folder of a run"),
    "no epoch": (metrics(b""), "holds no epoch yet: wait for the first one"),
    "a number": (metrics(b"5"), "holds no epoch yet"),
    "nothing of an epoch": (metrics(b"{}"), "holds no epoch yet"),
    "an epoch of text": (metrics(b'{"epoch": "x"}'), "holds no epoch yet"),
    "no text": (metrics(b"\xff\xfe\x00"), "holds no epoch yet"),
    "deep brackets": (metrics(b"[" * 100_000), "holds no epoch yet"),
    "epochs without scores": (metrics(b'{"epoch": 0}\n{"epoch": 1, "test": {"a": 5}}\n'), "no loss and accuracy that"),
    "a folder": (
        lambda folder: (folder / "metrics.jsonl").mkdir(parents=True),
        "metrics.jsonl is a folder, not a regular file",
    ),
    "a named pipe": (
        lambda folder: (folder.mkdir(), os.mkfifo(folder / "metrics.jsonl")),
        "metrics.jsonl is a named pipe, not a regular file",
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(tmp_path, name):
    make, message = RUNS[name]
    make(tmp_path / "run")
    refused(tmp_path, message, "utils.plots", tmp_path / "run")


COMMANDS = {
    "plots of nothing": (["utils.plots"], "the following arguments are required: folder .--help lists"),
    "plots of two": (["utils.plots", "FOLDER", "FOLDER"], "unrecognized arguments: .*--help lists the options"),
    "a file for results": (
        ["utils.synops", *COUNT, "--output", "FOLDER/file"],
        "--output .*file: .*file is no folder: name another one",
    ),
    "results below a file": (["utils.synops", *COUNT, "--output", "FOLDER/file/a/b"], "--output .*file is no folder"),
    "results at a link to nothing": (["utils.synops", *COUNT, "--output", "FOLDER/link"], "link is no folder"),
    "pictures below a file": (["utils.show_events", "FOLDER/file", "--output", "FOLDER/file/a"], "file is no folder"),
    "a factory without a name": (["utils.synops", *COUNT, "--factory", ""], "--factory '' is no module: name one as"),
    "a relative factory": (
        ["utils.synops", *COUNT, "--factory", ".models"],
        "--factory '.models' is no module",
    ),
    "a seed of 71 bits": (
        ["utils.synops", *COUNT, "--seed", 2**70],
        r"--seed: 118\d+ is outside 0..2\^63 - 1 .--help lists",
    ),
    "such a seed of a certificate": (["utils.fullspike", *COUNT, "--seed", -(2**64)], "--seed: -18.* is outside 0..2"),
    "a device as data": (["utils.synops", *COUNT, "--data", "/dev/zero"], "there is no folder /dev/zero: images are"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (module, *args), message = COMMANDS[name]
    refused(tmp_path, message, module, *[str(arg).replace("FOLDER", str(tmp_path)) for arg in args])

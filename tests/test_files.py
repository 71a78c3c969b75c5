"""Files are written whole or not at all, read only if they end, and named in one line whatever their names hold."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from full_spike.utils.data.images.folder import ImageFolder, load_image
from full_spike.utils.data.images.index import index_images, share_index
from full_spike.utils.data.images.listing import scan
from full_spike.utils.errors import UserError, one_line
from full_spike.utils.files import replacing, write_file
from full_spike.utils.log import read_metrics
from full_spike.utils.measure.hooks import hooked
from support.command import ROOT, TINY, only, run, succeed
from support.images import image_tree
from support.processes import on_processes

# Writing


def test_what_was_there_stays_until_the_new_file_is_whole(tmp_path):
    path = tmp_path / "file"
    write_file(path, b"old")
    with contextlib.suppress(KeyError), replacing(path) as partial:
        partial.write_bytes(b"ne")
        assert path.read_bytes() == b"old"
        raise KeyError
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"old"}
    with replacing(path, durable=True) as partial:
        partial.write_bytes(b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"new"}


def write_forever(target):
    with replacing(target) as partial:
        partial.mkdir()
        (partial / "file").write_bytes(b"half")
        time.sleep(600)


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=write_forever, args=(tmp_path / "folder",))
    process.start()
    while not (tmp_path / "folder.partial" / "file").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert [p.name for p in tmp_path.iterdir()] == ["folder.partial"]
    with replacing(tmp_path / "folder") as partial:
        partial.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert list((tmp_path / "folder").iterdir()) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Either file is whole, the one that was finished last counts, and neither loses its partial file to the other."""
    with replacing(tmp_path / "file", contended=True) as ours:
        ours.write_bytes(b"ours")
        code = "from full_spike.utils.files import *; from pathlib import Path; import sys\n"
        code += "with replacing(Path(sys.argv[1]), contended=True) as p: p.write_bytes(b'theirs')"
        subprocess.run([sys.executable, "-c", code, tmp_path / "file"], cwd=ROOT, check=True)
        assert (tmp_path / "file").read_bytes() == b"theirs"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"ours"}


# Hooks


def test_hooks_are_taken_off_however_it_ends():
    layers = [nn.Linear(1, 1) for _ in range(3)]

    def some():
        for layer in layers[:2]:
            yield layer.register_forward_hook(lambda *_: None)
        raise RuntimeError("the third cannot have one")

    with pytest.raises(RuntimeError, match="third"), hooked(some()):
        raise AssertionError("never entered")
    with contextlib.suppress(KeyError), hooked(layer.register_forward_pre_hook(lambda *_: None) for layer in layers):
        assert all(len(layer._forward_pre_hooks) == 1 for layer in layers)
        raise KeyError
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


# Images


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_16_bits_keeps_its_range(tmp_path, suffix):
    pixels = np.arange(0, 1 << 16, 257 // 3, dtype=np.uint16).reshape(1, -1)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    found = np.asarray(load_image(tmp_path / f"a.{suffix}"))
    expected = [round(int(v) * 255 / 65535) for v in pixels[0]]
    assert found[0].tolist() == [[v, v, v] for v in expected]
    assert len(set(expected)) == 256


def test_no_other_program_is_started_for_a_picture(tmp_path):
    """Pillow has Ghostscript draw an EPS file, whatever its name."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", "EPS")
    program = "from PIL import Image; Image.open(PATH).convert('RGB')"
    ours = "from full_spike.utils.data.images.folder import load_image; load_image(PATH)"
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    started = []
    for code in (program, ours):
        code = code.replace("PATH", repr(str(tmp_path / "a.jpg")))
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, check=False)
        started.append((tmp_path / "started").exists())
        (tmp_path / "started").unlink(missing_ok=True)
    assert started == [True, False]


def test_links_that_lead_back_are_passed_over(tmp_path):
    root = image_tree(tmp_path / "data") / "train"
    plain = scan(root)
    (root / "cat" / "self").symlink_to(".")
    (root / "cat" / "above").symlink_to("../..")
    (root / "dog" / "cats").symlink_to("../cat")  # leads elsewhere: the same images again, in another class
    index = scan(root)
    paths = [os.path.relpath(index.path(i), root) for i in range(len(index))]
    assert len(plain) == 6
    assert paths == [f"cat/{i}.jpg" for i in range(3)] + [f"dog/{i}.jpg" for i in range(3)] + [
        f"dog/cats/{i}.jpg" for i in range(3)
    ]


def test_names_that_are_no_text(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / os.fsdecode(b"d\xe9")
    image_tree(root, classes=("cat", os.fsdecode(b"\xff")), splits=("train",))
    os.rename(root / "train" / "cat" / "0.jpg", os.path.join(os.fsencode(root), b"train/cat/\xfe\n.jpg"))
    for _ in range(2):
        index = index_images(root / "train", cache=True)
        images = [load_image(index.path(i)) for i in range(len(index))]
        assert len(images) == 6
        assert os.fsencode(index.path(2)).endswith(b"d\xe9/train/cat/\xfe\n.jpg")


def test_a_workers_error_is_its_message_alone(tmp_path):
    root = image_tree(tmp_path / "data") / "train"
    (root / "cat" / "0\n1.jpg").write_bytes(b"no image")
    loader = DataLoader(ImageFolder(scan(root), lambda image: torch.zeros(1)), num_workers=1)
    with pytest.raises(UserError) as error:
        list(loader)
    assert one_line(error.value).startswith(f"cannot read the image {root}/cat/0\\n1.jpg (no JPEG, ")
    assert one_line(FileNotFoundError(2, "No such file", "a\nb")) == "[Errno 2] No such file: 'a\\nb'"


def listed(world, root):
    """What this process knows of the images, and how many directories it has read for that."""
    read = []
    sys.addaudithook(lambda event, args: read.append(args) if event == "os.scandir" and str(root) in args[0] else None)
    index = share_index(root, world)
    return [index.path(i) for i in range(len(index))], index.classes, index.targets.tolist(), len(read)


def test_one_process_lists_the_images_for_all(tmp_path):
    root = image_tree(tmp_path / "data", count=5) / "train"
    first, second = on_processes(2, listed, root)
    assert first[:3] == second[:3] == ([f"{root}/{c}/{i}.jpg" for c in ("cat", "dog") for i in range(5)],
                                       ["cat", "dog"], [0] * 5 + [1] * 5)  # fmt: skip
    assert (first[3], second[3]) == (3, 0)


# What commands say


def gone_after(lines, code, **env):
    """A command's status and standard error, when its reader goes after so many lines: what `| head` does."""
    code = f"import sys\nfrom utils.errors import UserError, run_command\n{code}\nsys.exit(run_command(main))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **env},
    )  # fmt: skip
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    return process.wait(), errors


SPEAKS = "def main():\n for i in range(10**5): print(i, flush=i == 0)"
FAILS = SPEAKS + "\n raise UserError('no room')"
WRITES = "import os\ndef main(): r, w = os.pipe(); os.close(r); os.write(w, b'x')"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_ends_a_command_without_a_word(unbuffered):
    ended = (128 + signal.SIGPIPE, "")
    assert gone_after(0, "def main(): print('said once')", PYTHONUNBUFFERED=unbuffered) == ended
    assert gone_after(1, SPEAKS, PYTHONUNBUFFERED=unbuffered) == ended
    assert gone_after(1, FAILS, PYTHONUNBUFFERED=unbuffered) == ended
    helped = "import argparse\ndef main(): argparse.ArgumentParser().parse_args(['--help'])"
    assert gone_after(0, helped, PYTHONUNBUFFERED=unbuffered) in (ended, (0, ""))
    done = subprocess.run(
        [sys.executable, "-c", f"from full_spike.utils.errors import run_command\n{WRITES}\nexit(run_command(main))"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: [Errno 32] Broken pipe\n")  # the pipe was another one


def test_a_librarys_warning_is_one_line_however_long_it_is():
    """Also in the processes that load data, which are forked."""
    code = (
        "import os, sys, warnings\nfrom utils.errors import run_command\n"
        "def main():\n warnings.warn('first\\n second \\x1b[1m', stacklevel=1)\n"
        " if os.fork() == 0: warnings.warn('a child'); sys.stderr.flush(); os._exit(0)\n os.wait()\n"
        "run_command(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "warning: first second \\x1b[1m\nwarning: a child\n"


DAMAGED = b'5\n{}\n\xff\xfe\n{"epoch": "x"}\n[1]\n'


def test_damaged_lines_of_metrics_are_left_out_and_told(tmp_path):
    """By a picture of a run, and by a run that goes on."""
    out = tmp_path / "out"
    succeed("cifar.train", *TINY, "--epochs", 1, "--output-dir", out)
    folder = only(out)
    line = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(DAMAGED + line + line[:20])
    done = run("utils.plots", folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"warning: {folder}/metrics.jsonl is damaged: line 1, 2, 3, 4, 5 left out\n"
    assert (folder / "learning_curves.png").exists()
    text = succeed("cifar.train", *TINY, "--epochs", 2, "--cos_lr_T", 1, "--output-dir", out, "--resume", "auto")
    assert "metrics.jsonl is damaged: line 1, 2, 3, 4, 5 left out" in text
    assert [entry["epoch"] for entry in read_metrics(folder)] == [0, 1]
    assert (folder / "metrics.jsonl").read_bytes().startswith(json.dumps(json.loads(line)).encode())

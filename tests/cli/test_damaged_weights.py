"""Weights that may come from anyone: used, or refused in one line with status 1, and nothing on disk is changed."""

import json
import os
import random
import shutil
import struct

import pytest
import torch

from full_spike.models import create_model, save_pretrained
from full_spike.utils import checkpoint
from full_spike.utils.errors import UserError
from support.command import TINY
from support.images import image_tree
from support.refusals import command, snapshot

NETWORK = {"width": 2, "T": 1, "stem": "cifar", "num_classes": 10, "in_channels": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the same weights as a checkpoint, and as a folder of safetensors; and an image."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    model = create_model("dsnn18", **NETWORK)
    state = {"config": model.config, "model": model.state_dict(), "ema": None, "data_set": "cifar"}
    checkpoint.write(folder / "weights.pth", state)
    save_pretrained(model, folder / "weights", {"data_set": "cifar"})
    image_tree(folder / "images", classes=("cat",), count=1, splits=("train",))
    return folder


def held(*keys, to):
    """A checkpoint that holds something else there."""

    def damage(path):
        content = checkpoint.load(path)
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        torch.save(content, path)

    return damage


def instead(make):
    return lambda path: (path.unlink(), make(path))


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def header(**entry):
    """The beginning of a .safetensors file with one tensor."""
    text = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **entry}}).encode()
    return struct.pack("<Q", len(text)) + text


class Call:
    """Pickled as the call of a function."""

    def __reduce__(self):
        return open, ("executed", "w")


CONFIG, TENSORS = "config.json", "model.safetensors"
DAMAGES = [
    ("weights.pth", held("format", "name", to="timm"), "another program"),
    ("weights.pth", held("format", "version", to=99), "format version 99, this program reads 1: update it"),
    ("weights.pth", held("config", to={"T": 2}), "names no model"),
    ("weights.pth", held("model", to=None), "holds no weights"),
    ("weights.pth", held("model", "fc.bias", to=torch.full((10,), float("nan"))), "fc.bias holds numbers that are not"),
    ("weights.pth", lambda path: os.truncate(path, path.stat().st_size // 2), "is damaged or no checkpoint"),
    ("weights.pth", lambda path: os.truncate(path, 0), "is damaged or no checkpoint"),
    ("weights.pth", flip, "(checksum of "),
    ("weights.pth", lambda path: path.write_text("weights"), "is damaged"),
    ("weights.pth", lambda path: torch.save({"model": Call()}, path), "could run code"),
    ("weights.pth", lambda path: torch.save(torch.zeros(3), path), "holds a Tensor, not a checkpoint"),
    ("weights.pth", instead(os.mkfifo), "there is no checkpoint"),
    ("weights.pth", instead(os.mkdir), "name a file"),
    ("weights.pth", os.remove, "check the path"),
    ("weights", put(CONFIG, b"{"), "is no JSON"),
    ("weights", put(CONFIG, b'{"model": 3}'), "names no model"),
    ("weights", lambda folder: os.remove(folder / CONFIG), "which names the network"),
    ("weights", put(TENSORS, b""), "damaged"),
    ("weights", put(TENSORS, struct.pack("<Q", 2**60)), "damaged"),
    ("weights", put(TENSORS, header()), "damaged"),
    ("weights", put(TENSORS, header(dtype="F99") + bytes(4)), "damaged"),
    ("weights", put(TENSORS, header() + b"\x00\x00\xc0\x7f"), "x holds numbers that are not finite"),
]


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_every_command_says_one_line_and_changes_nothing(whole, tmp_path, monkeypatch, number):
    name, damage, message = DAMAGES[number]
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(whole, tmp_path / "all")
    path, image = folder / name, folder / "images" / "train" / "cat" / "0.jpg"
    damage(path)
    before = snapshot(tmp_path)
    training = ("cifar.train", *TINY, "--output-dir", folder / "runs")
    for words in (
        ("utils.synops", "--model", "dsnn18", "--checkpoint", path, "--output", folder / "report", "--size", 8),
        ("utils.fullspike", "--model", "dsnn18", "--checkpoint", path, "--size", 8, "--images", 2),
        ("utils.convert_checkpoint", path, folder / "converted", "--model", "dsnn18"),
        ("utils.export.__main__", "--checkpoint", path, "--to", "integer", "--output", folder / "exported"),
        ("utils.predict", image, "--checkpoint", path, "--output", folder / "pictures"),
        (*training, "--initial-checkpoint", path),
        (*training, "--test-only", "--resume", path),
    ):
        done = command(*words)
        (line,) = done.err.splitlines()
        assert line.startswith("error: "), words
        assert message in line, words
        assert done.status == 1, words
        assert snapshot(tmp_path) == before, words


@pytest.mark.parametrize("name", ["weights.pth", "weights/model.safetensors", "weights/config.json"])
def test_damage_anywhere(whole, tmp_path, name):
    """Bits flipped at random places, and half of the time cut off: one line, or what was written."""
    path = shutil.copytree(whole, tmp_path / "all") / name
    content, expected = path.read_bytes(), checkpoint.load(whole / "weights.pth")["model"]
    random.seed(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(random.randint(1, 3)):
            damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged[: random.choice([len(damaged), random.randrange(len(damaged))])])
        try:
            found = checkpoint.read_trained(path if path.suffix == ".pth" else path.parent)
        except UserError:
            refused += 1
            continue
        if path.suffix == ".pth":  # the other format has no checksums
            assert all(torch.equal(value, expected[key]) for key, value in found.state.items())
    assert refused > 20

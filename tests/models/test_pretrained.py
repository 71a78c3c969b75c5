"""Trained networks as folders, as .safetensors, under other names, from torch.hub; and the classes of images."""

import json
import re
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from full_spike.models import create_model, from_published, load_published, save_pretrained, to_published
from full_spike.models.tensors_file import read_tensors, write_tensors
from full_spike.utils.checkpoint import load, write
from full_spike.utils.data.digits import load_digits
from PIL import Image
from support.command import TINY, only, succeed
from support.fill import published_state
from support.images import image_tree
from support.refusals import command

ROOT = "."
OPTIONS = {"width": 4, "num_classes": 5, "T": 2, "stem": "cifar", "connect_f": "XOR"}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def tensors():
    kinds = (
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.int32,
        torch.int8,
        torch.uint8,
    )
    made = {str(kind): (10 * torch.randn(3, 2)).to(kind) for kind in kinds}
    return {**made, "flags": torch.tensor([True, False]), "one": torch.tensor(3.5), "none": torch.zeros(0, 4)}


def test_safetensors_reads_ours_and_ours_reads_safetensors(tmp_path):
    made = tensors()
    write_tensors(tmp_path / "ours.safetensors", made, {"format": "pt"})
    assert same(safetensors.torch.load_file(tmp_path / "ours.safetensors"), made)
    safetensors.torch.save_file(made, tmp_path / "theirs.safetensors")
    assert same(read_tensors(tmp_path / "theirs.safetensors"), made)


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(1,), place=(0, 4)):
    return {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}}


DAMAGED = {
    "nothing": b"",
    "no header": struct.pack("<Q", 2**60),
    "half a header": file_of(entry())[:20],
    "no JSON": file_of(b"{x}"),
    "a list": file_of([1]),
    "deep JSON": file_of(b"[" * 100_000),
    "a type": file_of(entry("F8"), bytes(4)),
    "a negative shape": file_of(entry(shape=(-1,)), bytes(4)),
    "a shape of booleans": file_of(entry(shape=(True,)), bytes(4)),
    "past the end": file_of(entry(place=(0, 8), shape=(2,)), bytes(4)),
    "another size": file_of(entry(shape=(2,)), bytes(4)),
    "a gap": file_of(entry(place=(4, 8)), bytes(8)),
    "bytes at the end": file_of(entry(), bytes(8)),
    "more fields": file_of({"x": {**entry()["x"], "code": "print()"}}, bytes(4)),
}


@pytest.mark.parametrize("damage", list(DAMAGED))
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(ValueError, match=r"x.safetensors is damaged or no .safetensors file \(.*\): fetch it again"):
        read_tensors(path)


def test_a_folder_gives_the_network_again(tmp_path):
    model = create_model("dsnn18", aux_head="separate", **OPTIONS)
    save_pretrained(model, tmp_path / "trained")
    assert sorted(p.name for p in (tmp_path / "trained").iterdir()) == ["config.json", "model.safetensors"]
    for where in (tmp_path / "trained", tmp_path / "trained" / "model.safetensors"):
        again = create_model("dsnn18", pretrained=where)
        assert again.config == model.config
        assert same(again.state_dict(), model.state_dict())
    hub = torch.hub.load(ROOT, "dsnn18", source="local", pretrained=tmp_path / "trained")
    assert same(hub.state_dict(), model.state_dict())
    with pytest.raises(ValueError, match=r"was saved from another network .*model='dsnn18' instead of 'fsnn18'"):
        create_model("fsnn18", pretrained=tmp_path / "trained")
    with pytest.raises(ValueError, match=r"was saved from another network .*T=2 instead of 4"):
        create_model("dsnn18", pretrained=tmp_path / "trained", T=4)
    for name, content, message in (
        ("config.json", "{", "is no JSON"),
        ("config.json", "[]", "names no model"),
        ("model.safetensors", "", "is damaged"),
    ):
        kept = (tmp_path / "trained" / name).read_bytes()
        (tmp_path / "trained" / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            create_model("dsnn18", pretrained=tmp_path / "trained")
        (tmp_path / "trained" / name).write_bytes(kept)


def test_a_hostile_checkpoint_is_refused(tmp_path):
    torch.save({"model": print}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="could run code, or is damaged: it is not loaded"):
        create_model("fsnn18", pretrained=tmp_path / "x.pth")


# Names


def in_containers(state):
    """As SEW-ResNet's code under clock_driven: SeqToANNContainer(conv, norm) had both below `module`."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0].startswith("layer") and ("conv" in parts[2] or parts[2:4] == ["downsample", "0"]):
            parts.insert(3 if "conv" in parts[2] else 4, "module")
        renamed[".".join(parts)] = value
    return renamed


def test_names_of_clock_driven_are_read_and_written():
    state = published_state("sew_resnet18")
    model = create_model("sew_resnet18", num_classes=10)
    old = in_containers(state)
    assert "layer1.0.conv1.module.0.weight" in old
    assert "layer2.0.downsample.0.module.1.bias" in old
    load_published(model, old)
    assert same(
        to_published(model, clock_driven=True),
        {k: v.to(model.state_dict()["conv1.weight"].dtype) if v.is_floating_point() else v for k, v in old.items()},
    )
    assert from_published(model, old).keys() == model.state_dict().keys()


def convert(*args):
    done = command("utils.convert_checkpoint", *args)
    assert done.status == 0, done.err
    return done.out


def test_a_checkpoint_through_every_naming_and_back(tmp_path):
    model = create_model("dsnn18", **OPTIONS)
    save_pretrained(model, tmp_path / "a")
    assert "dsnn18" in convert(tmp_path / "a", tmp_path / "ours.pth")
    options = [word for name, value in OPTIONS.items() for word in ("--option", f"{name}={value}")]
    convert(tmp_path / "ours.pth", tmp_path / "published.pth", "--to", "published")
    assert "layer2.0.pool.0.0.weight" in torch.load(tmp_path / "published.pth", weights_only=True)["model"]
    convert(tmp_path / "published.pth", tmp_path / "old.pth", "--to", "clock_driven", "--model", "dsnn18", *options)
    convert(tmp_path / "old.pth", tmp_path / "b", "--to", "pretrained", "--model", "dsnn18", *options)
    again = create_model("dsnn18", pretrained=tmp_path / "b")
    assert same(again.state_dict(), model.state_dict())
    done = command("utils.convert_checkpoint", tmp_path / "old.pth", tmp_path / "b")
    assert done.status == 2
    assert "is there already" in done.err
    done = command("utils.convert_checkpoint", tmp_path / "old.pth", tmp_path / "c")
    assert done.status == 2
    assert "does not say which network it is of" in done.err


# Classes of images


@pytest.fixture(scope="module")
def digit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    succeed("cifar.train", *TINY, "--epochs", 3, "--neuron", "IF", "--output-dir", folder / "runs")
    scans, classes = load_digits(train=False)
    (folder / "digits").mkdir()
    for i in range(2):
        picture = Image.fromarray((scans[i] * 255 / 16).astype(np.uint8)).resize((16, 16))
        picture.save(folder / "digits" / f"{classes[i]}.png")
    return only(folder / "runs", "digits*") / "checkpoint_latest.pth", folder


def test_images_are_classified_and_drawn(digit, tmp_path):
    checkpoint, folder = digit
    common = ("--checkpoint", checkpoint, folder / "digits")
    done = command("utils.predict", *common, "--output", tmp_path)
    assert done.status == 0, done.err
    assert len([line for line in done.out.splitlines() if line.endswith("%  ") or " %  " in line]) == 2 * 5
    pictures = sorted(tmp_path.glob("*_spikes.png"))
    assert len(pictures) == 2
    assert min(Image.open(pictures[0]).size) > 300
    names = tmp_path / "names"
    names.write_text("".join(f"digit {k}\n" for k in range(10)))
    done = command("utils.predict", *common, "--no-pictures", "--top", 2, "--classes", names)
    assert len([line for line in done.out.splitlines() if "digit " in line]) == 2 * 2
    assert sorted(tmp_path.glob("*_spikes.png")) == pictures
    content = load(checkpoint)
    named = {key: content[key] for key in ("config", "model", "data_set")}
    named["classes"] = [f"number {k}" for k in range(10)]
    write(tmp_path / "named.pth", named)
    done = command("utils.predict", "--checkpoint", tmp_path / "named.pth", folder / "digits", "--no-pictures")
    assert len([line for line in done.out.splitlines() if "number " in line]) == 2 * 5
    other = command("utils.predict", *common, "--no-pictures", "--data-option", "image_size=16")
    assert other.status == 0
    said = command("utils.predict", *common, "--no-pictures").out
    assert other.out != said
    convert(checkpoint, tmp_path / "kept", "--to", "pretrained")  # the data's options go along
    kept = command("utils.predict", "--checkpoint", tmp_path / "kept", folder / "digits", "--no-pictures").out
    assert kept.splitlines()[1:] == said.splitlines()[1:]


def test_a_photograph_is_read_as_the_data_set_that_a_checkpoint_names(tmp_path):
    model = create_model("fsnn18", width=4, T=2, num_classes=10, neuron="IF")
    for parameter in model.parameters():
        parameter.data *= 3  # so that it fires
    tree = image_tree(tmp_path / "images", classes=("cat",), count=1, size=(300, 300))
    image = next(tree.rglob("*.jpg"))

    def said(data_set, *words):
        path = tmp_path / f"{data_set}.pth"
        write(path, {"config": model.config, "model": model.state_dict(), "data_set": data_set})
        done = command("utils.predict", "--checkpoint", path, image, "--no-pictures", *words)
        assert done.status == 0, done.err
        return done.out.splitlines()[1:]

    assert said("imagenet") == said("cifar", "--data-set", "imagenet") != said("cifar")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{images}/cat --data-set imagenet", "--data-set imagenet needs a --checkpoint"),
        ("{images}/cat --checkpoint nowhere", "there is no nowhere, neither a file nor one of the weights that come"),
        ("{images}/nothing.jpg --checkpoint {checkpoint}", "there is no .*nothing.jpg: check the path"),
        ("{empty} --checkpoint {checkpoint}", "holds no image"),
        ("{names} --checkpoint {checkpoint}", "cannot read the image"),
        ("{images}/cat --checkpoint {checkpoint} --classes {names}", "names 1 classes and the network has 10"),
        ("{images}/cat --checkpoint {checkpoint} --data-set dvsgesture", "does not say how an image is read"),
        ("{images}/cat --checkpoint {checkpoint} --data-set imagenet", "reads 3 channels, and this one 1"),
    ],
)
def test_what_cannot_be_classified_is_one_line(digit, tmp_path, arguments, message):
    checkpoint, _ = digit
    (tmp_path / "empty").mkdir()
    (tmp_path / "names").write_text("cat\n")
    tree = image_tree(tmp_path / "images", classes=("cat",), count=1)
    below = next(path.parent for path in tree.rglob("cat") if path.is_dir())
    names = {"checkpoint": checkpoint, "empty": tmp_path / "empty", "names": tmp_path / "names", "images": below}
    done = command("utils.predict", *arguments.format(**names).split(), "--output", tmp_path)
    assert done.status in (1, 2)
    (said,) = done.err.splitlines()
    assert re.search(f"^error: .*{message}", said), said
    assert not list(tmp_path.glob("*_spikes.png"))

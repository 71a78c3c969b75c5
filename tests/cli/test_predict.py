"""Top-5 classes of images, and pictures of the spikes that they cause."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from full_spike.models import create_model
from full_spike.utils.checkpoint import load, write
from full_spike.utils.data.digits import load_digits
from support.command import TINY, only, succeed
from support.images import image_tree
from support.refusals import command


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
    done = command("utils.predict", "--checkpoint", checkpoint, folder / "digits", "--output", tmp_path)
    assert done.status == 0, done.err
    assert len(re.findall(r"(?m)^ +\d+\.\d %  \d$", done.out)) == 2 * 5
    pictures = sorted(tmp_path.glob("*_spikes.png"))
    assert len(pictures) == 2
    assert min(Image.open(pictures[0]).size) > 300


def test_it_stops_as_soon_as_it_is_sure(digit):
    checkpoint, folder = digit
    words = "utils.predict", "--checkpoint", checkpoint, folder / "digits", "--no-pictures", "--T", 3
    whole = command(*words).out
    for confidence, steps in ((0, 1), (1, 3)):
        out = command(*words, "--exit-confidence", confidence).out
        assert out.count(f", after {steps} of 3 time steps") == 2
        at_one = command(*words[:-1], steps).out
        assert out.replace(f", after {steps} of 3 time steps", "") == at_one
    assert at_one == whole


def test_a_folder_as_systems_leave_it(digit, tmp_path):
    checkpoint, folder = digit
    shutil.copytree(folder / "digits", tmp_path / "in")
    for name in ("._0.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "in" / name).touch()
    Image.open(next((folder / "digits").glob("*.png"))).save(tmp_path / "in/x.gif")
    done = command("utils.predict", "--checkpoint", checkpoint, tmp_path / "in", "--no-pictures")
    assert (done.status, done.err) == (0, "")
    assert len(re.findall(r"(?m)^ +\d+\.\d %  \d$", done.out)) == 3 * 5
    line = f"passed over in {tmp_path}/in, since no image: 3 (.DS_Store, ._0.png, Thumbs.db)"
    assert line in done.out.splitlines()


def test_where_the_names_of_classes_come_from(digit, tmp_path):
    checkpoint, folder = digit

    def predict(path, *words):
        done = command("utils.predict", "--checkpoint", path, folder / "digits", "--no-pictures", *words)
        assert done.status == 0, done.err
        return done.out

    names = tmp_path / "names"
    names.write_text("".join(f"digit {k}\n" for k in range(10)))
    assert predict(checkpoint, "--top", 2, "--classes", names).count(" %  digit ") == 2 * 2
    content = load(checkpoint)
    named = {key: content[key] for key in ("config", "model", "data_set")}
    write(tmp_path / "named.pth", {**named, "classes": [f"number {k}" for k in range(10)]})
    assert predict(tmp_path / "named.pth").count(" %  number ") == 2 * 5
    assert predict(checkpoint) != predict(checkpoint, "--data-option", "image_size=16")
    # what else the checkpoint says of the data goes along with its weights
    command("utils.convert_checkpoint", checkpoint, tmp_path / "kept", "--to", "pretrained")
    assert predict(tmp_path / "kept").splitlines()[1:] == predict(checkpoint).splitlines()[1:]


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
        ("{images}/cat --checkpoint nowhere", "there is no nowhere, neither a file nor "),
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

"""Samples of event data as pictures, and the spikes that they cause in a network."""

import numpy as np
import pytest
import torch
from PIL import Image

from full_spike.models import create_model
from full_spike.utils import checkpoint, plots
from full_spike.utils.trained import set_norms
from support.command import succeed
from support.events import gestures, load
from support.refusals import command

SHOW = "utils.show_events"
T, SIZE = 4, 32


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return gestures(tmp_path_factory.mktemp("data"), count=20)


@pytest.fixture(scope="module")
def data(root):
    return load("dvsgesture", root, "--T", T, "--T-train", T, "--frame-size", SIZE)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("dsnn_7b", width=4, T=T, num_classes=data.num_classes)
    set_norms(model, torch.stack([data.test[i][0] for i in range(3)], dim=1))
    path = tmp_path_factory.mktemp("run") / "trained.pth"
    recipe = {"frame_size": SIZE, "dataset": "digits-dvs"}
    content = {"config": model.config, "model": model.state_dict(), "recipe": recipe, "data_set": "dvsgesture"}
    checkpoint.write(path, content)
    return model.eval(), path


def test_frames_of_a_sample(root, data, tmp_path):
    options = ("--data-set", "dvsgesture", "--data", root, "--T", T)
    options += ("--data-option", f"frame_size={SIZE}", "--data-option", "dataset=digits-dvs")
    out = succeed(SHOW, *options, "--sample", 2, "--output", tmp_path / "new")
    frames, label = data.test[2]
    first, *rest = out.splitlines()
    assert first == f"test sample 2, class {data.classes[label]}: {frames.sum():,.0f} events, 4 frames of 32x32 pixels"
    assert rest == [f"wrote {tmp_path}/new/test_2_frames.{kind}" for kind in ("png", "gif")]
    with Image.open(tmp_path / "new" / "test_2_frames.gif") as gif:
        assert gif.n_frames == T
        pixels = np.asarray(gif.convert("RGB"))[::12, ::12]
    assert (pixels == plots.frame_colours(frames.numpy())[0]).all()
    assert succeed(SHOW, *options, "--train", "--output", tmp_path).startswith("train sample 0, class ")


def test_a_network_is_shown_as_it_was_trained(root, data, trained, tmp_path):
    """T, the size of frames and the data set come from the checkpoint; the predicted class is the network's."""
    network, path = trained
    out = succeed(SHOW, "--checkpoint", path, "--data", root, "--output", tmp_path).splitlines()
    with torch.no_grad():
        trunk, pathway = network(data.test[0][0].unsqueeze(1))
    name = data.classes[int(trunk.argmax())]
    assert out[1].startswith(f"predicted: {name} (fsnn, {100 * trunk.softmax(1).max():.1f} %), ")
    assert f", {data.classes[int(pathway.argmax())]} (aap, " in out[1]
    with Image.open(tmp_path / "test_0_spikes.png") as picture:
        assert min(picture.size) > 500


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("", 2, "there are no data: name them by --data-set"),
        ("--T 0", 2, "--T: 0 is below 1"),
        ("--data-set dvsgesture --model fsnn_7b", 2, "there is no --checkpoint"),
        ("--data-set nowhere", 2, "--data-set nowhere: "),
        ("--data-set cifar", 2, "the samples are images, not frames of events"),
        ("--checkpoint missing.pth", 1, "missing.pth"),
        ("--checkpoint TRAINED --data ROOT --sample 99", 2, "--sample 99: there are"),
    ],
)
def test_commands_that_cannot_work(tmp_path, root, trained, options, status, message):
    words = options.replace("TRAINED", str(trained[1])).replace("ROOT", str(root)).split()
    done = command(SHOW, *words, "--output", tmp_path / "out")
    assert done.status == status
    (line,) = done.err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()

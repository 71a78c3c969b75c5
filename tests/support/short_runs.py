"""Short runs of the training scripts, for what their options change."""

from types import SimpleNamespace

import pytest
import torch

from full_spike.utils import checkpoint
from support.command import entries, succeed
from support.events import gestures
from support.images import image_tree, imagenet_tree

FOLDER, EVENTS, IMAGENET = "full_spike.cifar.train", "full_spike.dvsgesture.train", "full_spike.imagenet.train"


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """short_run(script, options): what a short run of it ends with; the same options are run once."""
    made = tmp_path_factory.mktemp("data")
    paths = {
        "images": image_tree(made / "images", count=6),
        "other": image_tree(made / "other", classes=("owl", "yak"), count=7),
        "alone": image_tree(made / "alone", splits=("train",), count=6),
        "imagenet": imagenet_tree(made / "imagenet", count=4),
        "events": gestures(made / "events", count=12),
    }
    common = "-j 0 --device cpu --epochs 1"
    base = {
        FOLDER: f"--dataset folder --data-path {paths['images']} --image-size 8 --width 2 --T 2 -b 4 {common}",
        EVENTS: f"--data-path {paths['events']} --frame-size 16 --width 2 --T 4 -b 6 {common}",
        IMAGENET: f"--data-path {paths['imagenet']} --train-crop-size 16 --val-resize-size 18 --val-crop-size 16 "
        f"--width 2 --T 2 -b 4 {common}",
    }
    done = {}

    def start(script, options="", out=None, fresh=False):
        command = f"{base[script]} {options.format(**paths)}"
        if fresh or out is not None or (script, command) not in done:
            folder = out or tmp_path_factory.mktemp("out")
            text = succeed(script, *command.split(), "--output-dir", folder)
            outcome = SimpleNamespace(text=text, out=folder, command=(*command.split(), "--output-dir", folder))
            (outcome.folder,) = (path for path in folder.iterdir() if not path.name.endswith("_logs"))
            outcome.state = checkpoint.read(outcome.folder / checkpoint.LATEST)
            outcome.entries = entries(outcome.folder)
            if fresh or out is not None:
                return outcome
            done[script, command] = outcome
        return done[script, command]

    start.paths = paths
    return start


def same_weights(a, b):
    ours, theirs = a.state["model"], b.state["model"]
    shapes = [{key: value.shape for key, value in state.items()} for state in (ours, theirs)]
    return shapes[0] == shapes[1] and all(torch.equal(ours[key], value) for key, value in theirs.items())

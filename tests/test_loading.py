"""Loading processes that are not forked, as Python 3.14 starts them: all that they need can be sent to them."""

import pytest
import torch
from full_spike.utils.data.loading import make_loaders
from full_spike.utils.distributed import World
from support.events import classes, gestures
from support.images import image_tree, imagenet_tree

DATA_SETS = {
    "digits": (cifar, cifar.data.load, None, "--image-size 8"),
    "folder": (cifar, cifar.data.load, image_tree, "--dataset folder --image-size 8"),
    "imagenet": (imagenet, imagenet.data.load, imagenet_tree, "--train-crop-size 16"),
    "mixed digits": (
        cifar,
        cifar.data.load,
        None,
        "--image-size 8 --mixup 1 --cutmix 1 --aa autoaugment-svhn --hflip 1",
    ),
    "mixed": (imagenet, imagenet.data.load, imagenet_tree, "--mixup 1 --cutmix 1 --aa randaugment --random-erase 0.5"),
    "gestures": (dvsgesture, dvsgesture.data.GESTURE.load, lambda root: gestures(root, 12), "--augment nda,roll"),
    "cifar10dvs": (cifar10dvs, cifar10dvs.data.CIFAR10DVS.load, lambda root: classes(root, 60), "--augment flip"),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_batches_do_not_depend_on_how_loading_processes_are_started(tmp_path, name):
    script, load, make, options = DATA_SETS[name]
    argv = options.split()
    if make is not None:
        argv += ["--data-path", str(make(tmp_path / "data"))]
    if name in ("gestures", "cifar10dvs"):
        argv += ["--T", "4", "--frame-size", "16"]
    config = script.train.parser.parse(argv)
    data = load(config.data, World(), config.network.T)
    found = []
    for workers in (0, 1):
        options = {"batch_size": 4, "world": World(), "seed": 0, "collate": data.collate, "mix": data.mix}
        loaders = make_loaders(data.train, data.test, workers=workers, **options)
        for loader in (loaders.train, loaders.test):
            loader.multiprocessing_context = "forkserver" if workers else None
            found.append(next(iter(loader)))
    for (inputs, targets), (expected, labels) in zip(found[2:], found[:2], strict=True):
        assert torch.equal(inputs, expected)
        assert torch.equal(targets, labels)

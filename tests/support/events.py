"""Made recordings, in the files of the real data sets, and what was made of them."""

import torch
from full_spike.cifar10dvs.train import parser as cifar_parser
from full_spike.dvsgesture.train import parser as gesture_parser
from full_spike.utils.data.events.simulated import write_as_cifar10dvs, write_as_gestures
from full_spike.utils.distributed import World

PARSERS = {"dvsgesture": gesture_parser, "cifar10dvs": cifar_parser}


def gestures(root, count=40):
    """`count` digits to train on and a quarter to test, as DVS128 Gesture."""
    write_as_gestures(root / "extract" / "DvsGesture", count=count)
    return root


def classes(root, count=120):
    """`count` digits as CIFAR10-DVS."""
    write_as_cifar10dvs(root / "extract", count=count)
    return root


def load(name, root, *options, world=None):
    """What the script of a data set loads, prepared if need be."""
    import importlib

    config = PARSERS[name].parse(["--data-path", str(root), *map(str, options)])
    module = importlib.import_module(f"{name}.data")
    dataset = module.GESTURE if name == "dvsgesture" else module.CIFAR10DVS
    return dataset.load(config.data, world or World(), config.network.T)


def tree(folder):
    """Every file below a folder with its content."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def noise(count, seed=0, longest=10**6):
    """Events of random places and polarities, ordered by time."""
    generator = torch.Generator().manual_seed(seed)

    def draw(limit):
        return torch.randint(0, limit, (count,), generator=generator)

    return {
        "t": draw(longest).sort().values.numpy(),
        "x": draw(128).numpy(),
        "y": draw(128).numpy(),
        "p": draw(2).numpy(),
    }

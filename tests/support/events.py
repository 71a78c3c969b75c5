"""Event data made for tests: digits, noise, and files as the data sets are published."""

import struct

import numpy as np
import torch

from full_spike.cifar10dvs.data import CIFAR10DVS
from full_spike.dvsgesture.data import GESTURE
from full_spike.utils.data.events_digits import write_digits
from full_spike.utils.data.options import DIGITS, add_event_arguments
from full_spike.utils.distributed import World
from full_spike.utils.options import Parser


def gestures(root, count=40):
    """`count` digits to train on and a quarter to test, for dvsgesture.train with this data path."""
    write_digits(root / DIGITS / "dvsgesture" / "events_np", divided=True, count=count)
    return root


def classes(root, count=120):
    """`count` digits, for cifar10dvs.train with this data path."""
    write_digits(root / DIGITS / "cifar10dvs" / "events_np", divided=False, count=count)
    return root


def load(data, root, *options, world=None):
    """What a data set, or the one of that name, loads from a data path."""
    data = {"dvsgesture": GESTURE, "cifar10dvs": CIFAR10DVS}.get(data, data)
    parser = Parser()
    add_event_arguments(parser, data.name, data.sensor[0])
    parser.add_argument("--data-path")
    parser.add_argument("--T", type=int, default=16)
    argv = [*map(str, options), *(["--data-path", str(root)] if root else [])]
    return data.load(parser.parse_args(argv), world or World())


def tree(folder):
    """Every file below a folder with its content."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def noise(count, seed=0, longest=10**6, height=128, width=128):
    """Events of random places and polarities, ordered by time."""
    generator = torch.Generator().manual_seed(seed)

    def draw(limit):
        return torch.randint(0, limit, (count,), generator=generator).numpy()

    return {"t": np.sort(draw(longest)), "x": draw(width), "y": draw(height), "p": draw(2)}


def write_aedat3(path, events):
    """As DVS128 Gesture is published: AEDAT 3.1, all events in one packet."""
    n = len(events["t"])
    address = events["x"] << 17 | events["y"] << 2 | events["p"] << 1 | 1
    header = struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, n, n, n)
    content = np.stack([address, events["t"]], axis=1).astype("<u4").tobytes()
    path.write_bytes(b"#!AER-DAT3.1\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n" + header + content)


def write_aedat2(path, events):
    """As CIFAR10-DVS is published: AEDAT 2.0, mirrored and with the opposite polarity."""
    address = (127 - events["x"]) << 8 | (127 - events["y"]) << 1 | (1 - events["p"])
    path.write_bytes(b"#!AER-DAT2.0\r\n" + np.stack([address, events["t"]], axis=1).astype(">u4").tobytes())


def write_gestures(folder):
    """DVS128 Gesture's published files: a person to train on and one to test, each with all 11 gestures."""
    folder.mkdir(parents=True)
    for seed, (name, split) in enumerate((("user01_led", "train"), ("user24_led", "test"))):
        write_aedat3(folder / f"{name}.aedat", noise(11 * 60, seed, longest=11_000))
        rows = [f"{label + 1},{1000 * label},{1000 * label + 1000}" for label in range(11)]
        (folder / f"{name}_labels.csv").write_text("\n".join(["class,startTime_usec,endTime_usec", *rows]) + "\n")
        (folder / f"trials_to_{split}.txt").write_text(f"{name}.aedat\n")

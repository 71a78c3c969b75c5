"""How long a start takes to know ImageNet's 1,281,167 training images from the kept list.

    python -m benchmarks.image_index [--images N]

The folders are real, the files are only listed, which is all that a start reads.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from full_spike.utils.data.images import cache_path, list_images_once

parser = argparse.ArgumentParser()
parser.add_argument("--images", type=int, default=1_281_167)
parser.add_argument("--repeats", type=int, default=5)
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    os.environ["XDG_CACHE_HOME"] = folder
    root = Path(folder) / "train"
    classes = [f"n{i:08}" for i in range(1000)]
    for name in classes:
        (root / name).mkdir(parents=True)
    targets = np.sort(np.arange(args.images) % len(classes))
    folders = ["", *classes]
    path = cache_path(root, "list")
    path.parent.mkdir()
    index = {
        "classes": np.array(classes),
        "paths": np.array([f"{classes[t]}/{classes[t]}_{i}.JPEG".encode() for i, t in enumerate(targets)]),
        "targets": targets,
        "sizes": np.full(len(targets), 110_000),
        "folders": np.array([os.fsencode(name) for name in folders]),
        "times": np.array([(root / name).stat().st_mtime_ns for name in folders]),
    }
    with open(path, "wb") as file:
        np.savez(file, **index)
    seconds, said = [], []
    for _ in range(args.repeats):
        began = time.perf_counter()
        index = list_images_once(root, said.append)
        seconds.append(time.perf_counter() - began)
    assert all("from the list" in text for text in said)
    print(
        f"{len(index['paths']):,} images in {len(classes)} folders: {statistics.median(seconds):.3f} s "
        f"({min(seconds):.3f} to {max(seconds):.3f} in {args.repeats} starts), file {path.stat().st_size / 1e6:.0f} MB"
    )

"""How long a start takes to know ImageNet's 1,281,167 training images from the cached index.

    python -m benchmarks.image_index [--images N]

The folders are real, the files are only listed in the index, which is all that a start reads.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from full_spike.utils.data.images.index import load, save
from full_spike.utils.data.images.listing import ImageIndex, modification_times

parser = argparse.ArgumentParser()
parser.add_argument("--images", type=int, default=1_281_167)
parser.add_argument("--repeats", type=int, default=5)
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    root = Path(folder) / "train"
    classes = [f"n{i:08}" for i in range(1000)]
    for name in classes:
        (root / name).mkdir(parents=True)
    targets = np.sort(np.arange(args.images) % len(classes))
    names = [f"{classes[t]}/{classes[t]}_{i}.JPEG".encode() for i, t in enumerate(targets)]
    directories = [".", *classes]
    index = ImageIndex(
        root,
        classes,
        np.frombuffer(b"".join(names), np.uint8),
        np.cumsum([len(n) for n in names]),
        targets,
        np.full(len(names), 110_000),
        directories,
        modification_times(root, directories),
    )
    path = Path(folder) / "index.npz"
    save(path, index)
    seconds = []
    for _ in range(args.repeats):
        began = time.perf_counter()
        found = load(path, root)
        seconds.append(time.perf_counter() - began)
    assert found is not None
    assert found.path(args.images - 1) == str(root / names[-1].decode())
    print(
        f"{len(found):,} images in {len(classes)} folders: {statistics.median(seconds):.3f} s "
        f"({min(seconds):.3f} to {max(seconds):.3f} in {args.repeats} loads), file {path.stat().st_size / 1e6:.0f} MB"
    )

"""A cache of which images a folder holds: listing the 1.28 million of ImageNet takes minutes on a cold disk.

The cache is an .npz of plain arrays under ~/.cache/full-spike (or $XDG_CACHE_HOME), one file for each folder. It is
trusted while every directory of the folder has the modification time that it had when it was listed: adding, removing
or renaming anything changes one of them.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from full_spike.utils.data.images.listing import ImageIndex, modification_times, scan
from full_spike.utils.data.npz import read_arrays, write_npz
from full_spike.utils.data.prepared import KeepAlive
from full_spike.utils.distributed import World
from full_spike.utils.files import cache_home, replacing
from full_spike.utils.log import RunLog

VERSION = 2
# fields of an index, and the kinds of their arrays
_ARRAYS = {"classes": "U", "names": "u", "ends": "i", "targets": "i", "sizes": "i", "directories": "U", "modified": "i"}


def cache_path(root: Path) -> Path:
    """Where the index of a folder is cached."""
    return cache_home() / f"images-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.npz"


def pack(index: ImageIndex) -> dict[str, np.ndarray]:
    """The index as arrays, for a file or for another process."""
    arrays = {name: np.array(getattr(index, name)) for name in _ARRAYS}
    return {"version": np.array(VERSION), "root": np.array(str(index.root.resolve())), **arrays}


def unpack(arrays: dict[str, np.ndarray], root: Path) -> ImageIndex:
    """The index of a folder from `pack`.

    Raises:
        ValueError: the arrays do not belong together.
    """
    if {name: arrays[name].dtype.kind for name in _ARRAYS} != _ARRAYS or any(arrays[n].ndim != 1 for n in _ARRAYS):
        raise ValueError("its arrays are of other types")
    classes, names, ends, targets, sizes, directories, modified = (arrays[name] for name in _ARRAYS)
    lengths = [
        len(ends) > 0,
        len(ends) == len(targets) == len(sizes),
        len(classes) <= len(ends),
        len(directories) == len(modified),
    ]
    if not all(lengths) or names.dtype.itemsize != 1:
        raise ValueError("its arrays are of other lengths")
    edges = np.diff(ends, prepend=0)
    if edges.min() <= 0 or ends[-1] != len(names) or not 0 <= targets.min() <= targets.max() < len(classes):
        raise ValueError("its arrays do not belong together")
    return ImageIndex(root, classes.tolist(), names, ends, targets, sizes, directories.tolist(), modified)


def save(path: Path, index: ImageIndex) -> None:
    """Write the cache of an index, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, contended=True) as partial:
        write_npz(partial, compress=False, **pack(index))


def load(path: Path, root: Path) -> ImageIndex | None:
    """The cached index, or None if the folder has changed since.

    Raises:
        ValueError: the file is missing, damaged or something else.
    """
    stored = read_arrays(path, "version", "root", *_ARRAYS)
    if stored["version"].tolist() != VERSION or stored["root"].tolist() != str(root.resolve()):
        return None
    index = unpack(stored, root)
    try:
        return index if np.array_equal(modification_times(root, index.directories), index.modified) else None
    except OSError:  # one is gone, or is another thing now
        return None


def index_images(
    root: Path,
    *,
    cache: bool = False,
    say: Callable[[str], None] = lambda _: None,
    keep_alive: Callable[[], None] = lambda: None,
) -> ImageIndex:
    """List a folder's images, from the cache if it is asked for and still true.

    Args:
        say: is told which.
        keep_alive: called again and again while it works.

    Raises:
        UserError, OSError: see `scan`.
    """
    if not cache or not root.is_dir():
        return scan(root, keep_alive)
    path = cache_path(root)
    began = time.monotonic()
    try:
        index = load(path, root) if path.exists() else None
        reason = "the folder changed" if path.exists() else "first time"
    except ValueError as error:
        index, reason = None, f"the cache is damaged: {error}"
    if index is not None:
        say(f"{len(index)} images of {root} from the index {path} in {time.monotonic() - began:.1f} s")
        return index
    index = scan(root, keep_alive)
    try:
        save(path, index)
        say(f"{len(index)} images of {root} listed in {time.monotonic() - began:.1f} s ({reason}), cached in {path}")
    except OSError as error:
        say(f"warning: cannot cache the index of {root} in {path} ({error.strerror}): it is listed at each start")
    return index


def share_index(root: Path, world: World, *, cache: bool = False) -> ImageIndex:
    """`index_images` by the main process, for all processes of a run: they need not all read the same directories.

    Raises:
        UserError, OSError: see `scan`; every process raises.
    """
    index, packed = None, io.BytesIO()
    with world.main_only(f"listing the images of {root}") as main:
        if main:
            index = index_images(root, cache=cache, say=RunLog(world).say, keep_alive=KeepAlive(world))
            if world.size > 1:
                write_npz(packed, compress=False, **pack(index))
    if index is not None and world.size == 1:
        return index
    received = world.share(packed.getvalue())
    return unpack(read_arrays(io.BytesIO(received)), root) if index is None else index

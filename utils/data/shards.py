"""Images in shards: WebDataset's tars, Parquet as the Hugging Face hub has it, and ImageNet's own archives.

Where each image lies is listed once; then any one is read alone, as from a folder.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from full_spike.utils.errors import UserError
from full_spike.utils.files import IMAGE_SUFFIXES, is_hidden, read_text

Index = dict[str, np.ndarray]  # see `images.list_images`; of shards also the `offsets` of the images in their files
Row = tuple[bytes, int, int, int]  # path, class, bytes, offset of an image
Listed = tuple[list[Row], Sequence[str] | None]  # and the names of the classes, if they have any

CLASSES = "classes.txt"  # beside WebDataset's shards, which number their classes: the names, one a line
SPLITS = {"train": {"train"}, "val": {"val", "validation"}, "test": {"test"}}  # by a word of a shard's path
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12"


class Format(NamedTuple):
    """How shards are found below a folder, listed and read."""

    find: Callable[[Path, str], list[Path]]  # (folder, split) -> its files
    list: Callable[[Path, Path], Listed]  # (folder, one of its files) -> what is in it
    read: Callable[[Path, Index, int], bytes]  # (folder, index, number of an image) -> the image's file


def known_format(root: Path) -> str:
    """The one of `FORMATS` that a folder has, or "folder", which counts first: somebody may have unpacked the rest."""
    for folder in filter(Path.is_dir, (root / split for split in SPLITS)):
        if any(entry.is_dir() and not is_hidden(entry.name) for entry in os.scandir(folder)):
            return "folder"
    return next((name for name, kind in FORMATS.items() if any(kind.find(root, split) for split in SPLITS)), "folder")


def list_shards(kind: Format, files: Sequence[Path], root: Path, say: Callable[[str], None]) -> Index:
    """Where every image lies; see `images.list_images`."""
    with ThreadPoolExecutor(16) as pool:  # a network file system takes a while for each answer
        listed = list(pool.map(partial(kind.list, root), files))
    rows = [row for found, _ in listed for row in found]
    if not rows:
        raise UserError(f"there is no image in {files[0]}: take it away, or fetch it again")
    paths, targets, sizes, offsets = map(np.array, zip(*rows, strict=True))
    names = listed[0][1] or [str(k) for k in range(targets.max() + 1)]
    if not 0 <= targets.min() <= targets.max() < len(names):
        raise UserError(f"{files[0]} and others have classes from {targets.min()} to {targets.max()}, not {len(names)}")
    if offsets.min() < 0:
        say(
            f"warning: the images of {root} are compressed together: to read one is to unpack a row group; "
            "full-spike make-shards copies them to where each is read alone"
        )
    looked_at = sorted({root, *(path.parent for path in files), *files})
    return {
        "classes": np.array(names),
        "paths": paths,
        "targets": targets,
        "sizes": sizes,
        "offsets": offsets,
        "folders": np.array([os.fsencode(os.path.relpath(path, root)) for path in looked_at]),
        "times": np.array([path.stat().st_mtime_ns for path in looked_at]),
    }


def _find(suffix: str, root: Path, split: str) -> list[Path]:
    found = [path for pattern in ("*", "*/*") for path in root.glob(pattern + suffix) if not is_hidden(path.name)]
    return sorted(p for p in found if SPLITS[split] & {*re.split(r"[-_./]", str(p.relative_to(root)).lower())})


def _members(file: BinaryIO, at: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset, bytes) of the files in a tar, which may lie in another: tarfile takes ten times as long.

    Names are read up to 100 bytes, without the extensions of GNU and pax.
    """
    while head := os.pread(file.fileno(), 512, at).rstrip(b"\0"):
        if head[257:262] != b"ustar":
            raise UserError(f"{file.name} is no tar, or is damaged at byte {at}: fetch it again")
        size = int(head[124:136].rstrip(b"\0 "), 8)
        if head[156:157] in (b"0", b"\0"):
            yield head[:100].rstrip(b"\0"), at + 512, size
        at += 512 + -(-size // 512) * 512


def _list_wds(root: Path, path: Path) -> Listed:
    """Images `key.jpg` with their classes `key.cls`."""
    images: dict[tuple[bytes, bytes], Row] = {}
    classes: dict[tuple[bytes, bytes], bytes] = {}
    shard, suffixes = os.fsencode(path.relative_to(root)), {suffix[1:].encode() for suffix in IMAGE_SUFFIXES}
    with open(path, "rb", buffering=0) as file:
        for name, offset, size in _members(file):
            folder, _, base = name.rpartition(b"/")
            stem, _, suffix = base.partition(b".")
            if stem and suffix.lower() in suffixes:
                images[folder, stem] = shard + b"/" + name, -1, size, offset
            elif stem and suffix == b"cls":
                classes[folder, stem] = os.pread(file.fileno(), size, offset)
    for key, (name, *_) in images.items():
        if not classes.get(key, b"").strip().isdigit():
            raise UserError(f"{os.fsdecode(name)} has no class, a number in key.cls beside key.jpg: see docs/DATA.md")
    names = read_text(root / CLASSES).splitlines() if (root / CLASSES).is_file() else None
    return [(name, int(classes[key]), size, offset) for key, (name, _, size, offset) in images.items()], names


def _span(path: str, index: Index, i: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), index["sizes"][i], index["offsets"][i])


def _read_tar(root: Path, index: Index, i: int) -> bytes:
    return _span(os.path.join(root, os.fsdecode(index["paths"][i]).partition(".tar/")[0] + ".tar"), index, i)


def _find_archive(root: Path, split: str) -> list[Path]:
    return [path for path in [root / ARCHIVES.get(split, ".")] if path.is_file()]


def _list_archive(root: Path, path: Path) -> Listed:
    """A tar of a tar for each class, or of the validation images: in the order of the folders of torchvision."""
    shard = os.fsencode(path.name)
    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(16) as pool:
        members = sorted(_members(file))
        if path.name == ARCHIVES["val"]:
            classes, of_images = _ground_truth(root / f"{DEVKIT}.tar.gz")
            found = sorted((classes.index(of), *member) for of, member in zip(of_images, members, strict=False))
            return [(b"%s/%s" % (shard, name), label, size, at) for label, name, at, size in found], classes
        inside = pool.map(lambda member: sorted(_members(file, member[1])), members)
        tars = enumerate(zip(members, inside, strict=True))
        rows = [
            (b"%s/%s/%s" % (shard, tar[0], name), label, size, at) for label, (tar, m) in tars for name, at, size in m
        ]
    return rows, [os.fsdecode(name).removesuffix(".tar") for name, *_ in members]


def _ground_truth(path: Path) -> tuple[list[str], list[str]]:
    """(the classes, sorted; the class of each validation image) by ImageNet's development kit."""
    import scipy.io

    try:
        with tarfile.open(path) as kit:
            meta, truth = (
                kit.extractfile(f"{DEVKIT}/data/{name}").read()  # type: ignore[union-attr]
                for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")
            )
        synsets = scipy.io.loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if not row["num_children"]}
        return sorted(wnids.values()), [wnids[int(number)] for number in truth.split()]
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise UserError(f"{path} is needed for the classes of validation images ({error}): put it there") from None


def parquet() -> Any:
    """pyarrow's module, or a line that says what is missing."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet needs a package that is not installed: pip install pyarrow") from None
    return pyarrow.parquet


@lru_cache(256)
def _open_parquet(path: str) -> Any:
    return parquet().ParquetFile(path, memory_map=True)


def _list_parquet(root: Path, path: Path) -> Listed:
    """Columns `image`, with `bytes`, and `label`; a path is that of the file, the row group and the row in that."""
    shard = os.fsencode(path.relative_to(root))
    try:
        table = _open_parquet(str(path))
        table.schema_arrow.field("image").type.field("bytes")
        labels = table.read(["label"], use_threads=False).column("label").to_pylist()
        described = json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        where = _where(path, table) or [(path.stat().st_size, -1)] * len(labels)
    except (OSError, ValueError, KeyError, AttributeError) as error:  # pyarrow's are these
        raise UserError(f"{path} has no columns image.bytes and label ({str(error).splitlines()[0]})") from None
    paths = (b"%s/%d/%d" % (shard, group, row) for group, count in enumerate(groups) for row in range(count))
    names = described.get("info", {}).get("features", {}).get("label", {}).get("names")
    return [(path, label, *at) for path, label, at in zip(paths, labels, where, strict=True)], names


def _where(path: Path, table: Any) -> list[tuple[int, int]]:
    """(bytes, offset) of each image if they lie in the file as they are, each a bit behind the other; else nothing.

    pyarrow does not tell, and to read one image it unpacks a row group: 100 on the hub, and all if they are compressed.
    """
    found, at = [], 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for batch in table.iter_batches(16, columns=["image.bytes"], use_threads=False):
            for image in (each or b"" for each in batch.column(0).field(0).to_pylist()):
                at, end = at - 1, at + len(image) + (1 << 20)
                while (at := content.find(image[:64], at + 1, end)) >= 0 and content[at : at + len(image)] != image:
                    pass  # another image's beginning, or a copy among the statistics
                if at < 0:
                    return []
                found.append((len(image), at))
                at += len(image)
    return found


@lru_cache(8)
def _row_group(path: str, group: int) -> Any:
    return _open_parquet(path).read_row_group(group, ["image.bytes"], use_threads=False).column(0).chunk(0).field(0)


def _read_parquet(root: Path, index: Index, i: int) -> bytes:
    shard, group, row = os.path.join(root, os.fsdecode(index["paths"][i])).rsplit("/", 2)
    if index["offsets"][i] < 0:
        return _row_group(shard, int(group))[int(row)].as_py()
    return _span(shard, index, i)


FORMATS = {
    "imagenet": Format(_find_archive, _list_archive, _read_tar),
    "parquet": Format(partial(_find, ".parquet"), _list_parquet, _read_parquet),
    "wds": Format(partial(_find, ".tar"), _list_wds, _read_tar),
}

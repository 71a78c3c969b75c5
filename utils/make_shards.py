"""Pack images into shards, in the order of their folders: a run reads the same batches from either.

full-spike make-shards /datasets/imagenet /datasets/imagenet-shards
full-spike make-shards pictures pictures-parquet --format parquet
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from full_spike.utils.errors import UsageError, UserError, run_command
from full_spike.utils.files import IMAGE_SUFFIXES, check_output_folder, replacing, write_file
from full_spike.utils.options import Parser

IMAGES = 1000  # in a shard
ROW_GROUP = 100  # images in a row group

Row = tuple[str, bytes, int]  # an image's name, its file, its class


def write_wds(path: Path, rows: Sequence[Row], _: Sequence[str]) -> None:
    """A shard of WebDataset: `key.jpg` and `key.cls` of each image."""
    with tarfile.open(f"{path}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, (name, image, label) in enumerate(rows):
            suffix = os.path.splitext(name)[1].lower().replace(".jpeg", ".jpg")
            suffix = suffix if suffix in IMAGE_SUFFIXES else ".jpg"  # of Parquet, which does not say
            for end, content in ((suffix, image), (".cls", b"%d" % label)):
                member = tarfile.TarInfo(f"{path.name}-{i:04d}{end}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, rows: Sequence[Row], classes: Sequence[str]) -> None:
    """A shard of Parquet as the Hugging Face hub has it, with its description of the columns."""
    import pyarrow as pa

    from full_spike.utils.data.shards import parquet

    features = {"image": {"_type": "Image"}, "label": {"names": [*classes], "_type": "ClassLabel"}}
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    paths = [os.fsencode(os.path.basename(name)).decode(errors="replace") for name, *_ in rows]
    images = [{"bytes": row[1], "path": path} for row, path in zip(rows, paths, strict=True)]
    columns = [pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})), [label for *_, label in rows]]
    table = pa.table(columns, names=["image", "label"], metadata=described)
    options = {"row_group_size": ROW_GROUP, "compression": "none", "use_dictionary": False}
    parquet().write_table(table, f"{path}.parquet", **options)


WRITERS = {"wds": write_wds, "parquet": write_parquet}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__, prog="full-spike make-shards")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="train/ and val/ or test/, or what else is read")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--format", choices=tuple(WRITERS), default="wds", help="WebDataset's tars, or Parquet")
    args = parser.parse_args(argv)
    if os.path.lexists(args.out):
        raise UsageError(f"{args.out} is there already: name a new folder")
    check_output_folder(args.out.parent, "OUT")

    from full_spike.utils.data.images import open_images
    from full_spike.utils.data.shards import CLASSES, SPLITS, known_format
    from full_spike.utils.distributed import World
    from full_spike.utils.log import RunLog

    log, how = RunLog(World()), known_format(args.folder)
    parts = {split: found for split in SPLITS if (found := open_images(args.folder, split, how, log.say)) is not None}
    if not parts:
        raise UserError(f"{args.folder} has neither train/ nor val/ nor test/: name a folder with images below these")
    classes = next(iter(parts.values())).classes
    parts = {split: images.numbered(classes) for split, images in parts.items()}
    total = sum(map(len, parts.values()))
    with replacing(args.out) as partial, log.progress("packing", total, unit="image") as progress:
        (partial / "data").mkdir(parents=True)
        for split, images in parts.items():
            for k, first in enumerate(range(0, len(images), IMAGES)):
                rows = []
                for i in range(first, min(first + IMAGES, len(images))):
                    rows.append((images.name_of(i), images.read(i), int(images.index["targets"][i])))
                    progress.advance()
                WRITERS[args.format](partial / "data" / f"{split}-{k:06d}", rows, classes)
        write_file(partial / CLASSES, "".join(f"{name}\n" for name in classes).encode(errors="surrogateescape"))
    log.say(f"{total} images in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

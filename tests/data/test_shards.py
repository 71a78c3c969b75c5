"""Shards of images are read as the folder that they hold, and make-shards writes them whole or not at all."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from full_spike.imagenet import data as imagenet
from full_spike.utils import make_shards
from full_spike.utils.data.images import open_images
from full_spike.utils.data.shards import known_format
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from support.command import assert_same_run, only, succeed
from support.images import image_args, imagenet_tree
from support.processes import on_processes

WNIDS = ["n01440764", "n01443537", "n01484850"]
ARGS = (
    "--train-crop-size 16 --val-resize-size 18 --val-crop-size 16 --width 4 --T 2 -b 4 -j 0 --device cpu --epochs 1 "
    "--name run"
).split()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = imagenet_tree(tmp_path_factory.mktemp("images"), count=6)
    Image.open(root / f"train/{WNIDS[1]}/0.JPEG").save(root / f"train/{WNIDS[1]}/00.png")
    return root


def members(*contents):
    """A tar with files of these names and contents, in this order."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in contents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


def files(folder, split):
    """The image files of a split, in the order of the folder, with their classes."""
    paths = sorted((path for path in folder.glob(f"{split}/*/*")), key=str)
    return [(path.read_bytes(), WNIDS.index(path.parent.name)) for path in paths]


def write_wds(folder, root):
    """As WebDataset's own writer does: other files beside the images, floating times and so POSIX's headers."""
    (root / "sub").mkdir(parents=True)
    for split, name in (("train", "imagenet-train-{:06d}.tar"), ("val", "sub/imagenet1k-validation-{:02d}.tar")):
        rows = files(folder, split)
        for k in range(0, len(rows), 7):
            content = []
            for i, (image, label) in enumerate(rows[k : k + 7]):
                suffix = "png" if image.startswith(b"\x89PNG") else "jpg"
                content += [(f"./x.y/{k}-{i}.cls", b"%d\n" % label), (f"./x.y/{k}-{i}.json", b"{}")]
                content += [(f"./x.y/{k}-{i}.{suffix}", image), (f"./x.y/._{k}-{i}.{suffix}", b"of macOS")]
            (root / name.format(k // 7)).write_bytes(members(*content))
    (root / "classes.txt").write_text("\n".join(WNIDS))


def write_parquet(folder, root, **options):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (root / "data").mkdir(parents=True)
    described = {"info": {"features": {"label": {"names": WNIDS, "_type": "ClassLabel"}}}}
    for split, name in (("train", "train"), ("val", "validation")):
        rows = files(folder, split)
        for k, first in enumerate(range(0, len(rows), 10)):
            some = rows[first : first + 10]
            images = pa.array([{"bytes": image, "path": f"{i}.JPEG"} for i, (image, _) in enumerate(some)])
            table = pa.table({"image": images, "label": [label for _, label in some]})
            table = table.replace_schema_metadata({"huggingface": json.dumps(described)})
            pq.write_table(table, root / f"data/{name}-{k:05d}-of-00002.parquet", row_group_size=4, **options)


def write_archives(folder, root):
    """As ImageNet is published, of fewer classes. The numbers of the development kit are in another order."""
    root.mkdir()
    of_class = {name: sorted(folder.glob(f"train/{name}/*")) for name in reversed(WNIDS)}
    inside = {name: members(*((path.name, path.read_bytes()) for path in paths)) for name, paths in of_class.items()}
    (root / "ILSVRC2012_img_train.tar").write_bytes(members(*((f"{name}.tar", tar) for name, tar in inside.items())))
    val = sorted(folder.glob("val/*/*"), key=lambda path: (path.stem, path.parent.name))  # the classes by turns
    names = [f"ILSVRC2012_val_{k:08d}.JPEG" for k in range(1, len(val) + 1)]
    (root / "ILSVRC2012_img_val.tar").write_bytes(
        members(*((name, path.read_bytes()) for name, path in zip(names, val, strict=True)))
    )
    synsets = np.zeros(4, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    for k, row in enumerate([(2, WNIDS[0], 0), (3, WNIDS[1], 0), (1, WNIDS[2], 0), (1001, "n00001740", 3)]):
        synsets[k] = row
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    truth = "".join(f"{[2, 3, 1][WNIDS.index(path.parent.name)]}\n" for path in val)
    kit = [("meta.mat", meta.getvalue()), ("ILSVRC2012_validation_ground_truth.txt", truth.encode())]
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        for name, content in kit:
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


WRITTEN = {
    "wds": write_wds,
    "parquet": write_parquet,  # compressed, with a dictionary
    "plain parquet": lambda *at: write_parquet(*at, compression="none", use_dictionary=False),
    "imagenet": write_archives,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_shards_hold_what_the_folder_does(folder, tmp_path, name, capsys):
    WRITTEN[name](folder, tmp_path / "shards")
    assert known_format(tmp_path / "shards") == name.removeprefix("plain ")
    expected = imagenet.load(image_args("imagenet", data_path=str(folder)), World())
    for again in (False, True):
        found = imagenet.load(image_args("imagenet", "--check-data", data_path=str(tmp_path / "shards")), World())
        said = capsys.readouterr().out
        assert ("from the list" in said, "listed in" in said) == (again, not again)
        assert ("are compressed together" in said) == (name == "parquet" and not again)
        assert (found.classes, found.test.classes) == (expected.classes, tuple(WNIDS))
        for ours, theirs, split in ((found.train, expected.train, "train"), (found.test, expected.test, "val")):
            read = [(ours.read(i), int(ours.index["targets"][i])) for i in range(len(ours))]
            assert sorted(read) == sorted(files(folder, split))
            if name != "imagenet" or split == "train":  # the names of its validation images are others
                assert read == files(folder, split)
            assert len({ours.name_of(i) for i in range(len(ours))}) == len(theirs)


def test_shards_that_change_are_listed_again(folder, tmp_path):
    write_wds(folder, tmp_path / "shards")
    args = image_args("imagenet", data_path=str(tmp_path / "shards"))
    before = imagenet.load(args, World())
    image = (folder / f"train/{WNIDS[0]}/0.JPEG").read_bytes()
    (tmp_path / "shards/imagenet-train-000009.tar").write_bytes(members(("a.jpg", image), ("a.cls", b"2")))
    after = imagenet.load(args, World())
    assert len(after.train) == len(before.train) + 1
    assert before.recipe["files"] != after.recipe["files"]


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_make_shards_keeps_images_classes_and_their_order(folder, tmp_path, monkeypatch, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(make_shards, "IMAGES", 8)
    monkeypatch.setattr(make_shards, "ROW_GROUP", 3)
    out = tmp_path / "out"
    assert make_shards.main([str(folder), str(out), "--format", kind]) == 0
    assert len(list(out.glob("data/train-*"))) == 3
    assert make_shards.main([str(out), str(tmp_path / "again")]) == 0  # of shards
    for root, how in ((out, kind), (tmp_path / "again", "wds")):
        for split in ("train", "val"):
            found = open_images(root, split, how, print)
            assert found.classes == tuple(WNIDS)
            read = [(found.read(i), int(found.index["targets"][i])) for i in range(len(found))]
            assert read == files(folder, split)
            assert (found.index["offsets"] >= 0).all()  # each is read alone


def test_make_shards_writes_all_or_nothing(folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="is there already: name a new folder"):
        make_shards.main([str(folder), str(tmp_path)])
    with pytest.raises(UserError, match="neither train/ nor val/ nor test/"):
        make_shards.main([str(folder / "train"), str(tmp_path / "out")])
    images = tmp_path / "images"
    shutil.copytree(folder, images)
    last = max(images.glob("val/*/*"))
    last.unlink()
    last.symlink_to("/proc/self/mem")  # an image that cannot be read
    with pytest.raises(OSError, match="Input/output error"):
        make_shards.main([str(images), str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


WRONG = {
    "no tar": ({"train-0.tar": b"text" * 200}, "train-0.tar is no tar, or is damaged at byte 0: fetch it again"),
    "no class": ({"train-0.tar": members(("a.jpg", b"x"))}, "a.jpg has no class"),
    "no number": (
        {"train-0.tar": members(("a.jpg", b"x"), ("a.cls", b"cat"))},
        "train-0.tar/a.jpg has no class, a number in key.cls",
    ),
    "no images": ({"train-0.tar": members(("a.txt", b"x"))}, "there is no image in"),
    "too few names": (
        {"train-0.tar": members(("a.jpg", b"x"), ("a.cls", b"5")), "classes.txt": b"cat\ndog\n"},
        "classes from 5 to 5, not 2",
    ),
    "no Parquet": ({"train-0.parquet": b"PAR1" * 200}, "train-0.parquet has no columns image.bytes and label"),
    "no kit": (
        {
            "ILSVRC2012_img_train.tar": members(*((f"{name}.tar", members(("a.JPEG", b"x"))) for name in WNIDS)),
            "ILSVRC2012_img_val.tar": members(("a.JPEG", b"x")),
        },
        "{root}/ILSVRC2012_devkit_t12.tar.gz is needed for the classes of validation images (",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shards_are_named(tmp_path, name):
    contents, message = WRONG[name]
    for path, content in contents.items():
        (tmp_path / path).write_bytes(content)
    if "parquet" in str(contents):
        pytest.importorskip("pyarrow")
    with pytest.raises(UserError) as error:
        imagenet.load(image_args("imagenet", data_path=str(tmp_path)), World())
    assert message.format(root=tmp_path) in str(error.value)


def listed(world, root):
    return imagenet.load(image_args("imagenet", data_path=str(root)), world).train.fingerprint()


def test_one_process_lists_the_shards_for_all(folder, tmp_path):
    write_wds(folder, tmp_path / "shards")
    first, second = on_processes(2, listed, tmp_path / "shards")
    assert first == second


@pytest.mark.parametrize("kind", ["wds", "parquet"])
def test_a_run_on_shards_ends_as_one_on_the_folder(folder, tmp_path, kind):
    """The same weights and accuracy, bit for bit."""
    WRITTEN[kind](folder, tmp_path / kind)
    for data, out in ((folder, "folder"), (tmp_path / kind, "shards")):
        succeed("imagenet.train", *ARGS, "--data-path", data, "--output-dir", tmp_path / out)
    assert_same_run(only(tmp_path / "folder"), only(tmp_path / "shards"))

"""Readers of files that may come from anyone: cut, flipped or grown at any byte, they return a result or say one line.

And they need no more memory than three times the file and 256 MiB for that.
"""

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from functools import partial

import numpy as np
import pytest
from full_spike.utils.data.events.aedat import read_aedat2, read_aedat3, write_aedat2, write_aedat3
from full_spike.utils.data.events.archives import unpack
from full_spike.utils.data.events.gestures import Trial, read_trials, write_trials
from full_spike.utils.data.events.recordings import read_file
from full_spike.utils.data.images.index import cache_path, index_images, load
from full_spike.utils.data.images.listing import scan
from full_spike.utils.data.npz import read_arrays, write_npz
from full_spike.utils.data.prepared import read_json, read_record, write_record
from full_spike.utils.log import read_metrics
from hypothesis import given
from support.command import ROOT
from support.damages import bounded, damages, outcome, written
from support.events import noise
from support.images import imagenet_tree

EVENTS = noise(300)
FORMATS = {
    "AEDAT 3.1": (written(lambda path: write_aedat3(path, EVENTS, packet=64)), read_aedat3),
    "AEDAT 2.0": (written(lambda path: write_aedat2(path, EVENTS)), read_aedat2),
}


@pytest.mark.parametrize("name", FORMATS)
@bounded
@given(damage=damages())
def test_recordings(tmp_path, name, damage):
    content, read = FORMATS[name]
    path = tmp_path / "a.aedat"
    path.write_bytes(damage(content(tmp_path)))
    events = outcome(read, path)
    if events is not None:
        assert len({array.shape for array in events.values()}) == 1
        assert all(events[key].min(initial=0) >= 0 and events[key].max(initial=0) < 128 for key in "xy")
    outcome(read_file, path)


npz = written(lambda path: write_npz(path, **EVENTS))


@bounded
@given(damage=damages())
def test_arrays(tmp_path, damage):
    """Their checksums see to it that what is returned is what was written."""
    path = tmp_path / "a.npz"
    path.write_bytes(damage(npz(tmp_path)))
    events = outcome(read_file, path)
    assert events is None or all(np.array_equal(events[key], EVENTS[key]) for key in "txyp")


def write_zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"{i}/a.aedat", bytes(range(256)) * 8)


def write_tar(path):
    with tarfile.open(path, "w") as archive:
        for i in range(4):
            member = tarfile.TarInfo(f"{i}/a.aedat")
            member.size = 2048
            archive.addfile(member, io.BytesIO(bytes(range(256)) * 8))


ARCHIVES = {
    "a.zip": written(write_zip),
    "a.tar": written(write_tar),
    "a.tar.gz": written(lambda path: (write_tar(path), path.write_bytes(gzip.compress(path.read_bytes(), mtime=0)))),
}


@pytest.mark.parametrize("name", ARCHIVES)
@bounded
@given(damage=damages())
def test_archives(tmp_path, name, damage):
    """What is unpacked is below its folder; .zip and .gz have checksums, so from them it is what was packed."""
    path, target = tmp_path / name, tmp_path / "new" / "extract"
    path.write_bytes(damage(ARCHIVES[name](tmp_path)))
    before = {p for p in tmp_path.rglob("*") if "new" not in p.parts}
    outcome(lambda path: unpack([path], target, lambda: None), path)
    assert {p for p in tmp_path.rglob("*") if "new" not in p.parts} == before
    assert not list(tmp_path.rglob("*.partial"))
    if target.exists():
        contents = {p.read_bytes() for p in target.rglob("*") if p.is_file()}
        assert name == "a.tar" or contents <= {bytes(range(256)) * 8}
        shutil.rmtree(target)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return imagenet_tree(tmp_path_factory.mktemp("images"), count=3) / "train"


@bounded
@given(damage=damages())
def test_the_index_of_images(tmp_path, images, damage):
    """A damaged cache is never believed: the images are those that are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        index_images(images, cache=True)
        path, there = cache_path(images), scan(images)
        path.write_bytes(damage(path.read_bytes()))
        found = outcome(partial(load, root=images), path)
        indices = [found or there, index_images(images, cache=True)]
    for index in indices:
        assert [index.path(i) for i in range(len(index))] == [there.path(i) for i in range(9)]
        assert index.classes == there.classes
        assert index.targets.tolist() == there.targets.tolist()


TABLE = [Trial(3, 10, 500), Trial(11, 600, 90_000)]
trials = written(lambda path: write_trials(path, TABLE))


@bounded
@given(damage=damages())
def test_tables_of_gestures(tmp_path, damage):
    path = tmp_path / "a_labels.csv"
    path.write_bytes(damage(trials(tmp_path)))
    found = outcome(read_trials, path)
    assert found is None or all(0 <= trial.start < trial.end for trial in found)


def write_made(path):
    (path.parent / "made").mkdir()
    (path.parent / "made" / "a.npz").write_bytes(b"1234")
    write_record(path.parent / "made", {"T": 4})
    path.write_bytes((path.parent / "made" / "record.json").read_bytes())


record = written(write_made)


@bounded
@given(damage=damages())
def test_records(tmp_path, damage):
    content = record(tmp_path)
    path = tmp_path / "made" / "record.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(damage(content))
    found = outcome(read_json, path)
    assert found is None or found["files"] == {"a.npz": 4}
    outcome(lambda path: read_record(path.parent), path)


@bounded
@given(damage=damages())
def test_metrics(tmp_path, damage):
    lines = b"".join(b'{"epoch": %d, "train_loss": 0.5, "test": {"sum": {"acc1": 5}}}\n' % i for i in range(4))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(damage(lines))
    found = outcome(lambda path: read_metrics(path.parent), path)
    assert all(entry["epoch"] >= 0 for entry in found)


# What a process of its own really takes, under a limit of the system

LIMITED = """
import resource, sys
from pathlib import Path
from full_spike.utils.data.events.aedat import read_aedat2, read_aedat3
from full_spike.utils.data.events.archives import unpack
from full_spike.utils.data.npz import read_arrays
import numpy
numpy.ones((64, 64)) @ numpy.ones((64, 64))  # its threads take their address space now
path = Path(sys.argv[2])
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = held + 3 * path.stat().st_size + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    {"npz": read_arrays, "aedat3": read_aedat3, "aedat2": read_aedat2,
     "archive": lambda path: unpack([path], path.with_name("extract"), lambda: None)}[sys.argv[1]](path)
    print("read")
except MemoryError:
    raise
except Exception as error:
    print(type(error).__name__, error)
"""


def within_the_limit(reader, path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, reader, str(path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_small_files_with_large_arrays(tmp_path):
    """What is within the limit is read within it, and what is not is refused before there is room made for it."""
    write_npz(tmp_path / "a.npz", a=np.zeros(120 << 20, np.uint8))
    assert within_the_limit("npz", tmp_path / "a.npz") == "read"
    write_npz(tmp_path / "a.npz", a=np.zeros(70 << 20, np.uint8), b=np.zeros(70 << 20, np.uint8))
    assert within_the_limit("npz", tmp_path / "a.npz").startswith("ValueError it declares 146800")


def test_a_file_may_hold_as_much_as_it_is_large(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.data.npz.ROOM", 1 << 20)
    array = np.random.default_rng(0).integers(0, 255, 4 << 20, np.uint8)
    for compress in (True, False):
        write_npz(tmp_path / "a.npz", compress=compress, a=array)
        assert np.array_equal(read_arrays(tmp_path / "a.npz")["a"], array)
    write_npz(tmp_path / "a.npz", a=np.zeros_like(array))
    with pytest.raises(ValueError, match="it declares 4194432 bytes"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(("write", "read"), [(write_aedat3, read_aedat3), (write_aedat2, read_aedat2)])
def test_a_recording_takes_less_than_three_times_its_size(tmp_path, write, read):
    write(tmp_path / "a", noise(3_000_000, longest=10**9))  # 24 MB
    tracemalloc.start()
    events = read(tmp_path / "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(events["t"]) == 3_000_000
    assert peak < 3 * (tmp_path / "a").stat().st_size

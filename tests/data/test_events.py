"""From what is published, or what spikingjelly has made of it, to frames: whole or not there, clear when it fails."""

import errno
import hashlib
import pickle
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from spikingjelly import datasets
from spikingjelly.datasets.utils import split_to_train_test_set

from full_spike.cifar10dvs.data import CIFAR10DVS
from full_spike.dvsgesture.data import GESTURE
from full_spike.utils.data.digits import load_digits
from full_spike.utils.data.events import EventDataset, integrate
from full_spike.utils.data.events_digits import CLASSES, digit_events
from full_spike.utils.data.options import DIGITS
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from support.events import classes, gestures, load, noise, tree, write_aedat2, write_gestures
from support.processes import on_processes

SMALL = ("--T", 4, "--frame-size", 32)
REAL = ("--dataset", "dvsgesture", "--T", 4, "--T-train", 4)
DVS128 = (128, 128)
FRAMES = "frames_number_4_split_by_number"
GESTURES = replace(GESTURE, count=22)  # as `write_gestures` makes them


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Digits for both data sets."""
    return {"dvsgesture": gestures(tmp_path_factory.mktemp("g")), "cifar10dvs": classes(tmp_path_factory.mktemp("c"))}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder of gestures that spikingjelly has prepared."""
    root = tmp_path_factory.mktemp("theirs")
    write_gestures(root / "extract" / "DvsGesture")
    (root / "events_np").mkdir()
    datasets.DVS128Gesture.create_raw_from_extracted(root / "extract", root / "events_np")
    datasets.DVS128Gesture(root, train=True, data_type="frame", frames_number=4, split_by="number")
    return root


def contents(data):
    """(class's folder, file), frames and class of each sample."""
    return [(data.name_of(i).split("/")[-2:], frames.tolist(), label) for i, (frames, label) in enumerate(data)]


# Frames


def counted(events, T, size):
    """Frames [T, 2, size, size] event by event: each takes N // T of the N events in order, and the last the rest."""
    frames = np.zeros((T, 2, size, size), dtype=np.int64)
    share, factor = len(events["t"]) // T, 128 // size
    for i, (x, y, p) in enumerate(zip(events["x"], events["y"], events["p"], strict=True)):
        frames[min(i // share, T - 1), p, y // factor, x // factor] += 1
    return frames


@pytest.mark.parametrize("size", [128, 32])
@pytest.mark.parametrize(("count", "T"), [(16, 16), (1000, 16), (12_345, 7)])
def test_frames_are_counted_event_by_event(count, T, size):
    events = noise(count)
    ours = integrate(events, T, DVS128, pooled=128 // size)
    np.testing.assert_array_equal(ours, counted(events, T, size))
    assert ours.dtype == np.uint8


def test_a_pixel_with_many_events_is_counted_to_the_last():
    assert integrate(noise(70_000, height=1, width=1), 1, DVS128).sum() == 70_000


# What is there already


def test_frames_that_spikingjelly_has_made_are_used_as_they_are(theirs, tmp_path):
    root = tmp_path / "shared"
    shutil.copytree(theirs / FRAMES, root / FRAMES)  # nothing else, neither events nor archives
    before = tree(root)
    data = load(GESTURES, root, *REAL)
    for train, ours in ((True, data.train), (False, data.test)):
        expected = datasets.DVS128Gesture(theirs, train=train, data_type="frame", frames_number=4, split_by="number")
        found = sorted(
            (path.split("/")[-2:], frames.tolist(), int(expected.classes[number]))
            for (path, number), (frames, _) in zip(expected.samples, expected, strict=True)
        )
        assert sorted(contents(ours)) == found
        assert len(found) == 11
    load(GESTURES, root, *REAL, "--frame-size", 16)  # pooled when it is read
    assert tree(root) == before


@pytest.mark.parametrize("left", ["extract", "events_np"])
def test_frames_are_made_of_what_there_is(theirs, tmp_path, left):
    shutil.copytree(theirs / left, tmp_path / left)
    ours, expected = load(GESTURES, tmp_path, *REAL), load(GESTURES, theirs, *REAL)
    assert contents(ours.train) == contents(expected.train)
    assert contents(ours.test) == contents(expected.test)


def test_small_frames_are_the_large_ones_pooled(theirs, tmp_path):
    shutil.copytree(theirs / "events_np", tmp_path / "events_np")
    ours = load(GESTURES, tmp_path, *REAL, "--frame-size", 16)
    assert [path.name for path in tmp_path.glob("frames*")] == [f"{FRAMES}_16x16"]
    assert contents(ours.train) == contents(load(GESTURES, theirs, *REAL, "--frame-size", 16).train)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """CIFAR10-DVS as it is downloaded, but 12 recordings of a class."""
    root, sums = tmp_path_factory.mktemp("archives"), []
    (root / "download").mkdir()
    for seed, name in enumerate(CIFAR10DVS.classes):
        path = root / "download" / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(12):
                write_aedat2(root / "recording", noise(50, 100 * seed + i))
                archive.write(root / "recording", f"{name}/cifar10_{name}_{i}.aedat")
        sums.append((path.name, f"https://{name}", hashlib.md5(path.read_bytes()).hexdigest()))
    (root / "recording").unlink()

    class Source(datasets.CIFAR10DVS):
        resource_url_md5 = classmethod(lambda _: sums)

    return root, replace(CIFAR10DVS, source=Source, count=120)


def test_archives_become_frames_divided_as_sew_resnet_divides_them(archives, tmp_path):
    root, row = archives
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    data = load(row, tmp_path, "--dataset", "cifar10dvs", "--T", 4)
    origin = datasets.CIFAR10DVS(tmp_path, data_type="frame", frames_number=4, split_by="number")
    for mine, expected in zip((data.train, data.test), split_to_train_test_set(0.9, origin, 10), strict=True):
        assert len(mine) == len(expected) >= 10
        for (frames, target), (counts, label) in zip(mine, expected, strict=True):
            np.testing.assert_array_equal(frames.numpy(), counts)
            assert target == label


def test_another_data_set_is_one_row(tmp_path):
    for seed, split in enumerate(("Train", "Test")):
        for label in range(10):
            events = noise(40, 10 * seed + label, longest=1 << 20, height=34, width=34)
            rows = [events["x"], events["y"], events["p"] << 7 | events["t"] >> 16, events["t"] >> 8, events["t"]]
            folder = tmp_path / "extract" / split / str(label)
            folder.mkdir(parents=True)
            (folder / "00001.bin").write_bytes((np.stack(rows, axis=1) & 255).astype(np.uint8).tobytes())
    row = EventDataset("nmnist", datasets.NMNIST, CLASSES, sensor=(34, 34))
    data = load(row, tmp_path, "--dataset", "nmnist", "--T", 4)
    frames, label = data.test[3]
    np.testing.assert_array_equal(frames.numpy(), integrate(events := noise(40, 13, 1 << 20, 34, 34), 4, (34, 34)))
    assert (label, len(data.train), events["t"].max() > 1 << 16) == (3, 10, True)
    assert load(row, tmp_path, "--dataset", "nmnist", "--T", 4, "--frame-size", 17).test[0][0].shape == (4, 2, 17, 17)


# Whole or not there


def test_a_preparation_that_is_killed_leaves_nothing_that_is_taken_for_whole(theirs, tmp_path, monkeypatch):
    shutil.copytree(theirs / "events_np", tmp_path / "events_np")
    save, saved = np.savez_compressed, []

    def full(path, **arrays):
        if len(saved) == 5:
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(path, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full)
        with pytest.raises(OSError, match="No space left"):
            load(GESTURES, tmp_path, *REAL)
    assert not list(tmp_path.glob("frames*"))
    (tmp_path / f"{FRAMES}.host.1.partial" / "train").mkdir(parents=True)  # of one that could not even clean up
    assert len(load(GESTURES, tmp_path, *REAL).train) == 11
    assert (tmp_path / FRAMES).is_dir()


@pytest.mark.parametrize("folder", [FRAMES, "events_np"])
def test_what_spikingjelly_has_not_finished_is_refused(theirs, tmp_path, folder):
    shutil.copytree(theirs / folder, tmp_path / folder)
    (tmp_path / f"{folder}.building").touch()
    with pytest.raises(UserError, match=f"{folder} was never finished, says {folder}.building: delete both"):
        load(GESTURES, tmp_path, *REAL)
    (tmp_path / f"{folder}.building").unlink()
    next((tmp_path / folder / "train" / "7").iterdir()).unlink()
    with pytest.raises(UserError, match=f"{folder} holds 21 instead of 22 samples of dvsgesture: delete it"):
        load(GESTURES, tmp_path, *REAL)


def load_together(world, root):
    """As one of the processes of a run, and as a run of its own."""
    return [
        len(load(name, root, *SMALL, world=w).train) for name, w in (("dvsgesture", world), ("cifar10dvs", World()))
    ]


def test_processes_and_runs_that_start_together_prepare_once(tmp_path):
    root = classes(gestures(tmp_path, count=24))
    assert on_processes(2, load_together, root) == [[24, 113]] * 2
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("left", [FRAMES, "events_np", "extract"])
def test_what_systems_leave_is_no_sample(theirs, tmp_path, left):
    shutil.copytree(theirs / left, tmp_path / left)
    for folder in [tmp_path / left, *(path for path in (tmp_path / left).rglob("*") if path.is_dir())]:
        (folder / "@eaDir").mkdir()
        for name in ("._user24_led_0.npz", ".DS_Store", "@eaDir/user24_led_0.npz"):
            (folder / name).write_bytes(b"of a system")
    ours, expected = load(GESTURES, tmp_path, *REAL), load(GESTURES, theirs, *REAL)
    assert contents(ours.train) == contents(expected.train)
    assert contents(ours.test) == contents(expected.test)


def test_archives_with_what_systems_leave(archives, tmp_path):
    root, row = archives
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "download/.DS_Store").touch()
    assert len(load(row, tmp_path, "--dataset", "cifar10dvs", "--T", 4).train) == 110


def test_frames_go_where_they_may(theirs, tmp_path):
    """What is on a share that cannot be written to is read there."""
    shutil.copytree(theirs / "events_np", tmp_path / "share/events_np")
    before = tree(tmp_path / "share")
    data = load(GESTURES, tmp_path / "share", *REAL, "--frames-path", tmp_path / "own")
    assert contents(data.train) == contents(load(GESTURES, theirs, *REAL).train)
    assert tree(tmp_path / "share") == before
    assert [path.name for path in (tmp_path / "own").iterdir()] == [FRAMES]


# One clear line


def test_a_share_that_cannot_be_written_to_is_one_line(theirs, tmp_path, monkeypatch):
    shutil.copytree(theirs / "events_np", tmp_path / "events_np")

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", read_only)  # root may write anywhere
    with pytest.raises(UserError, match=rf"{FRAMES} cannot be made \(Read-only .*\): say by --frames-path where"):
        load(GESTURES, tmp_path, *REAL)


@pytest.mark.parametrize("place", ["extract/airplane", "CIFAR10DVS/airplane"])
def test_recordings_in_another_format_are_named(tmp_path, place):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "0.aedat4").write_bytes(b"#!AER-DAT4.0\r\n")
    with pytest.raises(
        UserError, match=r"0.aedat4 is AEDAT 4, to which .*: fetch the archives of cifar10dvs/README.md"
    ):
        load("cifar10dvs", tmp_path, "--dataset", "cifar10dvs")


def test_real_data_must_be_fetched_whole(archives, tmp_path):
    with pytest.raises(UsageError, match="--dataset dvsgesture needs --data-path: the folder of"):
        load("dvsgesture", None, "--dataset", "dvsgesture")
    with pytest.raises(
        UserError, match=r"no .*DvsGesture.tar.gz: fetch it from https://.* \(see dvsgesture/README.md\)"
    ):
        load("dvsgesture", tmp_path / "g", "--dataset", "dvsgesture")
    root, row = archives
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "download" / "frog.zip"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"frog.zip is incomplete: its MD5 is not \w+; fetch it again"):
        load(row, tmp_path, "--dataset", "cifar10dvs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["download"]
    assert damaged.exists()


def test_recordings_that_cannot_be_cut_are_one_line(theirs, tmp_path):
    shutil.copytree(theirs / "extract", tmp_path / "extract")
    path = tmp_path / "extract" / "DvsGesture" / "user01_led.aedat"
    path.write_bytes(path.read_bytes()[:-5300])
    with pytest.raises(UserError, match=r"extract cannot be converted \(.*\): delete what is damaged"):
        load(GESTURES, tmp_path, *REAL)
    assert not list(tmp_path.glob("events_np*"))


def test_a_sample_with_fewer_events_than_frames_or_of_another_camera(theirs, tmp_path):
    shutil.copytree(theirs / "events_np", tmp_path / "events_np")
    with pytest.raises(
        UserError, match=r"train/\d+/user01_led_0.npz: \d+ events do not fill T=1000 frames: use a small"
    ):
        load(GESTURES, tmp_path, *REAL[:2], "--T", 1000)
    np.savez(tmp_path / "events_np" / "test" / "7" / "user24_led_0.npz", **noise(100, width=346))
    with pytest.raises(UserError, match=r"user24_led_0.npz: there are events outside the sensor of 128x128 pixels"):
        load(GESTURES, tmp_path, *REAL)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), r"is damaged \("),
        (lambda path: path.write_bytes(b""), r"is damaged \("),
        (lambda path: np.savez(path, frames=np.array([{}])), "Object arrays cannot be loaded"),
        (lambda path: np.savez(path, frames=np.zeros((8, 2, 128, 128))), r"of shape \(8, 2, 128, 128\), not counts of"),
        (lambda path: np.savez(path, **noise(3)), "not counts of shape"),
    ],
)
def test_a_damaged_sample_is_named_when_it_is_read(theirs, tmp_path, edit, message):
    shutil.copytree(theirs / FRAMES, tmp_path / FRAMES)
    data = load(GESTURES, tmp_path, *REAL)
    edit(tmp_path / FRAMES / "test" / "2" / "user24_led_0.npz")
    with pytest.raises(UserError, match=rf"user24_led_0.npz .*{message}"):
        data.test[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frame-size", 48), "--frame-size 48 does not divide 128"),
        (("--T-train", 17), "--T-train 17 is above --T 16"),
        (("--dataset", "nmnist"), "--dataset 'nmnist' is unknown: choose one of dvsgesture, digits-dvs"),
        (("--augment", "mixup"), "--augment 'mixup' is unknown"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        load("dvsgesture", tmp_path / "new", *options)
    assert not (tmp_path / "new").exists()


# Digits


def test_digits_fire_where_and_when_brightness_changes():
    scans, _ = load_digits(train=False)
    events = digit_events(scans[:8])
    for recorded, scan in zip(events, scans, strict=False):
        assert (np.diff(recorded["t"]) >= 0).all()
        assert 0 <= recorded["t"][0] < recorded["t"][-1] <= 300_000
        assert 1000 < len(recorded["t"]) < 10_000
        assert 0.4 < recorded["p"].mean() < 0.6  # the camera comes back to where it was
        where = np.zeros((16, 16))
        np.add.at(where, (recorded["y"] // 8, recorded["x"] // 8), 1)
        edges = sum(np.abs(np.diff(np.pad(scan, 4), axis=axis, prepend=0)) for axis in (0, 1))
        assert np.corrcoef(where.ravel(), edges.ravel())[0, 1] > 0.4
    assert len(digit_events(np.zeros((1, 8, 8)))[0]["t"]) == 0


def test_digits_are_a_data_set_like_the_real_ones(made):
    scans, labels = load_digits(train=False)
    data = load("dvsgesture", made["dvsgesture"], *SMALL)
    assert (len(data.train), data.classes, data.name) == (40, CLASSES, "digits-dvs_32px_Ttrain3_")
    assert data.inputs == {"channels": 2, "T": 4, "frame_size": 32}
    assert data.train[0][0].shape == (3, 2, 32, 32)
    expected = [integrate(events, 4, DVS128, pooled=4).tolist() for events in digit_events(scans[:10])]
    found = sorted((frames.tolist(), label) for frames, label in pickle.loads(pickle.dumps(data.test)))
    assert found == sorted(zip(expected, labels[:10].tolist(), strict=True))
    data = load("cifar10dvs", made["cifar10dvs"], *SMALL)
    assert len({frames.numpy().tobytes() for part in (data.train, data.test) for frames, _ in part}) == 113 + 7


def test_digits_go_to_the_cache_where_no_data_path_is_given(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(made["dvsgesture"], tmp_path / "full-spike")
    assert len(load("dvsgesture", None, "--T", 4).test) == 10
    assert (tmp_path / "full-spike" / DIGITS / "dvsgesture" / FRAMES / "test").is_dir()

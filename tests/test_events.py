"""From recordings to frames: equal to spikingjelly's, the same each time, whole or not there, clear when it fails."""

import json
import shutil
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from full_spike.utils.data import prepared
from full_spike.utils.data.digits import load_digits
from full_spike.utils.data.events import frames as event_frames
from full_spike.utils.data.events.aedat import read_aedat3, write_aedat3
from full_spike.utils.data.events.frames import integrate
from full_spike.utils.data.events.simulated import digit_events
from full_spike.utils.data.prepared import read_npz
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from spikingjelly.datasets import CIFAR10DVS, DVS128Gesture
from spikingjelly.datasets.utils import split_to_train_test_set
from support.events import classes, gestures, load, noise, tree
from support.processes import on_processes

SMALL = ("--T", 4, "--frame-size", 32)
MAKE = {"dvsgesture": gestures, "cifar10dvs": classes}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of each data set, prepared with SMALL."""
    roots = {}
    for name, make in MAKE.items():
        roots[name] = make(tmp_path_factory.mktemp(name))
        load(name, roots[name], *SMALL)
    return roots


@pytest.fixture
def copies(made, tmp_path):
    """The same, to be damaged."""
    return {name: shutil.copytree(root, tmp_path / name) for name, root in made.items()}


# Equal to spikingjelly's


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
    ours = integrate(events, T, size)
    np.testing.assert_array_equal(ours, counted(events, T, size))
    assert ours.sum() == count
    assert ours.dtype == np.uint8


def test_a_pixel_with_many_events_is_counted_to_the_last():
    events = {**noise(70_000), "x": np.zeros(70_000, int), "y": np.zeros(70_000, int), "p": np.ones(70_000, int)}
    assert integrate(events, 1, 128)[0, 1, 0, 0] == 70_000


def test_a_whole_data_set_is_what_spikingjelly_makes_of_the_same_files(copies, tmp_path):
    """Gesture: the same samples by name, split and class, the same frames."""
    root = tmp_path / "theirs"
    (root / "events_np").mkdir(parents=True)
    DVS128Gesture.create_raw_from_extracted(copies["dvsgesture"] / "extract", root / "events_np")
    for folder in (root / "events_np").glob("*/*"):
        if not list(folder.iterdir()):  # of a class without samples, which torchvision's DatasetFolder refuses
            folder.rmdir()
    ours = load("dvsgesture", copies["dvsgesture"], "--T", 4, "--T-train", 4)
    for train, mine in ((True, ours.train), (False, ours.test)):
        theirs = DVS128Gesture(str(root), train=train, data_type="frame", frames_number=4, split_by="number")
        names = {
            path.split("/events_np/")[-1].split("frames_number_4_split_by_number/")[-1] for path, _ in theirs.samples
        }
        assert {name for name, _ in mine.samples} == names
        for i, (name, target) in enumerate(mine.samples):
            (j,) = (j for j, (path, _) in enumerate(theirs.samples) if path.endswith(f"/{name}"))
            np.testing.assert_array_equal(mine[i][0].numpy(), theirs[j][0])
            assert str(target) == theirs.classes[theirs[j][1]]


def test_cifar10dvs_is_divided_as_sew_resnet_divides_it(copies, tmp_path):
    root = tmp_path / "theirs"
    shutil.copytree(copies["cifar10dvs"] / "extract", root / "extract")
    (root / "events_np").mkdir()
    CIFAR10DVS.create_raw_from_extracted(root / "extract", root / "events_np")
    origin = CIFAR10DVS(str(root), data_type="frame", frames_number=4, split_by="number")
    ours = load("cifar10dvs", copies["cifar10dvs"], "--T", 4)
    for mine, theirs in zip((ours.train, ours.test), split_to_train_test_set(0.9, origin, 10), strict=True):
        assert len(mine) == len(theirs) > 5
        for (frames, target), (expected, label) in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(frames.numpy(), expected)
            assert target == label


def test_no_digit_tests_what_it_trained(made):
    for name, root in made.items():
        data = load(name, root, *SMALL)
        names = [{n.split("/")[-1] for n, _ in part.samples} for part in (data.train, data.test)]
        assert not names[0] & names[1]
        assert {target for _, target in data.train.samples} == set(range(10))


# Digits as events


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
        edges = np.abs(np.diff(np.pad(scan, 4), axis=0, prepend=0)) + np.abs(
            np.diff(np.pad(scan, 4), axis=1, prepend=0)
        )
        assert np.corrcoef(where.ravel(), edges.ravel())[0, 1] > 0.4
    assert len(digit_events(np.zeros((1, 8, 8)))[0]["t"]) == 0


def test_digits_do_not_depend_on_which_are_made_together():
    scans, _ = load_digits(train=False)
    for together, alone in zip(
        digit_events(scans[:3]), (digit_events(scans[i : i + 1])[0] for i in range(3)), strict=True
    ):
        assert all(np.array_equal(together[key], alone[key]) for key in "txyp")


# The same each time, made once


@pytest.mark.parametrize("name", MAKE)
def test_two_conversions_write_the_same_files(made, tmp_path, name, capsys):
    again = MAKE[name](tmp_path / "again")
    load(name, again, *SMALL)
    assert "samples converted to" in capsys.readouterr().out
    ours, theirs = tree(again), tree(made[name])
    assert ours == theirs
    assert not [path for path in ours if path.endswith(".partial")]


@pytest.mark.parametrize("name", MAKE)
def test_what_is_there_is_used(copies, name, capsys):
    load(name, copies[name], *SMALL)
    assert capsys.readouterr().out == ""
    shutil.rmtree(copies[name] / "extract")  # to save space
    load(name, copies[name], *SMALL)
    load(name, copies[name], "--T", 3)
    shutil.rmtree(copies[name] / "full-spike" / "events")
    load(name, copies[name], "--T", 3)
    assert capsys.readouterr().out.count("converted to") == 1


def slow_preparation(world, root):
    """Two processes that give up on each other after 2 s, and a preparation of 4 s."""
    import time
    from datetime import timedelta

    import torch.distributed as dist

    prepared.PATIENCE = 0.5
    convert = event_frames.write_npz

    def slowly(*args, **kwargs):
        time.sleep(0.15)
        convert(*args, **kwargs)

    event_frames.write_npz = slowly
    impatient = World(world.rank, 2, world.local_rank, world.device, dist.new_group(timeout=timedelta(seconds=2)))
    began = time.monotonic()
    data = load("dvsgesture", root, *SMALL, world=impatient)
    return len(data.train), len(data.test), time.monotonic() - began


def test_one_process_prepares_and_the_others_wait_as_long_as_it_takes(tmp_path):
    results = on_processes(2, slow_preparation, gestures(tmp_path, count=24))
    assert all((train, test) == (24, 6) for train, test, _ in results)
    assert min(seconds for *_, seconds in results) > 2.5


def prepare_on_two_machines(world, roots):
    """Two processes that are each the first of a machine with disks of its own."""
    alone = World(world.rank, 2, 0, world.device, world.control)
    try:
        data = load("cifar10dvs", roots[world.rank], *SMALL, world=alone)
    except UserError as error:
        return str(error)
    return len(data.train), len(data.test), [float(data.train[i][0].sum()) for i in range(3)]


def test_each_machine_prepares_what_it_has_not(tmp_path):
    roots = [classes(tmp_path / name, count=40) for name in ("first", "second")]
    first, second = on_processes(2, prepare_on_two_machines, roots)
    assert first == second
    assert first[0] + first[1] == 40
    assert tree(roots[0] / "full-spike") == tree(roots[1] / "full-spike")


def test_what_fails_on_another_machine_stops_all(tmp_path):
    roots = [classes(tmp_path / name, count=40) for name in ("first", "second")]
    next((roots[1] / "extract" / "3").iterdir()).write_bytes(b"no recording")
    first, second = on_processes(2, prepare_on_two_machines, roots)
    assert first == "preparing digits-dvs failed in process 1: its error says why"
    assert "is no AEDAT 2.0 file" in second


# Archives


@pytest.fixture
def archived(made, tmp_path):
    """The folders as they are downloaded: archives and nothing else."""
    for name, root in made.items():
        (tmp_path / name / "download").mkdir(parents=True)
        if name == "dvsgesture":
            with tarfile.open(tmp_path / name / "download" / "DvsGesture.tar.gz", "w:gz") as archive:
                archive.add(root / "extract" / "DvsGesture", "DvsGesture")
        else:
            for folder in (root / "extract").iterdir():
                with zipfile.ZipFile(tmp_path / name / "download" / f"{folder.name}.zip", "w") as archive:
                    for path in folder.iterdir():
                        archive.write(path, f"{folder.name}/{path.name}")
    return {name: tmp_path / name for name in made}


@pytest.mark.parametrize("name", MAKE)
def test_archives_are_unpacked(made, archived, name):
    load(name, archived[name], *SMALL)
    assert tree(archived[name] / "full-spike") == tree(made[name] / "full-spike")


@pytest.mark.parametrize("name", MAKE)
def test_an_archive_that_is_cut_off(archived, name):
    path = next((archived[name] / "download").iterdir())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"is damaged or incomplete .*: fetch it again"):
        load(name, archived[name], *SMALL)
    assert sorted(p.name for p in archived[name].iterdir()) == ["download", "full-spike"]
    assert [p.name for p in (archived[name] / "full-spike").iterdir()] == [".lock"]


def test_an_archive_cannot_write_outside_its_folder(archived):
    (archived["dvsgesture"] / "outside").write_text("x")
    with tarfile.open(archived["dvsgesture"] / "download" / "DvsGesture.tar.gz", "w:gz") as archive:
        archive.add(archived["dvsgesture"] / "outside", "../../escaped")
    with zipfile.ZipFile(archived["cifar10dvs"] / "download" / "0.zip", "w") as archive:
        archive.writestr("../../escaped", "x")
    for name, root in archived.items():
        with pytest.raises(UserError, match=r"is not unpacked: .*outside"):
            load(name, root, *SMALL)
        assert not list(root.parent.rglob("escaped"))


def test_an_archive_that_the_disk_has_no_room_for(archived, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"0.zip takes 0.00 GB unpacked, and .* has 0.00 GB free: make room"):
        load("cifar10dvs", archived["cifar10dvs"], *SMALL)


@pytest.mark.parametrize(("name", "archive"), [("dvsgesture", "DvsGesture.tar.gz"), ("cifar10dvs", "airplane.zip")])
def test_real_data_must_be_fetched_whole(tmp_path, name, archive):
    with pytest.raises(UserError, match=rf"there is no .*{archive}: fetch it from https://.* \(see {name}/README.md\)"):
        load(name, tmp_path, "--dataset", name)
    (tmp_path / "download").mkdir()
    for url in {"dvsgesture": DVS128Gesture, "cifar10dvs": CIFAR10DVS}[name].resource_url_md5():
        (tmp_path / "download" / url[0]).write_bytes(b"half")
    with pytest.raises(UserError, match=rf"{archive} has MD5 \w+ instead of \w+"):
        load(name, tmp_path, "--dataset", name)
    with pytest.raises(UsageError, match=f"--dataset {name} needs --data-path"):
        load_without_path(name)


def load_without_path(name):
    from events import PARSERS
    from full_spike.cifar10dvs.data import CIFAR10DVS as CIFAR
    from full_spike.dvsgesture.data import GESTURE

    config = PARSERS[name].parse(["--dataset", name])
    {"dvsgesture": GESTURE, "cifar10dvs": CIFAR}[name].load(config.data, World(), config.network.T)


# Recordings that are not as they should be: before anything was converted, and one clear line


def nothing_left_half(root):
    kept = [p.relative_to(root / "full-spike").as_posix() for p in (root / "full-spike").rglob("*")]
    return kept == [".lock"]


@pytest.fixture
def gesture(made, tmp_path):
    root = tmp_path / "gesture"
    shutil.copytree(made["dvsgesture"] / "extract", root / "extract")
    return root


def damaged(root, name="user03_led.aedat", edit=None):
    path = root / "extract" / "DvsGesture" / name
    if edit is None:
        path.unlink()
    else:
        path.write_bytes(edit(path.read_bytes()))
    return root


def rows(edit):
    """Edits the first row of a table."""

    def apply(content):
        header, row, *rest = content.decode().splitlines()
        return "\n".join([header, ",".join(map(str, edit(*map(int, row.split(","))))), *rest]).encode()

    return apply


def another_sensor(content):
    content = bytearray(content)
    start = content.index(b"#!END-HEADER\r\n") + 14 + 28
    content[start : start + 4] = (300 << 17 | 200 << 2).to_bytes(4, "little")
    return bytes(content)


LABELS = "user03_led_labels.csv"


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("trials_to_test.txt", None, r"there is no .*trials_to_test.txt: .* is incomplete; delete it"),
        ("user03_led.aedat", None, r"user03_led.aedat is missing: .* is incomplete; delete it"),
        ("trials_to_train.txt", lambda b: b"../" + b, "names ../user01_led.aedat, which is not a file beside it"),
        (LABELS, None, r"user03_led_labels.csv is missing"),
        (
            "user03_led.aedat",
            lambda b: b[:-100],
            r"user03_led.aedat is cut off or damaged: the packet at byte \d+ says",
        ),
        ("user03_led.aedat", lambda b: b"?" + b, "is no AEDAT 3.1 file"),
        ("user03_led.aedat", another_sensor, "an event at x=300, y=200, outside the 128x128 sensor of the DVS128"),
        (LABELS, rows(lambda c, a, b: (c, a + 10**8, b + 10**8)), r"row 2: .* is past the end of user03_led.aedat at"),
        (LABELS, rows(lambda c, a, b: (c, a, b + 10**7)), r"row 2: .* is past the end of user03_led.aedat at"),
        (LABELS, rows(lambda c, a, b: (c, 1, 2)), "row 2: no event between 1 and 2 us"),
        (LABELS, rows(lambda c, a, b: (11, a, b)), r"row 2: class 11 is outside 1..10: is --dataset right\?"),
        (LABELS, rows(lambda c, a, b: (c, a)), "row 2: .* is not three whole numbers"),
        (LABELS, lambda b: b[10:], "does not begin with class,startTime_usec,endTime_usec"),
    ],
)
def test_gestures_that_are_not_as_they_should_be(gesture, name, edit, message):
    damaged(gesture, name, edit)
    with pytest.raises(UserError, match=message):
        load("dvsgesture", gesture, *SMALL)
    assert nothing_left_half(gesture)


def test_an_empty_recording_of_gestures(gesture):
    write_aedat3(gesture / "extract/DvsGesture/user03_led.aedat", noise(0))
    with pytest.raises(UserError, match=r"past the end of user03_led.aedat at 0 us"):
        load("dvsgesture", gesture, *SMALL)
    assert nothing_left_half(gesture)


def test_a_class_of_cifar10dvs_that_is_missing_or_cut_off(made, tmp_path):
    root = tmp_path / "c"
    shutil.copytree(made["cifar10dvs"] / "extract", root / "extract")
    path = next((root / "extract" / "3").iterdir())
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=rf"{path.name} is cut off: \d+ bytes of events are no multiple of 8"):
        load("cifar10dvs", root, *SMALL)
    assert nothing_left_half(root)
    shutil.rmtree(root / "extract" / "3")
    with pytest.raises(UserError, match=r"extract/3 holds 0 recordings \(\*.aedat\): .* is incomplete"):
        load("cifar10dvs", root, *SMALL)
    with pytest.raises(UserError, match=r"airplane holds 0 recordings \(\*.aedat\) instead of 1000"):
        load("cifar10dvs", root, *SMALL, "--dataset", "cifar10dvs")
    assert nothing_left_half(root)


def test_more_frames_than_events(copies):
    root = copies["dvsgesture"]
    with pytest.raises(UserError, match=r"\.npz: \d+ events do not fill T=100000 frames: use a smaller --T"):
        load("dvsgesture", root, "--T", 100_000)
    assert sorted(p.name for p in (root / "full-spike").iterdir()) == [".lock", "events", "frames_T4_32x32"]


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


# What was made and is not as it was


def damage_other_t(kept):
    (kept / "frames_T4_32x32").rename(kept / "frames_T8_32x32")


def damage_events(kept):
    (kept / "frames_T4_32x32").rename(kept / "frames_T8_32x32")
    shutil.rmtree(kept / "frames_T8_32x32")
    path = next((kept / "events").rglob("*.npz"))
    path.write_bytes(path.read_bytes()[:-1])


def damage_missing(kept):
    next((kept / "frames_T4_32x32").rglob("*.npz")).unlink()


def damage_no_record(kept):
    (kept / "frames_T4_32x32" / "record.json").unlink()


def damage_record(kept):
    path = kept / "frames_T4_32x32" / "record.json"
    path.write_text(path.read_text().replace('"T": 4', '"T": 8'))


def damage_version(kept):
    from full_spike.utils.data.prepared import write_json

    path = kept / "frames_T4_32x32" / "record.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    write_json(path, {**content, "version": 99})


def damage_source(kept):
    path = kept.parent / "extract/DvsGesture/user01_led_labels.csv"
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("damage", "T", "message"),
    [
        (damage_other_t, 8, "frames_T8_32x32 was made with T 4 instead of 8: delete it; it is made again"),
        (damage_events, 8, r"\.npz has \d+ bytes instead of \d+: delete .*events; it is made again"),
        (damage_missing, 4, r"\.npz is missing: delete .*frames_T4_32x32; it is made again"),
        (damage_no_record, 4, "record.json is missing or damaged: delete .*frames_T4_32x32; it is"),
        (damage_record, 4, r"record.json was changed \(its checksum is wrong\)"),
        (damage_version, 4, "has format version 99, this program uses 1"),
        (damage_source, 4, "was made from other recordings: delete it; it is made again"),
    ],
)
def test_what_was_made_is_checked(copies, damage, T, message):
    root = copies["dvsgesture"]
    damage(root / "full-spike")
    before = tree(root)
    with pytest.raises(UserError, match=message):
        load("dvsgesture", root, "--T", T, "--frame-size", 32)
    assert tree(root) == before


def test_a_damaged_sample_is_named_when_it_is_read(copies):
    data = load("dvsgesture", copies["dvsgesture"], *SMALL)
    path = data.test.folder / data.test.samples[0][0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name} is damaged \(.*\): delete .*frames_T4_32x32; it is made again"):
        data.test[0]


def test_pickles_are_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", frames=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="Object arrays cannot be loaded"):
        read_npz(tmp_path, "a.npz", "frames")


def test_the_division_is_checked(copies):
    root = copies["cifar10dvs"]
    path = root / "full-spike" / "split.json"
    stored = json.loads(path.read_text())
    assert len(stored["train"]) + len(stored["test"]) == 120
    path.write_text(path.read_text().replace(stored["test"][0], stored["train"][0]))
    with pytest.raises(UserError, match=r"split.json was changed \(its checksum is wrong\)"):
        load("cifar10dvs", root, *SMALL)
    from full_spike.utils.data.prepared import write_json

    write_json(
        path, {"rule": stored["rule"], "train": stored["train"] + stored["test"][:1], "test": stored["test"][1:]}
    )
    with pytest.raises(UserError, match=r"does not divide the samples .* by its rule: delete it"):
        load("cifar10dvs", root, *SMALL)
    path.unlink()
    load("cifar10dvs", root, *SMALL)
    assert json.loads(path.read_text()) == stored


def test_a_folder_that_can_only_be_read(made, monkeypatch):
    """A data set that is shared: what is complete is used without writing anything."""
    import builtins

    real = builtins.open

    def refuse(path, mode="r", *args, **kwargs):
        if "w" in mode:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refuse)
    data = load("dvsgesture", made["dvsgesture"], *SMALL)
    assert torch.is_tensor(data.test[0][0])


def test_recordings_of_digits_use_the_whole_range_of_the_format(made):
    events = read_aedat3(made["dvsgesture"] / "extract/DvsGesture/user01_led.aedat")
    assert (np.diff(events["t"]) >= 0).all()
    assert events["x"].min() > 20
    assert events["x"].max() < 108

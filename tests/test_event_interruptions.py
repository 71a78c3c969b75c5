"""Preparations killed by SIGKILL at any moment leave nothing that a later one takes for complete."""

import os
import random
import tarfile
import time

import processes
import pytest
from events import gestures, load, tree

OPTIONS = ("--T", 4, "--frame-size", 32)
PARTS = ("extract", "full-spike/events", "full-spike/frames_T4_32x32")


def prepare(root):
    load("dvsgesture", root, *OPTIONS)
    return 0


def start(root, log):
    """A preparation, in a process of its own."""
    return processes.start(prepare, root, log=log)


def finish(root, log):
    process = start(root, log)
    process.join(120)
    assert process.exitcode == 0, log.read_text()
    return tree(root)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """(an archive, every file of a preparation from it that nothing disturbed, how long it takes)."""
    root = tmp_path_factory.mktemp("quiet")
    made = gestures(root / "made", count=48)
    archive = root / "DvsGesture.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        file.add(made / "extract" / "DvsGesture", "DvsGesture")
    finish(begin(root / "first", archive), root / "log")  # also starts the server
    began = time.monotonic()
    files = finish(begin(root / "second", archive), root / "log")
    assert {path.split("/")[0] for path in files} == {"download", "extract", "full-spike"}
    return archive, files, time.monotonic() - began


def begin(root, archive):
    (root / "download").mkdir(parents=True)
    os.link(archive, root / "download" / "DvsGesture.tar.gz")
    return root


def assert_whole_or_absent(root, files):
    """Whatever carries a final name is complete."""
    found = tree(root)
    for part in PARTS:
        if (root / part).exists():
            expected = {path: content for path, content in files.items() if path.startswith(f"{part}/")}
            assert {path: found[path] for path in found if path.startswith(f"{part}/")} == expected


def test_killed_at_random_moments(quiet, tmp_path):
    archive, files, seconds = quiet
    chance = random.Random(1)
    left = set()
    for attempt in range(12):
        root = begin(tmp_path / str(attempt), archive)
        for _ in range(2):
            process = start(root, tmp_path / "log")
            process.join(chance.uniform(0, seconds))
            process.kill()
            process.join()
            assert_whole_or_absent(root, files)
            left |= {path.name for path in root.rglob("*.partial")}
        assert finish(root, tmp_path / "log") == files
    assert left


@pytest.mark.parametrize("part", PARTS)
def test_killed_in_the_middle_of_each_step(quiet, tmp_path, part):
    archive, files, _ = quiet
    root = begin(tmp_path / "root", archive)
    partial = root / f"{part}.partial"
    process = start(root, tmp_path / "log")
    while process.is_alive() and not (partial.exists() and any(p.is_file() for p in partial.rglob("*"))):
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -9
    assert partial.exists()
    assert not (root / part).exists()
    assert_whole_or_absent(root, files)
    assert finish(root, tmp_path / "log") == files


def test_digits_that_were_killed_while_they_were_made_are_made_again(tmp_path):
    """Without an archive the originals are made, all of them: killed in the middle, they are not there."""
    root = tmp_path / "root"
    process = start(root, tmp_path / "log")
    while process.is_alive() and not list(root.glob("extract.partial/DvsGesture/*.aedat")):
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -9
    assert not (root / "extract").exists()
    assert list(root.glob("extract.partial/DvsGesture/*.aedat"))


def test_two_at_once_make_it_once(quiet, tmp_path):
    archive, files, _ = quiet
    root = begin(tmp_path / "root", archive)
    processes = [start(root, tmp_path / f"log{i}") for i in range(2)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    logs = "".join((tmp_path / f"log{i}").read_text() for i in range(2))
    assert logs.count("converted to") == 2  # events and frames
    assert tree(root) == files

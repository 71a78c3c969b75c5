"""Preparations killed by SIGKILL at any moment leave nothing that a later one takes for complete."""

import os
import random
import signal
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

import pytest

from full_spike.utils.data.events.simulated import write_as_gestures
from support import processes
from support.events import gestures, load, tree

OPTIONS = ("--T", 4, "--frame-size", 32)
PARTS = ("extract", "full-spike/events", "full-spike/frames_T4_32x32")


def prepare(root, kill_at=None):
    """A preparation; it kills itself when it opens the second file below the folder `kill_at`."""
    opened = set()

    def watch(event, args):
        if event == "open" and Path(str(args[0])).is_relative_to(kill_at):
            opened.add(args[0])
            if len(opened) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    if kill_at is not None:
        sys.addaudithook(watch)
    dvsgesture.data.write_as_gestures = partial(write_as_gestures, count=24)  # of 1437, where there is no archive
    load("dvsgesture", root, *OPTIONS)
    return 0


def start(root, log, **options):
    """A preparation, in a process of its own."""
    return processes.start(partial(prepare, root, **options), log=log)


def assert_killed(root, log, kill_at):
    """A preparation is killed in the middle of making that folder."""
    process = start(root, log, kill_at=kill_at)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert [path for path in kill_at.rglob("*") if path.is_file()]


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
    assert_killed(root, tmp_path / "log", root / f"{part}.partial")
    assert not (root / part).exists()
    assert_whole_or_absent(root, files)
    assert finish(root, tmp_path / "log") == files


def test_digits_that_were_killed_while_they_were_made_are_made_again(tmp_path):
    """Without an archive the originals are made, all of them: killed in the middle, they are not there."""
    expected = finish(tmp_path / "quiet", tmp_path / "log")
    root = tmp_path / "root"
    assert_killed(root, tmp_path / "log", root / "extract.partial")
    assert not (root / "extract").exists()
    assert finish(root, tmp_path / "log") == expected
    assert sum(path.startswith("extract/") and path.endswith(".aedat") for path in expected) > 2


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

"""Files are written whole or not at all, and what a run records is read although lines of it are damaged."""

import contextlib
import json
import multiprocessing
import subprocess
import sys
import time

import pytest

from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError
from full_spike.utils.files import read_text, replacing, write_file
from full_spike.utils.log import RunLog, read_metrics
from support.command import ROOT
from support.refusals import command


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_there_stays_until_the_new_file_is_whole(tmp_path):
    path, older = tmp_path / "file", tmp_path / "older"
    write_file(path, b"1")
    with replacing(path, durable=True, keep=older) as partial:
        partial.write_bytes(b"2")
        assert contents(tmp_path) == {"file": b"1", "file.partial": b"2"}
    assert contents(tmp_path) == {"file": b"2", "older": b"1"}
    for options in ({}, {"durable": True, "keep": older}):
        with contextlib.suppress(KeyError), replacing(path, **options) as partial:
            partial.write_bytes(b"3")
            raise KeyError
        assert contents(tmp_path) == {"file": b"2", "older": b"1"}


def write_forever(target):
    with replacing(target) as partial:
        partial.mkdir()
        (partial / "file").write_bytes(b"half")
        time.sleep(600)


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=write_forever, args=(tmp_path / "folder",))
    process.start()
    while not (tmp_path / "folder.partial" / "file").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert [path.name for path in tmp_path.iterdir()] == ["folder.partial"]
    with replacing(tmp_path / "folder") as partial:
        partial.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert list((tmp_path / "folder").iterdir()) == []


def test_of_two_writers_the_last_one_to_finish_counts(tmp_path):
    with replacing(tmp_path / "file", contended=True) as ours:
        ours.write_bytes(b"ours")
        code = "from full_spike.utils.files import *; from pathlib import Path; import sys\n"
        code += "with replacing(Path(sys.argv[1]), contended=True) as p: p.write_bytes(b'theirs')"
        subprocess.run([sys.executable, "-c", code, tmp_path / "file"], cwd=ROOT, check=True)
        assert (tmp_path / "file").read_bytes() == b"theirs"
    assert contents(tmp_path) == {"file": b"ours"}


def test_a_link_in_an_output_folder_is_replaced_and_not_followed(tmp_path):
    """By pictures, by metrics and by what --tb says of a run."""
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    (tmp_path / "run_logs").mkdir()
    run.mkdir()
    elsewhere.write_bytes(LINE)
    for path in (run / "metrics.jsonl", run / "learning_curves.png", tmp_path / "run_logs/args.txt"):
        path.symlink_to(elsewhere)
    log = RunLog(World(), run)
    log.forget_from(1)
    log.record(json.loads(LINE))
    log.open_tensorboard(0, "options")
    log.close()
    assert command("utils.plots", run).status == 0
    assert elsewhere.read_bytes() == LINE
    assert len(read_metrics(run)) == 2
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(tmp_path / "new")
    log.forget_from(0)
    log.record(json.loads(LINE))
    assert not (tmp_path / "new").exists()


def test_a_text_is_in_utf_8(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffnaïve".encode())
    assert read_text(path) == "naïve"
    path.write_bytes("naïve".encode("latin-1"))
    with pytest.raises(UserError, match=r"text is no text in UTF-8 \(byte 2\): save it as UTF-8"):
        read_text(path)


LINE = b'{"epoch": 0, "train_loss": 1.0, "train": {"fsnn": {"acc1": 1}}, "test": {"fsnn": {"acc1": 1, "loss": 1}}}\n'


def test_damaged_lines_of_metrics_are_left_out_and_told(tmp_path):
    """By a picture of a run, and by a run that goes on. A last line that was cut off is no damage."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'5\n{}\n\xff\xfe\n{"epoch": "x"}\n{\n[1]\n' + LINE + LINE[:20])
    done = command("utils.plots", tmp_path)
    assert done.status == 0, done.err
    assert done.err == f"warning: {path} is damaged: line 1, 2, 3, 4, 5 and more left out\n"
    assert (tmp_path / "learning_curves.png").exists()
    RunLog(World(), tmp_path).forget_from(1)
    assert path.read_bytes() == LINE
    path.write_bytes(LINE + LINE[:20])
    told = []
    assert [entry["epoch"] for entry in read_metrics(tmp_path, told.append)] == [0]
    assert told == []
    RunLog(World(), tmp_path).forget_from(0)
    assert path.read_bytes() == b""

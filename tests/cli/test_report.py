"""The page about runs: what is on it, and that nothing on it comes from elsewhere."""

import base64
import json
import re
import shutil
from html import unescape

import pytest
import yaml

from full_spike.utils.report import Run, differing, short_titles
from support.command import TINY, succeed
from support.refusals import command


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two runs on digits; operations are counted of the first one."""
    out = tmp_path_factory.mktemp("runs")
    options = (*TINY, "-b", 64, "--output-dir", out)
    succeed("cifar.train", *options, "--epochs", 2, "--tb", "--connect_f", "OR", "--name", "one")
    succeed("cifar.train", *options, "--epochs", 1, "--lr", 0.05, "--model", "fsnn18", "--name", "two")
    succeed("cifar.train", *options, "--name", "one", "--test-only", "--resume", "auto", "--synops", "--no-syops")
    return out


@pytest.fixture(scope="module")
def pages(runs):
    """(page of one run, page of both)."""
    found = []
    for folders in (["one"], ["one", "two"]):
        path = runs / f"{len(folders)}.html"
        done = command("utils.report", *(runs / folder for folder in folders), "--output", path)
        assert done.status == 0, done.err
        assert done.out == f"wrote {path}\n"
        found.append(path.read_text())
    return found


def cells(page):
    """The text of every row of the page's tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [
        [unescape(re.sub("<[^>]+>", "", cell)) for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row)] for row in rows
    ]


def pictures(page):
    return [base64.b64decode(found) for found in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)]


def test_the_page_says_what_the_run_recorded(runs, pages):
    rows = cells(pages[0])
    config = yaml.safe_load((runs / "one" / "config.yaml").read_text())
    assert ["network", "dsnn18 OR, T = 2"] in rows
    assert ["torch", config["versions"]["torch"]] in rows
    assert f"python -m {config['versions']['script']} --config {runs}/one/config.yaml</pre>" in pages[0]
    first, last = (json.loads(line) for line in (runs / "one" / "metrics.jsonl").read_text().splitlines())
    for title, name in (("FSNN (pathway detached)", "fsnn"), ("pathway alone", "aap"), ("DSNN (sum of both)", "sum")):
        scores, best = last["test"][name], max(first["test"][name]["acc1"], last["test"][name]["acc1"])
        (row,) = (row for row in rows if row and row[0] == title)
        numbers = [scores["acc1"], scores["acc5"], scores["loss"], last["train"][name]["acc1"], best]
        assert [float(cell) for cell in row[1:6]] == pytest.approx(numbers, abs=0.005)
    names = [row[0] for row in rows if row]
    for network in json.loads((runs / "one" / "synops" / "synops.json").read_text())["networks"]:
        assert network["network"] in names
        assert all(layer["name"] in names for layer in network["layers"] if layer["ac"] or layer["mac"])
    assert len(pictures(pages[0])) == 3  # curves, firing rates, energy


def test_several_runs_stand_side_by_side_with_what_differs(runs, pages):
    rows = cells(pages[1])
    assert ["option", "one", "two"] in rows
    assert ["lr", "0.1", "0.05"] in rows
    assert ["model", "dsnn18", "fsnn18"] in rows
    assert [row[2] for row in rows if row and row[0] == "FSNN (pathway detached)" and len(row) == 3] == ["-"]
    assert "Not recorded: train with --tb." in pages[1]
    assert len(pictures(pages[1])) == 5
    assert set(differing([Run(runs / name) for name in ("one", "two")])) >= {"lr", "model", "epochs", "tb"}
    assert short_titles(["a_dsnn18_b32", "a_fsnn18_b32"]) == ["dsnn18", "fsnn18"]
    assert short_titles(["a_b", "a_b_c"]) == ["a_b", "a_b_c"]  # the first would have none


def test_a_page_is_one_file_with_nothing_from_elsewhere(pages):
    for page in pages:
        assert "<script" not in page
        assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", page)
        assert all(picture.lstrip().startswith(b"<?xml") for picture in pictures(page))


def test_what_comes_from_files_is_escaped(runs, tmp_path):
    evil = "<img src=x onerror=alert(1)>\"'&"
    folder = tmp_path / "a<b>&$_$"
    shutil.copytree(runs / "one", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config = {**config, "data_path": evil, evil: evil, "versions": {evil: evil, "script": evil}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    entry = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    for part in ("train", "test"):
        entry[part] = {evil: next(iter(entry[part].values()))}
    entry["firing_rate"] = {evil: 0.5}
    (folder / "metrics.jsonl").write_text(json.dumps(entry) + "\n")
    done = command("utils.report", folder, runs / "two", "--output", tmp_path / "page.html")
    assert done.status == 0, done.err
    text = (tmp_path / "page.html").read_text()
    assert "<img src=x" not in text
    assert "a<b>" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;&#34;" in text


def test_a_run_without_an_epoch_has_a_page(runs, tmp_path):
    shutil.copy(runs / "two" / "config.yaml", tmp_path)
    assert command("utils.report", tmp_path).status == 0
    assert "No epoch has been recorded." in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no "),
        (b"\xff", "is no text in UTF-8"),
        (b"[1]", "holds no options"),
        (b"a: [", "is no YAML"),
    ],
)
def test_no_run_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(content)
    done = command("utils.report", tmp_path)
    assert done.status == 1
    (line,) = done.err.splitlines()
    assert message in line
    assert not (tmp_path / "report.html").exists()

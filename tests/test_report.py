"""The page about runs: what is on it, that nothing on it comes from elsewhere, and how a browser shows it."""

import base64
import html
import io
import json
import re
import shutil
import subprocess

import pytest
import torch
import yaml
from full_spike.cifar.data import Digits
from full_spike.cifar.options import ImageOptions
from full_spike.utils import checkpoint
from full_spike.utils.cli.inspection import picture
from full_spike.utils.draw.charts import Curve, line_chart, ticks
from full_spike.utils.draw.page import RunView, differing, render, short_titles
from full_spike.utils.report import guess_script
from PIL import Image
from support.command import TINY, succeed
from support.events import gestures
from support.refusals import command

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two runs on digits, of which the first has counted operations, and of one on events."""
    out = tmp_path_factory.mktemp("runs")
    options = (*TINY, "-b", 64, "--output-dir", out)
    succeed("cifar.train", *options, "--epochs", 2, "--tb", "--name", "one")
    succeed("cifar.train", *options, "--epochs", 1, "--lr", 0.05, "--name", "two")
    succeed("cifar.train", *options, "--name", "one", "--test-only", "--resume", "auto", "--synops", "--no-syops")
    data = gestures(out / "events", count=20)
    common = ("--data-path", data, "--frame-size", 16, "--T", 4, "--width", 4, "-b", 8, "-j", 0, "--device", "cpu")
    succeed("dvsgesture.train", *common, "--epochs", 1, "--output-dir", out, "--name", "gestures")
    return out


@pytest.fixture(scope="module")
def pages(runs):
    """Written pages by what they are of."""
    found = {}
    for name, folders in {"digits": ["one"], "events": ["gestures"], "both": ["one", "two"]}.items():
        path = runs / f"{name}.html"
        done = command("utils.report", *(runs / folder for folder in folders), "--output", path)
        assert done.status == 0, done.err
        assert f"wrote {path}" in done.out
        found[name] = path
    return found


def test_the_page_says_what_the_run_recorded(runs, pages):
    text = pages["digits"].read_text()
    entries = [json.loads(line) for line in (runs / "one" / "metrics.jsonl").read_text().splitlines()]
    config = yaml.safe_load((runs / "one" / "config.yaml").read_text())
    for value in (
        config["versions"]["torch"],
        config["versions"]["machine"],
        "python -m cifar.train",
        "dsnn18 OR, T = 2",
    ):
        assert value in text
    for name, score in entries[-1]["test"].items():
        assert f"{name} {score['acc1']:.2f}" in text
    energy = json.loads((runs / "one" / "synops" / "synops.json").read_text())["networks"]
    assert all(network["network"] in text for network in energy)
    for title in ("Curves", "Classes", "most confident mistakes", "Firing rates", "Operations and energy"):
        assert f"<h2>{title}" in text or title in text
    assert len(re.findall(r"<tr><td>\d</td><td>3\d</td>", text)) == 10  # a row for each class
    layers = entries[-1]["firing_rate"]
    assert all(f"{rate:.3f}" in text for rate in layers.values())


def test_mistakes_are_the_most_confident_ones(runs, pages):
    """Told by a pass of our own over the test set."""
    from full_spike import models

    kept = checkpoint.read(runs / "one" / checkpoint.LATEST)
    network = models.create_model(**kept["config"])
    network.load_state_dict(kept["model"])
    data = Digits(ImageOptions(image_size=8), train=False)
    with torch.no_grad():
        probabilities, said = network.eval()(torch.stack([data[i][0] for i in range(len(data))]))[0].softmax(1).max(1)
    wrong = [(float(p), i) for i, p in enumerate(probabilities) if said[i] != data.classes[i]]
    expected = [f"digit {i}" for _, i in sorted(wrong, reverse=True)[:8]]
    assert re.findall(r'<img alt="([^"]*)"', pages["digits"].read_text()) == expected


def test_pictures_are_those_of_the_data():
    data = Digits(ImageOptions(image_size=8), train=False)
    with Image.open(io.BytesIO(picture(data[0][0], {"mean": [Digits.mean], "std": [Digits.std]}))) as image:
        shown = image.convert("L").resize((8, 8), Image.Resampling.NEAREST)
    expected = (data.images[0, 0] * 255).round()
    assert list(shown.get_flattened_data()) == expected.flatten().int().tolist()


def test_several_runs_show_what_differs(pages):
    text = pages["both"].read_text()
    table = text.partition("What differs")[2].partition("</table>")[0]
    assert re.findall(r"<tr><td>(\w+)</td>", table) == ["epochs", "lr", "cos_lr_T", "name", "tb"]
    assert "<td>0.1</td><td>0.05</td>" in table


@pytest.mark.parametrize("name", ["digits", "events", "both"])
def test_a_page_is_one_small_file_with_nothing_from_elsewhere(pages, name):
    text = pages[name].read_text()
    assert len(text.encode()) < 2_000_000
    assert "<script" not in text
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", text)
    assert not re.search(r"url\((?!#)", text)
    for encoded in re.findall(r"data:image/png;base64,([^\"]+)", text):
        Image.open(io.BytesIO(base64.b64decode(encoded))).verify()


def test_what_comes_from_files_is_escaped(runs, tmp_path):
    evil = "<img src=x onerror=alert(1)>\"'&"
    folder = tmp_path / "a<b>&"
    shutil.copytree(runs / "two", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(
        yaml.safe_dump({**config, "data_path": evil, evil: evil, "versions": {evil: evil}})
    )
    entry = json.loads((folder / "metrics.jsonl").read_text())
    for part in ("train", "test"):
        entry[part] = {evil: next(iter(entry[part].values()))}
    entry["firing_rate"] = {evil: 0.5}
    (folder / "metrics.jsonl").write_text(json.dumps(entry) + "\n")
    done = command("utils.report", folder, runs / "two", "--output", tmp_path / "page.html", "--no-test")
    assert done.status == 0, done.err
    text = (tmp_path / "page.html").read_text()
    assert "<img src=x" not in text
    assert "a<b>" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;&quot;" in text


def test_a_run_whose_data_are_gone_still_has_a_page(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "gestures", folder)
    config = (folder / "config.yaml").read_text().replace("dataset: digits-dvs", "dataset: dvsgesture")
    (folder / "config.yaml").write_text(config)
    done = command("utils.report", folder, "--data-path", tmp_path / "nowhere")
    assert done.status == 0
    assert "is not evaluated" in done.err
    text = (folder / "report.html").read_text()
    assert "not evaluated: " in text
    assert "Curves" in text


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


def test_a_run_before_scripts_were_recorded_is_told_by_its_options():
    for options, script in (
        ({"image_size": 32}, "cifar.train"),
        ({"train_crop_size": 224}, "imagenet.train"),
        ({"frame_size": 128, "model": "dsnn_7b"}, "dvsgesture.train"),
        ({"frame_size": 128, "model": "sew_wide7b"}, "cifar10dvs.train"),
        ({"versions": {"script": "os.system"}}, None),
    ):
        assert guess_script(options) == script


def test_ticks_are_round_and_inside():
    for low, high in ((0.0, 1.0), (12.3, 99.7), (-0.002, 0.0013), (3.0, 3.0)):
        found = ticks(low, high)
        assert all(low <= tick <= high for tick in found)
        assert 1 <= len(found) <= 8
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_curves_leave_out_what_has_no_place():
    chart = line_chart([Curve("loss", [1, 2, 3, 4], [1.0, float("nan"), 0.0, 10.0])], "epoch", "loss", log=True)
    (path,) = re.findall(r'<path d="M([^"]*)"', chart)
    assert path.count("L") == 1
    assert "nothing to draw" in line_chart([Curve("loss", [1], [float("inf")])], "epoch", "loss")


def test_one_epoch_and_no_epoch_make_pages():
    views = [RunView("a", [], {"recipe": {"lr": 1}}, []), RunView("b", [], {"recipe": {"lr": 2}}, [])]
    assert differing(views) == [("lr", ["1", "2"])]
    assert "<h1>2 runs" in render(views)


# How a browser shows it. The page has no script; a copy is given one that measures it, and is shown in a frame, since
# windows cannot be as narrow as phones.
PROBE = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
  window: innerWidth, page: document.documentElement.scrollWidth, pictures: document.images.length,
  loaded: [...document.images].filter(i => i.complete && i.naturalWidth > 0).length,
  wide: [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1
    && !e.closest(".wide")).map(e => e.outerHTML.slice(0, 80))}), "*"))</script>"""
FRAME = """<!doctype html><body>
<script>addEventListener("message", e => document.body.innerText = "found" + e.data + "end")</script>
<iframe src="page.html" width="%d" height="900" style="border:0"></iframe></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("name", ["digits", "events", "both"])
@pytest.mark.parametrize("width", [400, 1300])
def test_in_a_browser_everything_fits_and_loads(pages, tmp_path, name, width):
    (tmp_path / "page.html").write_text(pages[name].read_text().replace("</body>", f"{PROBE}</body>"))
    (tmp_path / "frame.html").write_text(FRAME % width)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1400,1000"]
    options += ["--dump-dom", f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path}/frame.html"]
    done = subprocess.run([CHROMIUM, *options], capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(html.unescape(re.search("found(.*)end", done.stdout)[1]))
    assert "CONSOLE" not in done.stderr
    assert found["window"] == width
    assert found["page"] <= width
    assert found["wide"] == []
    assert found["loaded"] == found["pictures"] > 0


def test_runs_are_told_apart_by_the_words_that_differ():
    assert short_titles(["a_dsnn18_b32", "a_fsnn18_b32"]) == ["dsnn18", "fsnn18"]
    assert short_titles(["a_b", "a_b_c"]) == ["a_b", "a_b_c"]  # the first would have none
    assert short_titles(["one", "two"]) == ["one", "two"]

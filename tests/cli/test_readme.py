"""The commands and the Python of the documents run, scaled down, and print what the documents show."""

import json
import re
import shlex
import shutil
import subprocess

import pytest
import spikingjelly.datasets
import torch

from full_spike.models import create_model, find_pretrained, to_published
from full_spike.utils.data.events import EventDataset
from support.command import ROOT
from support.images import image_tree, imagenet_tree
from support.refusals import command

QUICK = ("README.md", "docs/METHOD.md", "docs/TRAINING.md", "docs/DATA.md")
MORE = ("docs/DEPLOY.md", *(f"{x}/README.md" for x in ("cifar", "imagenet", "dvsgesture", "cifar10dvs", "weights")))
COMMANDS = re.compile(r"(python|torchrun|full-spike|(\./)?scripts/\S+|NNODES=\S+)( |$)")
OUTPUT = re.compile(r"epoch \d|done|fsnn|aap |sum |dsnn|wrote|without|\d+ (training|samples|images)|layer\d|logits ")
TRAINING = "--epochs 1 -j 0 --device cpu --print-freq 1 --no-fused"
EVENTS = f"{TRAINING} --T 4 --T-train 2 --frame-size 16 --width 2 -b 64"
SMALLER = {
    "cifar.train": f"{TRAINING} --epochs 2 --image-size 8 --width 2 --T 2 -b 512",
    "imagenet.train": f"{TRAINING} --train-crop-size 16 --val-resize-size 18 --val-crop-size 16 --width 2 --T 2 -b 8",
    "utils.synops": "--images 4 --no-syops",
    "utils.fullspike": "--images 4",
    "utils.export": "--images 8",
    **dict.fromkeys(("dvsgesture.train", "cifar10dvs.train"), EVENTS),
}
SPIKFORMER = "--width 16 --heads 2 --depth 1 --warmup-epochs 0 --cooldown-epochs 0"
FETCHED = re.compile(r"--dataset (cifar10|cifar10dvs|dvsgesture) |spikformer_4_384\.yaml")  # data that is not there
PYTHON = '#!/bin/bash\nprintf "%q " "$@" >>"$STARTED"; echo >>"$STARTED"\n'  # for scripts: notes its arguments


def code_lines(page):
    """The lines of a page's indented blocks and fenced shell blocks, continued lines joined."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    fenced = re.findall(r"(?ms)^```(?:sh|bash)\n(.*?)^```", text)
    indented = re.findall(r"(?m)^ {4}(.*)$", re.sub(r"(?ms)^```.*?^```", "", text))
    return [line for block in fenced for line in block.splitlines()] + indented


def commands(page):
    """The commands on a page in their order, without comments."""
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in code_lines(page)]
    return [line for line in lines if COMMANDS.match(line)]


def pattern(line):
    """Matches lines like this one, with other numbers and paths."""
    words = [r"\S+" if re.search(r"[\d…/]", word) else re.escape(word) for word in line.split()]
    return r"\s*" + r"\s+".join(words) + r"(\s+left \S+)?"


class Reader:
    """Runs what a page shows in a folder that has all that it names."""

    def __init__(self, home):
        self.home = home
        self.printed = []

    def find(self, word):
        """The files that a word stands for, the newest first: `…` is any text; ImageNet and ~ are in this folder."""
        word = re.sub(r"^/(datasets|shared)/imagenet(-shards)?$", rf"{self.home}/imagenet\2", word)
        word = re.sub(r"^~(?=/)", str(self.home), word)
        if word.endswith(".yaml") and (ROOT / word).exists():
            return [str(ROOT / word)]
        if "…" not in word:
            return [word]
        found = self.home.glob(f"{word}/config.yaml".replace("…", "*") if word[-1] == "…" else word.replace("…", "*"))
        found = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
        return [str(path.parent if word[-1] == "…" else path) for path in found]

    def run(self, module, words):
        """`python -m module words`, made smaller."""
        if "..." in words:
            words[words.index("...") : words.index("...") + 1] = ["--data-path", "/datasets/imagenet"]
        found = [self.find(word) for word in words]
        words = [paths[min(words[:i].count(words[i]), len(paths) - 1)] for i, paths in enumerate(found)]
        line = " ".join([module, *words, ""])
        subject = f"{words[1]}.train" if words[:1] in (["train"], ["test"]) else module
        shipped = "cifar10" in words and words[words.index("cifar10") - 1] != "--dataset"  # weights of their own size
        words += (TRAINING if shipped else SMALLER.get(subject, "")).split()
        words += SPIKFORMER.split() if re.search(r"spikformer\S*\.yaml", line) else []
        words += ["--overwrite"] if subject.endswith(".train") and "--resume" not in words else []
        done = command(f"full_spike.{module}", *words)
        self.printed += done.out.splitlines()
        missing = FETCHED.search(line) and re.search("does not hold|cannot download|fetch it from", done.err)
        assert done.status == 0 or missing, f"{line}\n{done.out}{done.err}"

    def script(self, words):
        """What a script starts."""
        started = self.home / "started"
        started.unlink(missing_ok=True)
        environment = {"PATH": f"{self.home}/bin:/usr/bin:/bin", "VENV": str(self.home), "STARTED": str(started)}
        while "=" in words[0]:
            name, _, environment[name] = words.pop(0).partition("=")
        words = ["bash", ROOT / words[0], *(self.find(word)[0] for word in words[1:])]
        subprocess.run(words, env=environment, check=True, timeout=60)
        for line in started.read_text().splitlines():
            self.type(f"python {line}")

    def type(self, line):
        line = line.replace(" train.py ", " -m imagenet.train ")
        line = re.sub(r"^(torchrun|python -m torch\.distributed\.\w+) .*(?=-m )", "python ", line)
        name, *words = shlex.split(line)
        if name == "full-spike":
            self.run("utils.commands", words or ["--help"])
        elif name == "python":
            module, words = words[1].removeprefix("full_spike."), words[2:]
            drawn = (
                words and module in ("utils.plots", "utils.report") and words[0].startswith("runs/quickstart/digits")
            )
            if drawn or words[:1] == ["."]:  # in the quick start, whose Python trained nothing: an older run, or none
                words[0] = "runs/quickstart/…"
            self.run(module, words)
        else:
            self.script([name, *words])


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing is fetched
    image_tree(tmp_path / "images", count=4)
    shipped = json.loads((find_pretrained("cifar10/fsnn18") / "config.json").read_text())
    image_tree(tmp_path / "data/cifar10", shipped["classes"], count=1)
    (tmp_path / "pictures").mkdir()
    for picture in ("cat.jpg", "pictures/dog.jpg"):
        shutil.copy(tmp_path / "images/train/cat/0.jpg", tmp_path / picture)
    imagenet_tree(tmp_path / "imagenet", count=4)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(PYTHON)
    (tmp_path / "bin/python").chmod(0o755)
    stamp = 'echo "$(cat setup.py requirements.txt | cksum) $PWD"'  # of setup_env.sh: all is installed
    (tmp_path / ".installed").write_bytes(subprocess.check_output(["bash", "-c", stamp], cwd=ROOT))
    found = Reader(tmp_path)
    for more in ([], ["--test-only", "--resume", "auto", "--detach"]):
        found.run("imagenet.train", ["--data-path", "/datasets/imagenet", "--output-dir", "logs", *more])
    shutil.copy(next(tmp_path.glob("logs/*/checkpoint_latest.pth")), "checkpoint.pth")
    shutil.copy(next(tmp_path.glob("logs/*/fsnn.pth")), "fsnn.pth")
    torch.save({"model": to_published(create_model("dsnn18"))}, "published.pth")
    return found


@pytest.mark.parametrize("page", [*QUICK, *(pytest.param(page, marks=pytest.mark.slow) for page in MORE)])
def test_what_a_page_shows_runs(reader, page):
    for line in commands(page):
        reader.type(line)
    shown = [line for line in code_lines(page) if OUTPUT.match(line)]
    assert [line for line in shown if not any(re.fullmatch(pattern(line), said) for said in reader.printed)] == []
    code = "\n".join(re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / page).read_text()))
    exec(code, {"EventDataset": EventDataset, "spikingjelly": spikingjelly})

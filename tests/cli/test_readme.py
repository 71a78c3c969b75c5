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
from support.events import classes, gestures
from support.images import image_tree, imagenet_tree
from support.refusals import command

QUICK = ("README.md", "docs/METHOD.md", "docs/TRAINING.md", "docs/DATA.md")
MORE = (
    *("docs/DEPLOY.md", "cifar/README.md", "imagenet/README.md", "dvsgesture/README.md", "cifar10dvs/README.md"),
    "weights/README.md",
)
COMMANDS = re.compile(r"(python|torchrun|sbatch|pip|full-spike|(\./)?scripts/\S+|NNODES=\S+)( |$)")
OUTPUT = re.compile(
    r"epoch \d|done in|readout |fsnn |aap |sum |dsnn|fsnn\d|wrote |without the|\d+ (training|samples|images)|layer\d|"
    r"logits differ|accuracy "
)
TRAINING = "--epochs 1 -j 0 --device cpu --print-freq 1 --no-fused --overwrite"
EVENTS = f"{TRAINING} --T 4 --T-train 2 --frame-size 16 --width 2 -b 16"
SMALLER = {
    "cifar.train": f"{TRAINING} --epochs 2 --image-size 8 --width 2 --T 2 -b 512",
    "imagenet.train": f"{TRAINING} --train-crop-size 16 --val-resize-size 18 --val-crop-size 16 --width 2 --T 2 -b 8",
    "dvsgesture.train": EVENTS,
    "cifar10dvs.train": EVENTS,
    "utils.synops": "--images 4 --no-syops",
    "utils.fullspike": "--images 4",
    "utils.export": "--images 8",
}
SPIKFORMER = "--width 16 --heads 2 --depth 1 --warmup-epochs 0 --cooldown-epochs 0"
# data sets that have to be fetched: the command says so
REFUSED = {
    r"--dataset cifar10 |spikformer_4_384\.yaml": "does not hold cifar10|cannot download",
    r"--dataset (cifar10dvs|dvsgesture) ": "there is no .*: fetch it from",
}
# in place of python and srun in scripts: python notes its arguments
PYTHON = 'line=; for word in "$@"; do line="$line $(printf %q "$word")"; done; echo "$line" >>"$STARTED"\n'
SRUN = 'while [ "${1#--}" != "$1" ]; do shift; done; shift; exec "$PYTHON" "$@"\n'


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
    """Matches lines like this one, with other numbers and paths and any amount of space."""
    places = r"(\d[\d.,:]*(?:e-\d+)?|…|(?<=wrote )\S+|(?<=saved as )\S+|(?<=from )\S+|(?<=, in )\S+|(?<=to )\S+/\S+)"
    parts = re.split(places, line)
    parts[1::2] = [r"[\d.,:e+-]+" if part[0].isdigit() else ".*" for part in parts[1::2]]
    parts[::2] = [re.sub(r"(\\ )+", r"\\s+", re.escape(part)) for part in parts[::2]]
    return "".join(parts) + r"(\s+left [\d:]+)?"


class Reader:
    """Runs what a page shows in a folder that has all that it names."""

    def __init__(self, home):
        self.home = home
        self.printed = []

    def find(self, word):
        """The files that a word stands for, the newest first: `…` is any text, ImageNet and ~ are in this folder."""
        word = re.sub(r"^/(datasets|shared)/imagenet$", str(self.home / "imagenet"), word)
        word = re.sub(r"^~(?=/)", str(self.home), word)
        if word.endswith(".yaml") and (ROOT / word).exists():
            return [str(ROOT / word)]
        if "…" not in word:
            return [word]
        found = self.home.glob(f"{word}/config.yaml".replace("…", "*") if word[-1] == "…" else word.replace("…", "*"))
        found = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
        return [str(path.parent if word[-1] == "…" else path) for path in found]

    def run(self, module, words, prefix=()):
        """A module, or what `prefix` calls it, with the words of a page, made smaller."""
        if "..." in words:
            words[words.index("...") : words.index("...") + 1] = ["--data-path", "/datasets/imagenet"]
        found = [self.find(word) for word in words]
        words = [paths[min(words[:i].count(words[i]), len(paths) - 1)] for i, paths in enumerate(found)]
        line = " ".join([*words, ""])
        if "cifar10" in words and words[words.index("cifar10") - 1] != "--dataset":  # weights of their own size
            words += TRAINING.split()
        else:
            words += SMALLER.get(module, "").split()
        words += SPIKFORMER.split() if re.search(r"spikformer\S*\.yaml", line) else []
        if module in ("dvsgesture.train", "cifar10dvs.train") and "--data-path" not in words:
            words += ["--data-path", str(self.home / "digits" / module.split(".")[0])]
        if "--resume" in words and "--overwrite" in words:
            words.remove("--overwrite")
        name = "utils.commands" if prefix else module
        done = command(f"full_spike.{name}", *prefix, *words)
        self.printed += done.out.splitlines()
        refusal = next((message for part, message in REFUSED.items() if re.search(part, line)), None)
        if refusal is None:
            assert done.status == 0, f"{module} {line}\n{done.out}{done.err}"
        else:
            assert re.search(refusal, done.err), line

    def python(self, words):
        """`python words`, also below torchrun or its older name."""
        while words[1] in ("torch.distributed.run", "torch.distributed.launch"):
            start = next(i for i, word in enumerate(words) if i > 1 and (word == "-m" or word.endswith(".py")))
            words = words[start:] if words[start] == "-m" else ["-m", "imagenet.train", *words[start + 1 :]]
        module, words = words[1].removeprefix("full_spike."), words[2:]
        if module in ("utils.plots", "utils.report") and not words[0].startswith("runs/…"):
            words[0] = "runs/quickstart/…"  # the script was told of no run
        self.run(module, words)

    def script(self, words):
        """What a script starts."""
        home, started = self.home, self.home / "started"
        started.unlink(missing_ok=True)
        settings = {"VENV": home, "PYTHON": home / "bin/python", "STARTED": started, "HOME": home}
        environment = {"PATH": f"{home}/bin:/usr/bin:/bin", "SLURM_SUBMIT_DIR": ROOT, **settings}
        while "=" in words[0]:
            name, _, environment[name] = words.pop(0).partition("=")
        words = words[words[0] == "sbatch" :]
        words = ["bash", ROOT / words[0], *(self.find(word)[0] for word in words[1:])]
        environment = {name: str(value) for name, value in environment.items()}
        done = subprocess.run(words, env=environment, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        for line in started.read_text().splitlines():
            self.python(shlex.split(line))

    def type(self, line):
        words = shlex.split(line)
        if words[0] == "pip":
            assert (ROOT / words[words.index("-r") + 1]).exists()
        elif words[0] == "full-spike" and words[1:2] and words[1] in ("train", "test"):
            self.run(f"{words[2]}.train", words[3:], words[1:3])
        elif words[0] == "full-spike":
            self.run("", words[2:], words[1:2] or ["--help"])
        elif words[0] == "torchrun":
            self.python(words[words.index("-m") :])
        elif words[0] == "python":
            self.python(words[1:])
        else:
            self.script(words)


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
    gestures(tmp_path / "digits/dvsgesture", count=12)
    classes(tmp_path / "digits/cifar10dvs", count=60)
    (tmp_path / "bin").mkdir()
    for name, program in (("python", PYTHON), ("srun", SRUN)):
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{program}")
        (tmp_path / "bin" / name).chmod(0o755)
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


def test_commands_are_found():
    found = [line for page in (*QUICK, *MORE) for line in commands(page)]
    assert "./scripts/quickstart.sh" in found
    assert "python -m utils.fullspike --model fsnn18 --checkpoint fsnn.pth --data /datasets/imagenet" in found
    assert any("--stem imagenet --width 16" in line and "--surrogate atan" in line for line in found)  # over two lines
    assert len(found) > 30

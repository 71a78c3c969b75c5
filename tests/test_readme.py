"""Every command that the READMEs print is run, scaled down, and what they show of its output is what it looks like."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch

import full_spike.models.pretrained
from full_spike.models import create_model, save_pretrained, to_published
from full_spike.utils import commands as full_spike
from support.command import ROOT
from support.events import classes, gestures
from support.images import image_tree, imagenet_tree
from support.refusals import command as run_here

PAGES = (
    *("README.md", "docs/METHOD.md", "docs/TRAINING.md", "docs/DATA.md", "docs/DEPLOY.md"),
    *("cifar/README.md", "imagenet/README.md", "dvsgesture/README.md", "cifar10dvs/README.md", "weights/README.md"),
)
STARTS = ("python ", "torchrun ", "scripts/", "./scripts/", "sbatch ", "NNODES=", "pip ", "full-spike")

COMMON = "--epochs 1 -j 0 --device cpu --print-freq 1 --no-fused"
EVENTS = f"{COMMON} --T 4 --T-train 2 --frame-size 16 --width 2 -b 16"
SMALLER = {
    "cifar.train": f"{COMMON} --epochs 2 --image-size 8 --width 2 --T 2 -b 512",
    "imagenet.train": f"{COMMON} --train-crop-size 16 --val-resize-size 18 --val-crop-size 16 --width 2 --T 2 -b 8",
    "dvsgesture.train": EVENTS,
    "cifar10dvs.train": EVENTS,
    "utils.synops": "--images 4 --no-syops",
    "utils.fullspike": "--images 4",
    "utils.export": "--images 8",
}
# A recipe with a network of its own, made smaller
RECIPES = "--width 16 --heads 2 --depth 1 --warmup-epochs 0 --cooldown-epochs 0"
# Data that nobody can be asked to have: the command says where they are to be had.
ELSEWHERE = {
    "--dataset cifar10 ": "does not hold cifar10|cannot download",
    "spikformer_4_384.yaml": "does not hold cifar10|cannot download",
    "--dataset cifar10dvs": "there is no .*airplane.zip: fetch it from",
}


def blocks(page):
    """The blocks of indented and fenced lines of a page, without the indentation."""
    text = (ROOT / page).read_text()
    fenced = re.findall(r"(?ms)^```(?:sh|bash)\n(.*?)^```", text)
    found = re.findall(r"(?m)(?:^(?: {4}.*)?\n)+", re.sub(r"(?ms)^```.*?^```", "", text))
    return [*fenced, *(re.sub(r"(?m)^ {4}", "", block) for block in found if block.strip())]


def commands(page):
    """Every command on a page, in its order, lines that go on put together and comments left out."""
    found = []
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(STARTS):
                found.append(re.sub(r"\s+", " ", re.sub(r"\s{2,}#.*| # .*|#.*$", "", line)).strip())
    return found


def shown(page):
    """Every line that a page shows of what commands print."""
    lines = [line for block in blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    signs = (
        r"epoch \d|done in|readout |fsnn |aap |sum |output |class |\d+ .*\||dsnn|fsnn\d|wrote |without the|digits_\S+: "
    )
    signs += r"|\d+ training|\d+ recordings|\d+ samples|layer |conv1 "
    return [line for line in lines if re.match(f"({signs})", line)]


def shape(line):
    """A pattern for lines like this one: numbers and paths may be others, spaces as many as fit."""
    end = "" if "left" in line or not line.startswith("epoch ") else r"(\s+left [\d:]+)?"  # an older run has none
    table = re.fullmatch(r"(.*\| )([\d. ]+)", line)  # of which class is taken for which: each cell a number or a dot
    if table:
        line, end = table[1], r"[\d.\s]+"
    parts = re.split(
        r"(\d[\d.,:]*|…|(?<=wrote )\S+|(?<=saved as )\S+|(?<=from )\S+|(?<=, in )\S+| in \S+/\S+|to \S+/\S+)", line
    )

    def pattern(i, part):
        if i % 2:
            return r"[\d.,:]+" if part[0].isdigit() else ".*"
        return re.sub(r"(\\ )+", r"\\s+", re.escape(part))

    return re.compile("".join(pattern(i, part) for i, part in enumerate(parts) if part) + end)


class Reader:
    """Runs what a page prints, in a folder that has all that it names, as somebody who types it line by line."""

    def __init__(self, home):
        self.home = home
        self.printed = []  # lines of all commands, of other pages too: what is made once is told once
        self.ran = []  # (module, the options that it was given)

    def path(self, word):
        """A word with the places of this folder for those of the page, and files that there are for the dots."""
        for name, place in {"/datasets/imagenet": "imagenet", "/shared/imagenet": "imagenet", "~": "."}.items():
            word = re.sub(rf"^{name}(?=/|$)", str(self.home / place), word)
        if (ROOT / word).is_file() and "/" in word:
            return [str(ROOT / word)]
        if "…" not in word:
            return [word]
        pattern = f"{word}/config.yaml" if word.endswith("…") else word
        found = sorted(self.home.glob(pattern.replace("…", "*")), key=lambda path: path.stat().st_mtime, reverse=True)
        return [str(path.parent if word.endswith("…") else path) for path in found]

    def module(self, module, words):
        if "..." in words:  # the options of the command before it
            words[words.index("...") : words.index("...") + 1] = ["--data-path", "/datasets/imagenet"]
        words = [self.path(word) for word in words]
        places = iter(range(len(words)))  # of several words with dots each is another file
        options = [word[min(next(places), len(word) - 1) if len(word) > 1 else 0] for word in words]
        recipe = any("spikformer" in option and option.endswith(".yaml") for option in options)
        options += [*SMALLER.get(module, "").split(), *(RECIPES.split() if recipe else [])]
        if module.endswith(".train"):
            if module.split(".")[0] in ("dvsgesture", "cifar10dvs") and "--data-path" not in options:
                options += ["--data-path", str(self.home / "data" / "digits" / module.split(".")[0])]
            options += [] if "--resume" in options else ["--overwrite"]
        done = run_here(module, *options)
        self.ran.append((module, options))
        self.printed += done.out.splitlines()
        line = f"{module} {' '.join(options)}"
        refusal = next((message for part, message in ELSEWHERE.items() if part in f"{line} "), None)
        if refusal is not None:
            assert re.search(refusal, done.err), line
        else:
            assert done.status == 0, f"{line}\n{done.out}{done.err}"

    def script(self, words):
        """What a script starts, by a Python that only says what it was given."""
        started = self.home / "started"
        started.unlink(missing_ok=True)
        environment = {"PATH": f"{self.home / 'bin'}:/usr/bin:/bin", "VENV": str(self.home), "STARTED": str(started)}
        environment |= {
            "PYTHON": str(self.home / "bin" / "python"),
            "HOME": str(self.home),
            "SLURM_SUBMIT_DIR": str(ROOT),
        }
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        words = words[1:] if words[0] == "sbatch" else words
        words = ["bash", str(ROOT / words[0].removeprefix("./")), *(self.path(word)[0] for word in words[1:])]
        subprocess.run(words, env=environment, check=True, capture_output=True, text=True, timeout=60)
        for line in started.read_text().splitlines():
            self.python(shlex.split(line))

    def python(self, words):
        """`python words`."""
        if words[0] == "-c":
            subprocess.run(
                [sys.executable, *words], cwd=self.home, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
            return
        while words[:2] == ["-m", words[1]] and words[1].startswith("torch.distributed"):
            place = next(i for i, word in enumerate(words) if i > 1 and (word == "-m" or word.endswith(".py")))
            words = words[place:]
            words = ["-m", "imagenet.train", *words[1:]] if words[0].endswith(".py") else words
        if words[1] in ("utils.plots", "utils.report") and words[2].startswith((".", "runs/quickstart")):
            words[2] = "runs/quickstart/…"
        self.module(words[1], words[2:])

    def type(self, line):
        words = shlex.split(line)
        if words[0] == "pip":  # would change what the tests run in
            assert (ROOT / words[words.index("-r") + 1]).exists()
        elif words == ["full-spike"]:
            assert full_spike.main([]) == 0
        elif words[0] == "full-spike":
            command = full_spike.COMMANDS[words[1]]
            data_set = words.pop(2) if "{}" in command.module else ""
            self.module(command.module.format(data_set), [*command.added, *words[2:]])
        elif words[0] == "torchrun":
            self.module(words[words.index("-m") + 1], words[words.index("-m") + 2 :])
        elif words[0] == "python":
            self.python(words[1:])
        else:
            self.script(words)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        for name in ("http_proxy", "https_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")  # nothing is fetched
        for place in ("data/images", "data/cifar10", "images"):
            image_tree(home / place, count=4)
        (home / "pictures").mkdir()
        for picture in ("cat.jpg", "pictures/dog.jpg"):
            shutil.copy(next(home.glob("images/*/cat/*")), home / picture)
        torch.save({"model": to_published(create_model("dsnn18"))}, home / "published.pth")
        patch.setattr(models.pretrained, "SHIPPED", home / "weights")  # smaller as well
        recipe = {"dataset": "folder", "image_size": 8}
        for name in ("dsnn18", "fsnn18"):
            small = create_model(name, width=2, T=2, num_classes=2, stem="cifar")
            about = {"data_set": "cifar", "classes": ["cat", "dog"], "recipe": recipe}
            save_pretrained(small, home / "weights" / "cifar10" / name, about)
        imagenet_tree(home / "imagenet", count=4)
        gestures(home / "data" / "dvsgesture", count=100)
        gestures(home / "data" / "digits" / "dvsgesture", count=12)
        classes(home / "data" / "digits" / "cifar10dvs", count=60)
        tables = (home / "data/dvsgesture/extract/DvsGesture").glob("*_labels.csv")
        table = max(tables, key=lambda path: len(path.read_text().splitlines()))  # there is a third row
        shutil.copy(table, home / "user01_led_labels.csv")
        shutil.copy(table.with_name(f"{table.stem.removesuffix('_labels')}.aedat"), home / "user01_led.aedat")
        (home / "bin").mkdir()
        for name in ("python", "srun"):
            program = home / "bin" / name
            quoted = 'line=; for word in "$@"; do line="$line $(printf %q "$word")"; done; echo "$line" >>"$STARTED"\n'
            if name == "srun":
                quoted = 'while [ "${1#--}" != "$1" ]; do shift; done; shift; exec "$PYTHON" "$@"\n'
            program.write_text(f"#!/bin/bash\n{quoted}")
            program.chmod(0o755)
        stamp = subprocess.run(
            ["bash", "-c", 'echo "$(cat setup.py requirements.txt | cksum) $PWD"'],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        (home / ".installed").write_bytes(stamp.stdout)
        found = Reader(home)
        train = "python -m imagenet.train --data-path /datasets/imagenet --output-dir logs"
        found.type(train)
        found.type(f"{train} --test-only --resume auto --detach")
        shutil.copy(next(home.glob("logs/*/checkpoint_latest.pth")), home / "checkpoint.pth")
        shutil.copy(next(home.glob("logs/*/fsnn.pth")), home / "fsnn.pth")
        yield found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs_and_prints_what_is_shown(reader, page):
    lines = commands(page)
    assert lines
    for line in lines:
        reader.type(line)
    missing = [line for line in shown(page) if not any(shape(line).fullmatch(printed) for printed in reader.printed)]
    assert missing == []
    if page == "docs/DEPLOY.md":  # its code, of what the commands have made
        code = re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / page).read_text())
        assert len(code) == 2
        reader.python(["-c", "\n".join(code)])


def test_commands_are_found():
    """The extraction itself, on what is known to be there."""
    found = [line for page in PAGES for line in commands(page)]
    assert "./scripts/quickstart.sh" in found
    assert "python -m utils.fullspike --model fsnn18 --checkpoint fsnn.pth --data /datasets/imagenet" in found
    assert any("--stem imagenet --width 16 --surrogate atan" in line for line in found)  # over two lines
    assert not any("#" in line for line in found)
    assert len(found) > 30


def test_a_shape_is_met_by_other_numbers_and_by_nothing_else():
    line = "epoch 19/20  loss 0.1580  train 97.29  lr 0.0024  522.6 images/s  left 0:00:03"
    assert shape(line).fullmatch("epoch 1/1  loss 3.1  train 7.29  lr 0.1  52.6 images/s  left 1:00:03")
    assert not shape(line).fullmatch("epoch 1/1  loss 3.1  lr 0.1  52.6 images/s  left 1:00:03")
    assert shape("wrote runs/a…/b.png").fullmatch("wrote /tmp/x.png")

"""Wrong command lines of every command but the training scripts: one line that names the value, and no file changed."""

import pytest

from support.refusals import refused

SMALL = "--model fsnn18 --T 1 --option width=4 --option stem=cifar --size 8"
EXPORT = "export --to c --output {}/new --checkpoint cifar10/fsnn18"

WRONG = [
    ("synops", 2, "the following arguments are required: --model .--help lists"),
    (f"synops {SMALL} --connect-f NOR", 2, "connect_f='NOR' is unknown: choose one of ADD, AND"),
    (f"synops {SMALL} --option width", 2, "--option width is not of the form NAME=VALUE"),
    (f"synops {SMALL} --option width=four", 2, "width='four' is no whole number"),
    (f"synops {SMALL} --option width=0", 2, "width=0 is out of range"),
    (f"synops {SMALL} --output {{}}/file", 2, "--output .*file is no folder: name another one"),
    (f"synops {SMALL} --output {{}}/link", 2, "link is no folder"),
    (f"synops {SMALL} --factory=", 2, "--factory : .*write it as MODULE:FUNCTION"),
    (f"synops {SMALL} --seed {2**70}", 2, r"--seed: 118\d+ is outside 0..2\^63 - 1"),
    (f"synops {SMALL} --ac-pj nan", 2, "--ac-pj: nan is not finite"),
    (f"certify {SMALL} --device abacus", 2, "--device abacus is not available .*: use cuda or cpu"),
    (f"certify {SMALL} --checkpoint=", 2, "--checkpoint: an empty name"),
    (f"certify {SMALL} --checkpoint nowhere", 1, "there is no nowhere, neither a file nor weights that come along"),
    (f"certify {SMALL[:-9]} --data {{}} --data-set nowhere", 2, "--data-set nowhere: No module named 'nowhere'"),
    (f"{EXPORT} --device cuda", 2, "--device cuda: exports are made and compared on the CPU"),
    (f"{EXPORT} --data-option nonsense=1", 2, "--data-option nonsense=1 is no option of cifar: it has data_path"),
    ("convert cifar10/fsnn18 {}/file", 2, "file is there already: name another file, or remove it"),
    ("convert cifar10/fsnn18 {}/new --ema", 1, "has no averaged weights: train with --ema-decay"),
    ("convert cifar10/fsnn18 {}/new --model dsnn18", 2, "was saved from another network, fsnn18"),
    ("predict {}/nothing", 1, "there is no .*nothing: check the path"),
    ("predict {}/file --output {}/file/a", 2, "file is no folder"),
    ("predict {}/file --classes {}/nothing", 1, "No such file or directory: .*nothing"),
    ("plots {} {}", 2, "unrecognized arguments: "),
    ("plots {}/file", 1, "there is no .*file/metrics.jsonl: name the folder of a run"),
    ("report {}/nothing", 1, "there is no .*nothing/config.yaml: name the folder of a run"),
    ("report {} --output {}/file/x.html", 2, "--output .*file is no folder"),
]


@pytest.mark.parametrize(("words", "status", "message"), WRONG)
def test_a_wrong_command_line(tmp_path, words, status, message):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    words, message = (text.replace("{}", str(tmp_path)) for text in (words, message))
    refused(tmp_path, status, message, "utils.commands", *words.split())

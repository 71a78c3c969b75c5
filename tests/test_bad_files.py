"""Files that are not what they should be: each is one line that says what and what to do, and no more."""

import pytest

from support.refusals import refused

COUNT = ("--model", "fsnn18", "--T", 1, "--option", "width=4", "--size", 8, "--device", "cpu")

COMMANDS = {
    "plots of nothing": (["utils.plots"], "the following arguments are required: folder .--help lists"),
    "plots of two": (["utils.plots", "FOLDER", "FOLDER"], "unrecognized arguments: .*--help lists the options"),
    "a file for results": (
        ["utils.synops", *COUNT, "--output", "FOLDER/file"],
        "--output .*file: .*file is no folder: name another one",
    ),
    "results below a file": (["utils.synops", *COUNT, "--output", "FOLDER/file/a/b"], "--output .*file is no folder"),
    "results at a link to nothing": (["utils.synops", *COUNT, "--output", "FOLDER/link"], "link is no folder"),
    "pictures below a file": (
        ["utils.predict", "FOLDER/file", "--output", "FOLDER/file/a"],
        "file is no folder",
    ),
    "a factory without a name": (["utils.synops", *COUNT, "--factory", ""], "--factory '' is no module: name one as"),
    "a relative factory": (
        ["utils.synops", *COUNT, "--factory", ".models"],
        "--factory '.models' is no module",
    ),
    "a seed of 71 bits": (
        ["utils.synops", *COUNT, "--seed", 2**70],
        r"--seed: 118\d+ is outside 0..2\^63 - 1 .--help lists",
    ),
    "such a seed of a certificate": (["utils.fullspike", *COUNT, "--seed", -(2**64)], "--seed: -18.* is outside 0..2"),
    "a device as data": (["utils.synops", *COUNT, "--data", "/dev/zero"], "there is no folder /dev/zero: images are"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (module, *args), message = COMMANDS[name]
    refused(tmp_path, message, module, *[str(arg).replace("FOLDER", str(tmp_path)) for arg in args])

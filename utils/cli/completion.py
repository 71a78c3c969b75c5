"""Words for the shell: `eval "$(register-python-argcomplete full-spike)"` completes commands, data sets and options.

By the package argcomplete (`pip install -e .[completion]`), which asks by starting the command with a variable set.
Options are those that --help lists, so that nothing has to be told twice.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any


def options_in_help(module: str) -> list[str]:
    """The long options that a command's --help lists."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(module).main(["--help"])
    listed = text.getvalue().partition("examples:")[0]
    return list(dict.fromkeys(re.findall(r"(?<![\w-])--[\w-]+", "".join(re.findall(r"(?m)^  -.*", listed)))))


def parser(commands: Mapping[str, Any], data_sets: Sequence[str], typed: Sequence[str]) -> argparse.ArgumentParser:
    """A parser of what may follow the words that have been typed."""
    made = argparse.ArgumentParser("full-spike", add_help=False)
    made.add_argument("command", choices=list(commands))
    command = commands.get(typed[0]) if typed else None
    if command is None:
        return made
    module = command.module
    if "{}" in module:
        made.add_argument("data_set", choices=list(data_sets))
        if len(typed) < 2 or typed[1] not in data_sets:
            return made
        module = module.format(typed[1])
    for option in options_in_help(module):
        made.add_argument(option, nargs="?")
    made.add_argument("files", nargs="*")
    return made


def complete(commands: Mapping[str, Any], data_sets: Sequence[str]) -> None:
    """Answer the shell, and end the process."""
    import argcomplete

    typed = os.environ.get("COMP_LINE", "").split()[1:]
    argcomplete.autocomplete(parser(commands, data_sets, typed))

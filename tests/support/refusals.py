"""A command that is given something bad: one line on standard error, an exit status, and nothing changed."""

import contextlib
import importlib
import io
import os
import re
import stat
from types import SimpleNamespace

from full_spike.utils.errors import run_command


def command(module, *args):
    """A command's exit status and what it printed, run here."""
    main = importlib.import_module(module).main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_command(lambda: main([str(arg) for arg in args]))
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())


def snapshot(folder):
    """Every path below a folder, with the content of those that are files."""
    found = {}
    for path in folder.rglob("*"):
        regular = stat.S_ISREG(os.lstat(path).st_mode)
        found[os.fsencode(path)] = path.read_bytes() if regular and path.stat().st_size < 1 << 22 else None
    return {path: content for path, content in found.items() if b"full-spike" not in path and b"/out" not in path}


def refused(folder, status, message, *args):
    """A command must end with a status and say one line, and change nothing in a folder."""
    before = snapshot(folder)
    done = command(*args)
    assert done.status == status, done.err
    said = [line for line in done.err.splitlines() if not line.startswith("warning: firing rates are not real")]
    assert len(said) == 1, done.err
    assert re.search(rf"^error: .*(?:{message})", said[0]), said[0]
    assert snapshot(folder) == before
    return said[0]

"""Errors that a user can mend: one line on standard error and an exit status, no traceback."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import re
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator


class UserError(Exception):
    """Names the value, the constraint and the remedy. Something on disk, in the data or in the run is wrong."""

    exit_status = 1
    label = "error"


class UsageError(UserError):
    """The command itself is wrong."""

    exit_status = 2


class StopRequestedError(UserError):
    """A scheduler asked the run to stop, and it has saved. 75 is EX_TEMPFAIL of sysexits.h: try again later."""

    exit_status = 75
    label = "stopped"


@contextlib.contextmanager
def as_usage_error() -> Iterator[None]:
    """A block whose ValueErrors are the user's: networks raise them for options that are unknown or out of range."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from None


_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")  # a file's name may hold them, newlines included


def escaped(text: str) -> str:
    """A text for a line of output: control characters, and what in a file's name is no text, are written as escapes."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text).encode("utf-8", "backslashreplace").decode()


def one_line(error: BaseException) -> str:
    """The message of an error, with control characters escaped. Of an error that a data-loading worker raised, the
    worker's message alone."""
    text, name = str(error).strip() or type(error).__name__, type(error).__qualname__
    if text.startswith(f"Caught {name} in "):  # torch puts the worker's traceback into the message
        text = re.split(rf"\n(?:[\w.]+\.)?{name}: ", text)[-1].strip()
    return escaped(text)


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Print each of Python's warnings as one line: libraries write several, and Python adds a line of their source."""
    before = warnings.formatwarning

    def as_one(message: Warning | str, *_: object, **__: object) -> str:
        return f"warning: {escaped(' '.join(str(message).split()))}\n"

    warnings.formatwarning = as_one
    try:
        yield
    finally:
        warnings.formatwarning = before


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output any more, as after `| head -1`."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLOUT)
    return any(state & (select.POLLERR | select.POLLHUP) for _, state in output.poll(0))


def warn(message: str) -> None:
    """A line on standard error that says what is not as it should be, and no reason to stop."""
    print(f"warning: {escaped(message)}", file=sys.stderr, flush=True)


def end_with_parent() -> None:
    """Have the system kill this process when its parent ends, however that ends (Linux).

    torchrun's workers would otherwise outlive an agent that was killed, and write into the run's folder beside the job
    that takes their place.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == 1 and "python" not in os.path.realpath("/proc/1/exe"):  # it has ended already
            os.kill(os.getpid(), signal.SIGKILL)


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command's main function and return its exit status; a user's error is printed as one line.

    In a distributed job every process prints the errors that it met, after its rank. A command whose output nobody
    reads any more ends without a word, with the status of a process that SIGPIPE has ended.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:  # now: what comes takes seconds to import, and the agent may be killed then
        end_with_parent()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    # whether nvcc has a GPU beside it concerns no command here
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    label = UserError.label
    try:
        try:
            with warnings_in_one_line():
                status = main() or 0
        except SystemExit as end:  # of --help
            status = int(end.code or 0)
        sys.stdout.flush()  # now, and not when Python ends and nothing catches the error
        return status
    except UserError as error:
        label, message, status = error.label, one_line(error), error.exit_status
        # what keeps the data loader: its workers would be killed at exit instead of ended now. torch's reraising of a
        # worker's error refers to itself
        for met in filter(None, (error, error.__context__)):
            traceback.clear_frames(met.__traceback__)
    except OSError as error:  # a full disk, a missing permission: as the system names it, with the file
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes at its end
            return 128 + signal.SIGPIPE
        message, status = one_line(error), 1
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    rank = os.environ.get("RANK", "0")
    print(
        f"{label}{f' on rank {rank}' if rank.isdigit() and rank != '0' else ''}: {message}", file=sys.stderr, flush=True
    )
    return status

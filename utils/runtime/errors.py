"""Errors that a user can mend: one line on standard error and an exit status, no traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


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


def one_line(error: BaseException) -> str:
    """The message of an error; of one that a data-loading worker raised, its last line, without the class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command's main function and return its exit status; a user's error is printed as one line.

    In a distributed job every process prints the errors that it met, after its rank.
    """
    label = UserError.label
    try:
        return main() or 0
    except UserError as error:
        label, message, status = error.label, one_line(error), error.exit_status
        # torch's reraising of a worker's error refers to itself and so would keep the data loader: its workers would
        # be killed at exit instead of ended now
        traceback.clear_frames(error.__traceback__)
    except OSError as error:  # a full disk, a missing permission: as the system names it, with the file
        message, status = one_line(error), 1
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    rank = os.environ.get("RANK", "0")
    print(
        f"{label}{f' on rank {rank}' if rank.isdigit() and rank != '0' else ''}: {message}", file=sys.stderr, flush=True
    )
    return status

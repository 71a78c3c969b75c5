"""Errors that a user can mend: one line on standard error and an exit status, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Names the value, the constraint and the remedy. Something on disk, in the data or in the run is wrong."""

    exit_status = 1


class UsageError(UserError):
    """The command itself is wrong."""

    exit_status = 2


def one_line(error: BaseException) -> str:
    """The message of an error; of one that a data-loading worker raised, its last line, without the class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command's main function and return its exit status; a user's error is printed as one line.

    In a distributed job every process prints the errors that it met, behind its rank.
    """
    try:
        return main() or 0
    except UserError as error:
        message, status = one_line(error), error.exit_status
    except OSError as error:  # a full disk, a missing permission: as the system names it, with the file
        message, status = one_line(error), 1
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    rank = os.environ.get("RANK", "0")
    prefix = "error" if rank == "0" else f"error on rank {rank}"
    print(f"{prefix}: {message}", file=sys.stderr, flush=True)
    return status

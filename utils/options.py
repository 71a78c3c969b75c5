"""Command lines: argparse, types of numbers, and the options that every training script has."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

from full_spike.utils.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command is one line that `run_command` prints, and examples stand below the options.

    Args:
        doc: a command's docstring: its first line is the description, its lines that are commands are the examples.
        given: of argparse.
    """

    def __init__(self, doc: str | None = None, **given: Any) -> None:
        doc = doc or ""
        given = {"description": doc.partition("\n")[0], "epilog": _examples(doc)} | given
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **given)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help lists the options)")


def _examples(doc: str) -> str | None:
    """The lines of a docstring that are commands, for the end of --help."""
    lines = [line.strip() for line in doc.splitlines()]
    found = [line for line in lines if line.startswith(("python ", "torchrun ", "full-spike "))]
    return "\n  ".join(["examples:", *found]) if found else None


def add_flags(group: Any, *flags: str, **given: Any) -> argparse.Action:
    """An argument of a parser or of a group; spellings with _ work and --help does not show them beside others."""
    shown = [flag for flag in flags if "_" not in flag] or list(flags)
    action: argparse.Action = group.add_argument(*shown, **given)
    hidden = [flag for flag in flags if flag not in shown]
    if hidden:
        group.add_argument(*hidden, **(given | {"dest": action.dest, "help": argparse.SUPPRESS}))
    return action


LARGEST_INT = 2**31 - 1  # of what is counted: tensors' sizes multiply


def positive_int(text: str) -> int:
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    if value > LARGEST_INT:
        raise argparse.ArgumentTypeError(f"{value} is above {LARGEST_INT}")
    return value


def seed(text: str) -> int:
    """As large as torch's generators take, and not negative."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{value} is outside 0..2^63 - 1")
    return value


def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{value} is not finite")
    return value


def fraction(text: str) -> float:
    value = finite(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{value} is outside [0, 1)")
    return value


def probability(text: str) -> float:
    value = finite(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{value} is outside [0, 1]")
    return value


def non_negative(text: str) -> float:
    value = finite(text)
    if value < 0.0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def above(limit: float) -> Callable[[str], float]:
    """Numbers above a limit."""

    def number(text: str) -> float:
        value = finite(text)
        if value <= limit:
            raise argparse.ArgumentTypeError(f"{value} is not above {limit:g}")
        return value

    return number

"""Errors for names and numbers that are none of those there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(name: Any, choices: Iterable[str]) -> str:
    """`; did you mean X?` for the choice that is most like a name, in whatever case; else nothing."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def require_one_of(what: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises ValueError, with the choices, if a value is none of them."""
    names = [*map(str, choices)]
    if str(value) not in names:
        raise ValueError(f"{what}={value!r} is unknown: choose one of {', '.join(names)}{nearest(value, names)}")


def require_sizes(**sizes: Any) -> None:
    """Raises ValueError if one of them is no whole number of at least 1."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{name}={value!r} is no whole number: give one of at least 1")
        if value < 1:
            raise ValueError(f"{name}={value} is out of range: it must be at least 1")

"""Options of a command as fields of dataclasses, one class for each group of its --help; see `parser`.

@dataclass(frozen=True)
class Speed:
    fused: bool = option(False, "compile each layer into one kernel", negatable=True)
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from full_spike.utils.options import (  # noqa: F401
    LARGEST_INT,
    Parser,
    above,
    add_flags,
    finite,
    fraction,
    natural,
    non_negative,
    positive_int,
    probability,
    seed,
)


@dataclasses.dataclass(frozen=True)
class _About:
    """What `option` says of a field."""

    help: str
    flags: tuple[str, ...]
    parse: Callable[[str], Any] | None
    choices: tuple[str, ...] | None
    metavar: str | None
    negatable: bool
    shortcuts: Mapping[str, tuple[Any, str]]
    lasting: bool


def option(
    default: Any,
    help: str,
    *flags: str,
    parse: Callable[[str], Any] | None = None,
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
    negatable: bool = False,
    shortcuts: Mapping[str, tuple[Any, str]] | None = None,
    lasting: bool = True,
) -> Any:
    """A field of a class of options.

    Args:
        default: a script may have another one.
        help: what --help says.
        flags: as typed; by default the field's name with dashes.
        parse: text -> value; raises argparse.ArgumentTypeError or ValueError. By default the field's type.
        choices: the values that there are.
        metavar: what the value is called in --help.
        negatable: a switch with a --no- form; a switch whose default is not False needs it.
        shortcuts: other switches -> (the value that they stand for, their help).
        lasting: whether it describes the run. False: only what this one call does; such options are not written down.
    """
    about = _About(
        help, flags, parse, None if choices is None else tuple(choices), metavar, negatable, shortcuts or {}, lasting
    )
    return dataclasses.field(default=default, metadata={"option": about})


@dataclasses.dataclass(frozen=True)
class Option:
    """A field with all that the parser needs of it."""

    name: str
    kind: type  # bool, int, float, str, or what `parse` gives
    about: _About

    @property
    def flags(self) -> tuple[str, ...]:
        """As typed, those with dashes first."""
        return tuple(sorted(self.about.flags, key=lambda flag: "_" in flag)) or ("--" + self.name.replace("_", "-"),)

    def keys_in_a_file(self) -> Iterator[str]:
        """What a configuration may call it: as the field, or as any of its long flags."""
        yield self.name
        for flag in self.flags:
            if flag.startswith("--"):
                yield flag.removeprefix("--").replace("-", "_")

    def add_to(self, group: Any, default: Any, shown: Any = None) -> None:
        """Add it to a group of a parser.

        Args:
            shown: what --help gives as the default where there is none here.
        """
        about = self.about
        given: dict[str, Any] = {
            "dest": self.name,
            "help": about.help + _in_words(shown if default is None else default),
        }
        if self.kind is bool:
            given["action"] = argparse.BooleanOptionalAction if about.negatable else "store_true"
        else:
            metavar = about.metavar or (None if about.choices else _METAVARS.get(self.kind, "VALUE"))
            given |= {"type": about.parse or self.kind, "choices": about.choices, "metavar": metavar}
        # the default comes after the argument: BooleanOptionalAction would add it to the help in its own words
        add_flags(group, *self.flags, **given).default = default
        for flag, (value, help_) in about.shortcuts.items():
            group.add_argument(
                flag, dest=self.name, action="store_const", const=value, default=argparse.SUPPRESS, help=help_
            )

    def checked(self, value: Any) -> Any:
        """A value of a configuration, checked as the same text on the command line is.

        Raises:
            ValueError: it is of another type or out of range.
        """
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{value!r} is neither true nor false")
            return value
        if isinstance(value, list | tuple) and self.about.parse is not None:
            value = ",".join(map(str, value))
        if isinstance(value, bool | list | tuple | dict) or (self.kind is not str and not str(value).strip()):
            raise ValueError(f"{value!r} is no {self.kind.__name__}")
        try:
            found = (self.about.parse or self.kind)(str(value))
        except argparse.ArgumentTypeError as error:
            raise ValueError(str(error)) from None
        except ValueError:
            raise ValueError(f"{value!r} is no {self.kind.__name__}") from None
        if self.about.choices is not None and found not in self.about.choices:
            raise ValueError(f"{value!r} is unknown, choose one of {', '.join(self.about.choices)}")
        return found


_METAVARS = {int: "N", float: "X", str: "NAME"}


def _in_words(default: Any) -> str:
    """A default for --help; nothing where there is none, or where it is an empty text or a switch that is off."""
    if default is None or default is False or default == "":
        return ""
    text = ",".join(map(str, default)) if isinstance(default, tuple) else "on" if default is True else str(default)
    return f" (default: {text})".replace("%", "%%")


def options_of(cls: type) -> list[Option]:
    """The options of a class, in the order of --help."""
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        kinds = [k for k in typing.get_args(hint) if k is not types.NoneType] if typing.get_origin(hint) else [hint]
        found.append(Option(field.name, kinds[0], field.metadata["option"]))
    return found

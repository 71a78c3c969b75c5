"""A command line whose result is a dataclass of dataclasses, read from a file and written to one as well.

A value comes from the command line, else from the YAML file that `--config` names, else from the script's defaults,
else from the class.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from full_spike.utils.errors import UsageError
from full_spike.utils.runtime.options import Option, Parser, options_of

ABOUT = "versions"  # the key of a configuration that tells what wrote it, and sets nothing


def _titles(config: type) -> dict[str, str]:
    """The title in --help of each group of a configuration, by the group's name."""
    hints = typing.get_type_hints(config, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


class OptionsParser:
    """A command line whose result is a dataclass of dataclasses.

    Args:
        doc: a command's docstring, see `options.Parser`.
        config: a dataclass whose fields are groups, e.g. `data: Annotated[DataOptions, "title in --help"]`. An option's
            name must not stand in two of them.
        classes: other classes for some of its fields, usually with more options.
        program: what is typed to start it, e.g. "python -m cifar.train"; by default the name of the script.
        shown: what --help gives as defaults of options that have none here.
        defaults: of options, in place of those that the classes have.
    """

    def __init__(
        self,
        doc: str,
        config: type,
        classes: Mapping[str, type] | None = None,
        *,
        program: str | None = None,
        shown: Mapping[str, Any] | None = None,
        **defaults: Any,
    ) -> None:
        self.program = program
        self._config = config
        self._classes: dict[str, type] = {**typing.get_type_hints(config), **(classes or {})}
        self._parser = Parser(doc, prog=program, usage=f"{program or '%(prog)s'} [options]")
        self._parser.add_argument(
            "--config", metavar="FILE.yaml", help="options by name, e.g. a run's config.yaml; this command line wins"
        )
        self._options: dict[str, Option] = {}
        self._defaults: dict[str, Any] = {}
        for name, title in _titles(config).items():
            added = self._parser.add_argument_group(title)
            cls = self._classes[name]
            for item, of in zip(options_of(cls), dataclasses.fields(cls), strict=True):
                if item.name in self._options:
                    raise ValueError(f"two groups have an option {item.name!r}: rename one")
                self._options[item.name] = item
                self._defaults[item.name] = defaults.pop(item.name, of.default)
                item.add_to(added, self._defaults[item.name], (shown or {}).get(item.name))
        if defaults:
            raise ValueError(f"there is no option {next(iter(defaults))!r} to give a default to")
        older = [flag for item in self._options.values() for flag in item.flags if "_" in flag]
        if older:
            self._parser.epilog = f"{self._parser.epilog or ''}\n\nspelled as in the released code: {', '.join(older)}"

    @property
    def defaults(self) -> Any:
        """The configuration of a command that gives no option."""
        return self._build(self._defaults)

    def flags(self) -> dict[str, tuple[str, ...]]:
        """Every option's flags by its name, switches that stand for one of its values included."""
        return {name: (*item.flags, *item.about.shortcuts) for name, item in self._options.items()}

    def parse(self, argv: Sequence[str] | None = None, below: Mapping[str, Any] | None = None) -> Any:
        """The configuration that a command line describes; by default this process's.

        Args:
            below: values by option, in place of the defaults of those that are not given.

        Raises:
            UsageError: an option or the configuration's file is wrong.
            ValueError: one of the values below is.
        """
        values = {name: self._options[name].checked(value) for name, value in (below or {}).items()}
        args = self._parser.parse_args(argv, argparse.Namespace(**values))
        if args.config is not None:  # once more, with the file's values below what is given
            values |= self._read(Path(args.config))
            args = self._parser.parse_args(argv, argparse.Namespace(**values))
        return self._build(vars(args))

    def _build(self, values: Mapping[str, Any]) -> Any:
        groups = {
            name: cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
            for name, cls in self._classes.items()
        }
        return self._config(**groups)

    def _read(self, path: Path) -> dict[str, Any]:
        """The options that a YAML file gives, by name; null is as if it was not there."""
        from full_spike.utils.runtime.plain_yaml import read_mapping  # here: most commands read none

        content = read_mapping(path, "--config")
        by_key = {key: item for item in self._options.values() for key in item.keys_in_a_file()}
        shortcuts = {
            flag.removeprefix("--").replace("-", "_"): (item, value)
            for item in self._options.values()
            for flag, (value, _) in item.about.shortcuts.items()
        }
        found: dict[str, Any] = {}
        for key, value in content.items():
            name = str(key).replace("-", "_")
            if name == ABOUT or value is None:
                continue
            if name in shortcuts and value is True:
                item, value = shortcuts[name]
            elif name in by_key:
                item = by_key[name]
            else:
                raise UsageError(f"--config {path}: there is no option {key!r}: did you mean {_nearest(name, by_key)}?")
            if item.name in found:
                raise UsageError(f"--config {path} gives {item.name} twice: leave one out")
            try:
                found[item.name] = item.checked(value)
            except ValueError as error:
                raise UsageError(f"--config {path}: {key}: {error}") from None
        return found


def _nearest(name: str, known: Mapping[str, Option]) -> str:
    """The option that a wrong name may mean: the closest in spelling, unless only a description speaks of its words."""
    close = difflib.get_close_matches(name, known, n=1)
    described = [key for key, item in known.items() if set(name.split("_")) <= set(item.about.help.split())]
    return (close or described or difflib.get_close_matches(name, known, n=1, cutoff=0.0))[0]


def to_yaml(config: Any, about: Mapping[str, Any] | None = None) -> str:
    """A configuration as a file that `--config` reads: every option that describes the run, under its group's title.

    Args:
        about: what wrote it; read by people alone.
    """
    import yaml

    parts = []
    for name, title in _titles(type(config)).items():
        options = getattr(config, name)
        values = {
            of.name: getattr(options, of.name) for of in dataclasses.fields(options) if of.metadata["option"].lasting
        }
        if not values:
            continue
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        parts.append(
            f"# {title.split(' (')[0]}\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)}"
        )
    if about is not None:
        parts.append(yaml.safe_dump({ABOUT: dict(about)}, sort_keys=False, width=1000))
    return "\n".join(parts)

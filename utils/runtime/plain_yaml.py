"""YAML from anyone, as plain values: nothing that repeats itself, and one line where it is no such thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import read_text

LARGEST = 1 << 16  # bytes; the reader takes a thousand times as much memory


class _RefusedError(Exception):
    """What in a file, at which mark, is not taken."""


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, by which a few lines describe billions of values, and without keys that are given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise _RefusedError(f"repeats a value by *{alias.anchor}", alias.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise _RefusedError(f"gives {key.value!r} twice", key.start_mark)
            seen.add(key.value)
        return found


def read_mapping(path: Path, what: str) -> dict[Any, Any]:
    """The mapping that a YAML file holds; empty if the file is.

    Args:
        what: the file in messages, e.g. the option that names it.

    Raises:
        UsageError: it cannot be read, or is no mapping of plain values.
    """
    try:
        text = read_text(path, LARGEST)
    except UserError as error:
        raise UsageError(f"{what}: {error}") from None
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read ({error.strerror}): name a YAML file of options") from None
    try:
        content = yaml.load(text, _PlainLoader)  # a SafeLoader
    except _RefusedError as error:
        wrong, mark = error.args
        raise UsageError(f"{what} {path} {wrong} in line {mark.line + 1}: write one `option: value` a line") from None
    except Exception as error:  # whatever wrong text makes the reader and Python's own numbers and dates raise
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise UsageError(f"{what} {path} is no YAML{where}: write one `option: value` a line") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{what} {path} holds no options: write one `option: value` a line")
    return content

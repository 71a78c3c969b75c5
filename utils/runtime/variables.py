"""Reading environment variables."""

from __future__ import annotations

from collections.abc import Mapping

from full_spike.utils.errors import UserError


def whole_number(env: Mapping[str, str], name: str, default: int) -> int:
    """A variable's value, 0 or above; the default where it is not set.

    Raises:
        UserError: it is something else.
    """
    text = env.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise UserError(
            f"{name}={text!r} in the environment is no whole number: unset it, or leave setting it to the launcher"
        )
    return int(text)

"""One name for all commands: `full-spike train cifar --epochs 20` is `python -m cifar.train --epochs 20`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from full_spike.utils.data.dataset import DATA_SETS
from full_spike.utils.errors import UsageError, run_command

TESTING = ("--test-only", "--resume", "auto")


@dataclass(frozen=True)
class Command:
    """What a word stands for.

    module: whose `main` is called; "{}.train" where the next word says which data set.
    help: in the list of commands.
    added: options before those that are typed.
    """

    module: str
    help: str
    added: tuple[str, ...] = ()


# A row is all that a command needs; one whose module is not there is not listed.
COMMANDS = {
    "train": Command(
        "full_spike.{}.train", "train a network: full-spike train cifar, imagenet, dvsgesture or cifar10dvs"
    ),
    "test": Command("full_spike.{}.train", "evaluate what was trained, with the same words and options", TESTING),
    "report": Command("full_spike.utils.report", "a page about a run, or several side by side"),
    "plots": Command("full_spike.utils.plots", "learning curves and firing rates of a run as pictures"),
    "synops": Command("full_spike.utils.synops", "count synaptic operations and energy"),
    "certify": Command("full_spike.utils.fullspike", "certify that only spikes enter weighted layers"),
    "export": Command("full_spike.utils.export", "write a trained network for another runtime"),
    "convert": Command(
        "full_spike.utils.convert_checkpoint", "weights from one naming to another, and to .safetensors"
    ),
    "predict": Command("full_spike.utils.predict", "the classes of images, and pictures of the spikes that they cause"),
}


def available() -> dict[str, Command]:
    """The commands whose modules are there."""
    return {name: c for name, c in COMMANDS.items() if "{}" in c.module or importlib.util.find_spec(c.module)}


def listing() -> str:
    """What `full-spike` alone says."""
    found = available()
    wide = max(map(len, found))
    lines = [f"  {name:<{wide}}  {command.help}" for name, command in found.items()]
    return "\n".join(
        ["usage: full-spike COMMAND [options]", "", *lines, "", "full-spike COMMAND --help tells the options"]
    )


def _look_up(argv: Sequence[str]) -> tuple[Callable[[list[str]], int], list[str]]:
    """(a command's main function, its arguments) of what was typed."""
    name, *rest = argv
    found = available()
    if name not in found:
        raise UsageError(f"there is no command {name!r}: choose one of {', '.join(found)}")
    command = found[name]
    module = command.module
    if "{}" in module:
        if not rest or rest[0] not in DATA_SETS:
            given = f"not {rest[0]!r}" if rest else "and nothing is given"
            raise UsageError(f"full-spike {name} takes a data set first, {given}: choose one of {', '.join(DATA_SETS)}")
        module = module.format(rest.pop(0))
    return importlib.import_module(module).main, [*command.added, *rest]


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:  # the shell asks; see `completion`
        from full_spike.utils.cli.completion import complete

        complete(available(), DATA_SETS)
    if not argv or argv[0] in ("-h", "--help"):
        print(listing())
        return 0

    def run() -> int:
        command, rest = _look_up(argv)
        return command(rest)

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())

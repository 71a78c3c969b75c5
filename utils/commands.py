"""One name for all commands: `full-spike train cifar --epochs 20` is `python -m cifar.train --epochs 20`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from full_spike.utils.data.dataset import DATA_SETS
from full_spike.utils.errors import UsageError, run_command

# command -> (module with its main function, help); train and test take a data set's name first
COMMANDS = {
    "train": ("{}.train", f"train a network: full-spike train {', '.join(DATA_SETS[:-1])} or {DATA_SETS[-1]}"),
    "test": ("{}.train", "evaluate what was trained, with the same words and options"),
    "report": ("utils.report", "a page about a run, or several side by side"),
    "plots": ("utils.plots", "learning curves and firing rates of a run as pictures"),
    "synops": ("utils.synops", "count synaptic operations and energy"),
    "certify": ("utils.fullspike", "certify that only spikes enter weighted layers"),
    "export": ("utils.export.__main__", "write a trained network for another runtime"),
    "convert": ("utils.convert_checkpoint", "weights from one naming to another, and to .safetensors"),
    "make-shards": ("utils.make_shards", "pack images into shards: WebDataset's tars, or Parquet"),
    "predict": ("utils.predict", "the classes of images, and pictures of the spikes that they cause"),
}


def usage() -> str:
    """What `full-spike` alone prints."""
    lines = [f"  {name:<13}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: full-spike COMMAND [options]", "", *lines, "", "full-spike COMMAND --help lists the options"]
    )


def run(argv: Sequence[str]) -> int:
    """Run a command line, without the program's name; the status is that of the command."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name!r}: choose one of {', '.join(COMMANDS)}")
    module = COMMANDS[name][0]
    if "{}" in module:
        if not rest or rest[0] not in DATA_SETS:
            given = f"not {rest[0]!r}" if rest else "and nothing is given"
            raise UsageError(f"full-spike {name} takes a data set first, {given}: choose one of {', '.join(DATA_SETS)}")
        module = module.format(rest.pop(0))
    if name == "test":
        rest = ["--test-only", "--resume", "auto", *rest]
    return importlib.import_module(f"full_spike.{module}").main(rest)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())

"""From a command line to a finished run: what every data set's train.py calls.

The command line is read first and what a run needs imported after it: `--help` and a wrong option wait for nothing.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from full_spike.utils.data.dataset import DataOptions, LoadData
from full_spike.utils.errors import UserError, run_command
from full_spike.utils.runtime.parser import OptionsParser
from full_spike.utils.train.config import Config

if TYPE_CHECKING:
    from full_spike.utils.runtime.networks import TrainableNetworks


def make_parser(
    doc: str | None, data: type[DataOptions] = DataOptions, of_model: Mapping[str, Any] | None = None, **defaults: Any
) -> OptionsParser:
    """The options of a training script.

    Args:
        doc: the script's docstring: --help shows its first line, and those of its lines that are commands.
        data: the data set's options; the script is taken to be `train` in the package of this class.
        of_model: the default network's own defaults, for --help alone, which does not wait for networks to be imported.
        defaults: of options, in this script. Those of the network's options apply where it has them.
    """
    package = data.__module__.rpartition(".")[0]
    program = f"python -m {package}.train" if package and package != "utils.data" else None
    return OptionsParser(doc or "", Config, {"data": data}, program=program, shown=of_model, **defaults)


def main(
    parser: OptionsParser, data: LoadData | str, models: TrainableNetworks | str, argv: list[str] | None = None
) -> int:
    """Parse, run, and return the exit status.

    Args:
        parser: from `make_parser`.
        data: makes the data sets; is told the data set's options, the processes and the time steps. Or the name of a
            module whose function `load` does.
        models: the module that builds the networks, or its name. Modules given by name are imported once the command
            line has been read.
    """
    return run_command(lambda: _main(parser, data, models, argv))


def _main(parser: OptionsParser, data: LoadData | str, models: TrainableNetworks | str, argv: list[str] | None) -> None:
    config = parser.parse(argv)
    load = importlib.import_module(data).load if isinstance(data, str) else data
    networks: Any = importlib.import_module(models) if isinstance(models, str) else models
    _start(config, parser, load, networks, lambda below: parser.parse(argv, below).resolved())


def _start(
    config: Config,
    parser: OptionsParser,
    load_data: LoadData,
    models: TrainableNetworks,
    parse: Callable[[Mapping[str, Any]], Config],
) -> None:
    """Train or test, as the options say; see `job.set_up`."""
    from full_spike.utils import distributed
    from full_spike.utils.checkpoints.resume import require_alike
    from full_spike.utils.cli import job, testing, training  # torch and all else that takes seconds to import
    from full_spike.utils.train.interrupts import stopping_at_once

    config = config.resolved()
    machines = config.machines
    assert machines.device is not None  # once resolved
    with stopping_at_once():
        world = distributed.start(
            machines.device, world_size=machines.world_size, dist_url=machines.dist_url, timeout=machines.dist_timeout
        )
        with distributed.explain_lost_peers(world), _explain_exhaustion():
            require_alike({f"options ({group})": values for group, values in config.alike().items()}, world)
            made = job.set_up(config, parser, load_data, models, world, parse)
            if config.testing.test_only:
                testing.test(made, models)
            else:
                training.train(made)
        distributed.stop(world)


@contextlib.contextmanager
def _explain_exhaustion() -> Iterator[None]:
    """Turn torch's errors of memory that ran out, which are pages long, into one line."""
    from full_spike.utils.runtime.memory import is_exhausted

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        raise UserError(
            "there is not enough memory for this run: take a smaller -b (and --accumulate batches), --memory-saving, "
            "a smaller --T or --width; the checkpoints of the run are untouched"
        ) from None

"""What a command line asks for: the network, its data, and the folder in which it is trained or tested."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from full_spike.utils.checkpoints import checkpoint
from full_spike.utils.cli.factory import create
from full_spike.utils.cli.given_weights import GivenWeights
from full_spike.utils.data.dataset import Datasets, LoadData
from full_spike.utils.data.loading import Loaders, make_loaders
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError
from full_spike.utils.log import RunLog
from full_spike.utils.runtime.allocator import keep_freed_memory
from full_spike.utils.runtime.memory import require
from full_spike.utils.runtime.networks import TrainableNetworks
from full_spike.utils.runtime.parser import OptionsParser
from full_spike.utils.seed import seed_everything
from full_spike.utils.train import folder, neighbours
from full_spike.utils.train.config import Config


@dataclass(frozen=True)
class Job:
    """What is to be trained or tested."""

    config: Config
    data: Datasets
    loaders: Loaders
    model: Any
    log: RunLog
    folder: Path
    beside: str  # in words: the runs in other folders, where this one has none and is to go on
    world: World
    script: str | None  # the module that was started, e.g. cifar.train
    given: GivenWeights
    begins: str  # in words: with which weights a new run does; nothing where they are random

    def about(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data, see `checkpoints.weights.ABOUT`."""
        of_script = {"data_set": self.script.split(".")[-2]} if self.script else {}
        return {**of_script, **self.data.about()}


def set_up(
    config: Config,
    parser: OptionsParser,
    load_data: LoadData,
    models: TrainableNetworks,
    world: World,
    parse: Callable[[Mapping[str, Any]], Config],
) -> Job:
    """Data, network and folder of a command.

    Args:
        config: what it asks for.
        parser: the script's.
        load_data, models: see `launch.main`.
        parse: the command once more, with other defaults.
        world: the processes.

    Raises:
        UserError: something is wrong with what was asked for, with the data, or with the machine.
    """
    if world.device.type == "cpu" and config.speed.keep_memory:
        keep_freed_memory()
    seed_everything(config.recipe.seed, world.rank)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # as released
    say, defaults = RunLog(world).say, parser.defaults
    given = GivenWeights(config, models, world)
    config = given.fill(config, parse)
    try:  # before the data, which may take long to prepare
        known = models.model_options(config.network.model)
    except ValueError as error:
        raise UsageError(str(error)) from None
    data = load_data(config.data, world, config.network.T)
    say(f"{len(data.train)} training and {len(data.test)} test {data.unit} of {data.num_classes} classes")
    if other := given.of_other_inputs(data.inputs):
        say(f"warning: the weights were trained on other inputs ({other})")
    options = {
        "num_classes": data.num_classes,
        "in_channels": data.in_channels,
        **config.network.options(known, defaults.network),
    }
    model = _build_model(config, options, models, world, say)
    begins = given.put_into(model)
    # its default is in every run's config.yaml, which is to be taken as it is
    if config.network.tau not in (None, known.get("tau")) and model.config.get("neuron") == "IF":
        raise UsageError(f"--tau {config.network.tau} does nothing: IF neurons have no time constant; leave it out")
    _check_memory(model, data, config.data.batch_size, world.device)
    known |= {name: value for name, value in vars(defaults.network).items() if value is not None}
    name = folder.run_name(config, model.config, defaults, known, prefix=data.name, of_data=data.words)
    path, beside = _find_folder(name, config.with_network(model.config), world, say)
    if data.grey and _was_read_in_colour(path, config, world):
        of_data: Any = config.data
        config = dataclasses.replace(config, data=dataclasses.replace(of_data, channels=3))
        return set_up(config, parser, load_data, models, world, parse)
    given.require(path, world)
    loaders = make_loaders(
        data.train,
        data.test,
        batch_size=config.data.batch_size,
        workers=config.data.workers,
        world=world,
        seed=config.recipe.seed,
        collate=data.collate,
        mix=data.mix,
    )
    script = parser.program.split()[-1] if parser.program else None
    config, log = config.with_network(model.config), RunLog(world, path)
    return Job(config, data, loaders, model, log, path, beside, world, script, given, begins)


def _find_folder(name: str, config: Config, world: World, say: Callable[[str], None]) -> tuple[Path, str]:
    """(the folder that a run is to go on in, what lies beside it in words); the same in every process."""
    path = Path(config.run.output_dir) / name
    found = [str(path), ""]
    if config.run.resume == "auto":
        with world.main_only("looking for the run") as main:
            if main and not checkpoint.candidates(path):
                there = neighbours.neighbours(path, config)
                same = neighbours.the_same_run(there, config, testing=config.testing.test_only)
                if same is not None:
                    say(f"no run in {path}: taking the one in {same.in_words()}")
                found = [str(same.folder), ""] if same is not None else [str(path), neighbours.in_words(there)]
        found = json.loads(world.share(json.dumps(found).encode()))
    return Path(found[0]), found[1]


def _was_read_in_colour(path: Path, config: Config, world: World) -> bool:
    """Whether the run that is to go on is of a time when grey images were read in colours as well."""
    if not config.run.resume:
        return False
    from_ = path if config.run.resume == "auto" else Path(config.run.resume).parent
    with world.main_only("looking for the run") as main:
        kept = neighbours.kept_options(from_) if main else None
    return world.share(b"yes" if kept is not None and "channels" not in kept else b"no") == b"yes"


def _build_model(
    config: Config, options: dict[str, Any], models: TrainableNetworks, world: World, say: Callable[[str], None]
) -> Any:
    """The network on its device."""
    name = config.network.model
    model = create(models, name, options, lambda warning: say(f"warning: {warning}"), world.device)
    layout: Any = torch.channels_last if config.speed.channels_last else torch.preserve_format
    model = model.to(world.device, memory_format=layout)
    model = models.save_memory(models.use_fused(model, config.speed.fused), config.speed.memory_saving)
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{name}: {parameters:,} parameters on {world.size} x {world.device.type}")
    return model


def _check_memory(model: Any, data: Datasets, batch_size: int, device: torch.device) -> None:
    """Refuse a run whose first spikes alone do not fit on the device: time steps and sizes multiply."""
    *steps, _, height, width = data.test[0][0].shape  # [C, H, W], or frames [T, C, H, W]
    T, channels = (*steps, model.config.get("T", 1))[0], model.config.get("width", 1)
    maps = max(1, height // 2) * max(1, width // 2)  # at least: some stems halve the resolution
    what = f"a batch of {batch_size} x {T} time steps x {channels} channels x {maps:,} neurons"
    require(4 * batch_size * T * channels * maps, device, what, "take a smaller -b, --T, --width or image")

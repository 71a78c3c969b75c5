"""Trained weights that a training script is given: to begin with (--initial-checkpoint), or to test (--resume FILE).

What the command does not say of the network, they do; to test them, of the data as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from full_spike.utils.checkpoints import checkpoint, resume
from full_spike.utils.checkpoints.weights import settings_of, weights_of
from full_spike.utils.cli.factory import check_size, outline, read_trained
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError, escaped
from full_spike.utils.runtime.networks import TrainableNetworks
from full_spike.utils.train.config import Config
from torch import nn

# options of the data that say how they are read, and not what they are
_READING = ("data_path", "batch_size", "workers", "cache_dataset", "download")


def _known(group: Any, said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the options of a group."""
    names = {field.name for field in dataclasses.fields(group)}.difference(_READING)
    return {name: value for name, value in said.items() if name in names and value is not None}


class GivenWeights:
    """What a command names, the same in every process: the main one reads.

    Args:
        config: what the command asks for.
        models: the module that builds networks.
        world: the processes.

    Raises:
        UserError: they are missing or damaged. Of a run that may go on with weights of its own, `require` says so.
    """

    def __init__(self, config: Config, models: TrainableNetworks, world: World) -> None:
        self._testing, self._models = config.testing.test_only, models
        wanted = config.run.resume if self._testing else config.recipe.initial_checkpoint
        self._failure: UserError | None = None
        self.found: tuple[Path, Any] | None = None
        if not wanted or (self._testing and wanted == "auto"):
            return

        def read() -> tuple[Path, Any] | None:
            try:
                path, content = read_trained(models, wanted, config.network.model)
                weights_of(path, content)
                return path, content
            except UserError as error:
                if self._testing or not config.run.resume:
                    raise
                self._failure = error
                return None

        self.found = resume.from_main(read, world)

    def require(self, folder: Path, world: World) -> None:
        """Raises the error of weights that cannot be read unless a run in this folder goes on without them."""
        with world.main_only("reading the weights") as main:
            if main and self._failure is not None and not checkpoint.candidates(folder):
                raise self._failure

    def fill(self, config: Config, parse: Callable[[Mapping[str, Any]], Config]) -> Config:
        """The configuration, with the weights' options of the network where the command gives none.

        Args:
            parse: the command once more, with these values in place of defaults.

        Raises:
            UsageError: the command names another network to train.
            UserError: the weights claim to be of a larger network than they are.
        """
        if self.found is None:
            return config
        path, content = self.found
        said, state = weights_of(path, content)
        if said is None:
            return config
        below = _known(config.network, said)
        try:
            filled = parse(below)
            if self._testing:  # on such data as they were trained on, unless the command names others
                data = _known(config.data, settings_of(path, content)[1])
                dataset = {name: data[name] for name in data if name == "dataset"}
                if not dataset or parse(below | dataset).data.dataset == dataset["dataset"]:  # type: ignore[attr-defined]
                    filled = parse(below | data)
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): use another one") from None
        network = filled.network
        if network.model != said["model"]:
            if self._testing:
                return config  # `set_weights` says what differs
            raise UsageError(f"{path} holds weights of {said['model']}: leave out --model {network.model}")
        options = {name: getattr(network, name, value) for name, value in said.items() if name != "model"}
        # a stranger may have written it: nothing much larger than the file is made; loading compares the rest
        check_size(path, outline(self._models, network.model, options), state, slack=2)
        return filled

    def of_other_inputs(self, inputs: Mapping[str, Any]) -> str:
        """In words, how the inputs that the weights were trained on differ from these; nothing where they are alike."""
        content = self.found[1] if self.found else {}
        then = content.get("inputs") if isinstance(content, Mapping) else None
        if not isinstance(then, Mapping):
            return ""
        different = [
            f"{name} {then[name]} instead of {inputs[name]}"
            for name in inputs
            if then.get(name, inputs[name]) != inputs[name]
        ]
        return escaped(", ".join(different))

    def put_into(self, model: Any) -> str:
        """Give a new network the weights that training is to begin with; in words, what there is to say of it.

        A classifier of another number of classes stays as it is.

        Raises:
            UserError: they do not fit.
        """
        if self._testing or self.found is None:
            return ""
        path, content = self.found
        then, state = weights_of(path, content)
        own, classes = model.state_dict(), model.config.get("num_classes")
        read, had = ((config or {}).get("in_channels") for config in (then, model.config))
        if read and read != had:
            raise UserError(
                f"the network of {path} reads {read} channels, and these data have {had}: begin with other weights, or "
                f"give data of {read} (a folder of images by --channels {read})"
            )
        heads = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
        kept = {
            name: value
            for name, value in own.items()
            if name.rpartition(".")[0] in heads and name in state and state[name].shape[:1] != (classes,)
        }
        try:
            self._models.load_published(model, {**state, **kept})
        except ValueError as error:
            raise UserError(f"--initial-checkpoint {path}: {error}") from None
        different = [f"{name}={value}" for name, value in (then or {}).items() if value != model.config.get(name)]
        return escaped(
            f"beginning with the weights of {path}"
            + (f"; trained with {', '.join(different)}" if different else "")
            + (f"; the classifier of {classes} classes begins with random ones" if kept else "")
        )

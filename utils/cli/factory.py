"""Networks for the command line: which module builds them, which one, and with which weights.

The arguments that say so are those of `arguments.add_network_arguments`.

`utils` knows no network. A command names the module that does (`--factory`, by default the package `models`); it
offers what `Networks` lists.
"""

from __future__ import annotations

import argparse
import importlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from full_spike.utils.checkpoints import checkpoint
from full_spike.utils.checkpoints.weights import check_config, set_weights, weights_of
from full_spike.utils.distributed import named_device
from full_spike.utils.errors import UsageError, UserError, warn
from full_spike.utils.runtime.memory import require
from full_spike.utils.runtime.networks import Networks
from torch import nn

OFFERS = tuple(name for name in vars(Networks) if not name.startswith("_"))


def load_factory(name: str) -> Networks:
    """The module of this name.

    Raises:
        UsageError: there is none, or it lacks a function.
    """
    try:
        factory: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--factory {name}: there is no module named {error.name}; run from the project's root"
        ) from None
    except (ValueError, TypeError):  # an empty name, a relative one
        raise UsageError(f"--factory {name!r} is no module: name one as Python's import does, e.g. models") from None
    missing = [offer for offer in OFFERS if not hasattr(factory, offer)]
    if missing:
        raise UsageError(f"--factory {name} has no {', '.join(missing)}: name a module that offers {', '.join(OFFERS)}")
    return factory


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except json.JSONDecodeError:
        return text


def _given_options(args: argparse.Namespace) -> dict[str, Any]:
    options = {name: getattr(args, name) for name in ("connect_f", "T", "num_classes")}
    for item in args.option:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise UsageError(f"--option {item} is not of the form NAME=VALUE")
        options[name] = _value(value)
    return {name: value for name, value in options.items() if value is not None}


def check_device(name: str) -> torch.device:
    """The device of this name; UsageError if it cannot be had."""
    device = named_device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} is not available: {str(error).splitlines()[0]}") from None
    return device


def create(
    factory: Networks,
    name: str,
    options: dict[str, Any],
    say: Callable[[str], None],
    device: torch.device | None = None,
) -> Any:
    """A network by name; `say` hears its warnings. It is made in the CPU's memory.

    Args:
        device: where it is to go: refused if its weights alone do not fit there.

    Raises:
        UsageError: the name or an option is wrong, or the network is too large.
    """
    needed = sum(x.numel() * x.element_size() for x in outline(factory, name, options).state_dict().values())
    require(needed, device or torch.device("cpu"), f"{name} with {_in_words(options)}", "make it narrower")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = factory.create_model(name, **options)
    for warning in caught:
        say(str(warning.message))
    return model


def _in_words(options: dict[str, Any]) -> str:
    return ", ".join(f"{option}={value!r}" for option, value in options.items())


def outline(factory: Networks, name: str, options: dict[str, Any]) -> Any:
    """A network whose tensors have shapes and no content, at no cost in memory; no random number is drawn.

    Raises:
        UsageError: the name or an option is wrong.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return factory.create_model(name, **options)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except (TypeError, OverflowError):
        raise UsageError(f"an option of {name} is of the wrong type or out of range: {_in_words(options)}") from None


def check_size(path: Path, expected: nn.Module, weights: dict[str, Any], slack: int = 1) -> None:
    """Raises UserError if a checkpoint names a network that is larger than so many times the weights that it holds."""
    asked, held = (sum(x.numel() for x in state.values()) for state in (expected.state_dict(), weights))
    if asked > slack * held:
        raise UserError(f"{path} names a network of {asked:,} numbers and holds {held:,}: use another checkpoint")


def read_trained(factory: Any, where: str | Path, model: str | None = None) -> tuple[Path, Any]:
    """(where they lie, what a checkpoint with them holds) of trained weights.

    Args:
        factory: the module that builds networks. If it offers `find_pretrained` and `read_pretrained`, weights have
            names, and may lie in folders.
        where: a name, a folder of `save_pretrained`, a .safetensors file, or a checkpoint, ours or published.
        model: the network, for a name that does not say it.

    Raises:
        UserError: there is no such thing, or it is damaged.
    """
    try:
        path = factory.find_pretrained(where, model) if hasattr(factory, "find_pretrained") else Path(where)
        if path.suffix != ".safetensors" and not (path.is_dir() and any(path.glob("*.safetensors"))):
            return path, checkpoint.load(path)
        if not hasattr(factory, "read_pretrained"):
            raise UserError(f"{path}: {factory.__name__} reads no .safetensors: name a checkpoint of torch")
        config, state = factory.read_pretrained(path)
        if not config:
            return path, {"model": state}
        known = {"model": config["model"], **factory.model_options(config["model"])}
    except ValueError as error:
        raise UserError(str(error)) from None
    options = {name: config.get(name, default) for name, default in known.items()}
    about = {name: value for name, value in config.items() if name not in known}
    return path, {**about, "format": dict(checkpoint.FORMAT), "config": options, "model": state}


def trained(args: argparse.Namespace) -> tuple[Path, Any]:
    """What the arguments name as the checkpoint, see `read_trained`; read once, since checkpoints are large."""
    if getattr(args, "read", None) is None:
        args.read = read_trained(load_factory(args.factory), args.checkpoint, args.model)
    return args.read


def build_network(args: argparse.Namespace) -> nn.Module:
    """The network that the arguments describe, in eval mode on its device, with its weights.

    What the command does not say, the checkpoint's own config does.

    Raises:
        UsageError: an argument is wrong.
        UserError: the checkpoint cannot be used.
    """
    factory = load_factory(args.factory)
    device = check_device(args.device)
    config: dict[str, Any] | None = None
    if args.ema and not args.checkpoint:
        raise UsageError("--ema takes the averaged weights of a checkpoint: name one by --checkpoint")
    if args.checkpoint:
        path, content = trained(args)
        config, weights = weights_of(path, content, averaged=args.ema)
    if args.model is None and not config:
        raise UsageError(f"{args.checkpoint} does not say which network it is of: name it with --model")
    options = dict(config) if config and args.model in (None, config.get("model")) else {"model": args.model}
    options = {**options, **_given_options(args)}
    name = options.pop("model")
    if config:  # which a stranger may have written: nothing larger than the file's own weights is made
        expected: Any = outline(factory, name, options)
        check_config(path, expected, config)
        check_size(path, expected, weights)
    torch.manual_seed(args.seed)
    model = create(factory, name, options, warn, device)
    if args.checkpoint:
        set_weights(path, content, model, factory.load_published, averaged=args.ema)
    return model.eval().to(device)

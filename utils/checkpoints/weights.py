"""The weights of a checkpoint, of this project or a published one, and of which network they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from full_spike.utils.checkpoints import checkpoint, schema
from full_spike.utils.errors import UsageError, UserError


def weights_of(path: Path, content: Any, *, averaged: bool = False) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """(the model's config, or None if the file is a published one; the state dict) of any checkpoint's content.

    Args:
        averaged: the state dict of the averaged weights.

    Raises:
        UserError: it is of a newer format, or holds no such weights; `path` is named.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint: use another file")
    if "format" in content:
        checkpoint.check_format(path, content["format"])
        checkpoint.check_content(path, content, schema.WEIGHTS)
        return content["config"], _averaged(path, content) if averaged else content["model"]
    if averaged:
        raise UserError(f"{path} is no checkpoint of this project, so it has no averaged weights: leave out --ema")
    state: Any = content.get("model", content.get("net", content))  # SEW-ResNet's CIFAR10-DVS code calls it net
    wrong = schema.weights(state)
    if wrong:
        raise UserError(
            f"{path} holds no weights (its state dict {wrong}): use a checkpoint of this project or a published one"
        )
    return None, state


def _averaged(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    found = content.get("ema")
    if found is None:
        raise UserError(f"{path} has no averaged weights: leave out --ema, or train with --ema-decay")
    wrong = schema.weights(found)
    if wrong:
        raise UserError(f"{path} is damaged ('ema' {wrong}): use another one")
    # torch's AveragedModel: the network below `module`, and a counter
    return {name.removeprefix("module."): value for name, value in found.items() if name.startswith("module.")}


def read_weights(path: Path, *, averaged: bool = False) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """`weights_of` a file; UserError also if it is missing or damaged."""
    return weights_of(path, checkpoint.load(path), averaged=averaged)


def settings_of(path: Path, content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the model's config, options of the run that saved it) of any checkpoint; empty where it has none, as published.

    Raises:
        UserError: it is damaged or of a newer format; `path` is named.
    """
    if not isinstance(content, dict) or "format" not in content:
        return {}, {}
    checkpoint.check_format(path, content["format"])
    checkpoint.check_content(path, content, schema.WEIGHTS)
    recipe = content.get("recipe", {})
    return content["config"], recipe if isinstance(recipe, dict) else {}


# what a checkpoint keeps of its data besides, for those who use the network; see `Datasets.about`
ABOUT = ("data_set", "classes", "inputs", "recipe")


def about_of(content: Any) -> dict[str, Any]:
    """What a checkpoint keeps of its data and of how it was trained, to be kept beside the same weights elsewhere."""
    return {name: content[name] for name in ABOUT if name in content} if isinstance(content, dict) else {}


def data_set_of(content: Any) -> str | None:
    """The folder of the data set that a checkpoint says it was trained on, e.g. imagenet; None where it says none."""
    name = content.get("data_set") if isinstance(content, dict) else None
    return name if isinstance(name, str) else None


def classes_of(content: Any) -> list[str]:
    """The names of the classes that a checkpoint keeps; empty where it keeps none."""
    names = content.get("classes") if isinstance(content, dict) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def check_config(path: Path, model: Any, config: dict[str, Any]) -> None:
    """Raises UsageError if a checkpoint with this config is of another network than the model."""
    ours = model.config
    names = [name for name in {**ours, **config} if ours.get(name) != config.get(name)]
    different = ", ".join(f"{name}={config.get(name)} instead of {ours.get(name)}" for name in names)
    if different:
        raise UsageError(f"{path} was saved from another network ({different}): give the same options as then")


def set_weights(
    path: Path,
    content: Any,
    model: Any,
    load_published: Callable[[Any, dict[str, Any]], None],
    *,
    averaged: bool = False,
) -> None:
    """Put the weights of any checkpoint's content into a model, all or nothing.

    Args:
        path: where the content is from: of a run, of weights alone, or published.
        load_published: of (model, state dict); ValueError, and no change, if it does not fit.
        averaged: take the averaged weights.

    Raises:
        UserError: it does not fit.
        UsageError: it was saved from another network; the options that differ are named.
    """
    config, state = weights_of(path, content, averaged=averaged)
    if config is not None:
        check_config(path, model, config)
    try:
        load_published(model, state)  # names of our own pass through it unchanged
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None

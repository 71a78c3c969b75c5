"""Models by name."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from .accumulation import SINGLES, detach_aap
from .choices import nearest
from .pretrained import Pretrained, list_pretrained, load_pretrained, read_pretrained
from .trunk import FeatureMaps

EntryPoint = Callable[..., nn.Module]

# name -> (function that builds the model, every option it takes with its default)
_MODELS: dict[str, tuple[EntryPoint, dict[str, Any]]] = {}


def register_model(
    entry_point: EntryPoint,
    *,
    name: str | None = None,
    trunk: Callable[..., nn.Module] | None = None,
    defaults: Mapping[str, Any] | None = None,
    single: str | None = None,
) -> EntryPoint:
    """Make a function that builds a model known by the function's name (usable as a decorator).

    Args:
        entry_point: its keyword-only parameters are the model's options.
        name: another name.
        trunk: where `entry_point` passes its **options on to; its keyword-only parameters are options too.
        defaults: of options, in place of those that the signatures have.
        single: of a network with a pathway, the name of the same without it: by default "fs..." of "ds...".

    Raises:
        ValueError: the name is taken.
    """
    name = name or entry_point.__name__
    if single is not None:
        SINGLES[name] = single
    if name in _MODELS:
        raise ValueError(f"a model named {name!r} is registered already: choose another name")
    sources = [source for source in (entry_point, trunk) if source is not None]
    parameters = [p for source in sources for p in inspect.signature(source).parameters.values()]
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    _MODELS[name] = (entry_point, {**options, **(defaults or {})})
    return entry_point


def register_family(
    variants: Iterable[int | str],
    *,
    trunk: Callable[..., nn.Module],
    defaults: Mapping[Any, Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Decorator: registers `family(variant, **options)` for each variant: family18 for a depth, family_7b for a name.

    Args:
        variants: depths or names.
        trunk, defaults: see `register_model`; defaults by variant.
    """

    def decorate(family: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for variant in variants:
            name = f"{family.__name__}{'' if isinstance(variant, int) else '_'}{variant}"
            register_model(
                functools.partial(family, variant), name=name, trunk=trunk, defaults=(defaults or {}).get(variant)
            )
        return family

    return decorate


def list_models(filter: str = "*", *, pretrained: bool = False) -> list[str]:
    """The names of registered models, sorted by family, then depth.

    Args:
        filter: a pattern, as "fsnn*".
        pretrained: only those of which weights come along.
    """
    shipped = {name for names in list_pretrained().values() for name in names}
    names = [name for name in fnmatch.filter(_MODELS, filter) if not pretrained or name in shipped]
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])


def _look_up(model: str) -> tuple[EntryPoint, dict[str, Any]]:
    if model not in _MODELS:
        close = difflib.get_close_matches(str(model).lower(), _MODELS, n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(f"model={model!r} is unknown: {hint}choose one of {', '.join(list_models())}")
    return _MODELS[model]


def model_options(model: str) -> dict[str, Any]:
    """The options of a model and their defaults.

    Raises:
        ValueError: no model has this name.
    """
    return dict(_look_up(model)[1])


def create_model(model: str, *, pretrained: Any = None, features_only: bool = False, **options: Any) -> nn.Module:
    """Build a model by name. Its `config` keeps the name and every option: `create_model(**config)` rebuilds it.

    Args:
        model: one of `list_models()`.
        pretrained: weights to load: True for those of this network that come along, or their name (`list_pretrained`);
            a folder of `save_pretrained`, a .safetensors file, or a checkpoint, ours or published; or what
            `read_pretrained` returns. Its options are the defaults. See `load_pretrained` for what may differ.
        features_only: return the maps of each stage instead of logits, see `FeatureMaps`; without the pathway.
        options: some of `model_options(model)`.

    Raises:
        ValueError: the name, an option or its value is unknown or out of range, or the weights do not fit.
    """
    entry_point, known = _look_up(model)
    found = None
    if pretrained is not None and pretrained is not False:
        found = pretrained if isinstance(pretrained, Pretrained) else read_pretrained(pretrained, model)
        options = {**{name: value for name, value in found.config.items() if name in known}, **options}
    for option in options:
        if option not in known:
            raise ValueError(f"{model} has no option {option!r}: it takes {', '.join(known)}{nearest(option, known)}")
    resolved = {**known, **options}
    network: Any = entry_point(**resolved)
    network.config = {"model": model, **resolved}
    if found is not None:
        load_pretrained(network, found)
    if features_only:
        return FeatureMaps(network if network.aap is None else detach_aap(network))
    return network

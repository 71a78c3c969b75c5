"""What a checkpoint must hold, checked as a whole before any of it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MOST_EPOCHS = 10**9  # epochs, and steps of one: more is damage

Check = Callable[[Any], str | None]  # what is wrong with a value, in words; None if nothing is


def _whole(lowest: int) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return f"is {_kind(value)}, not a whole number"
        return None if lowest <= value <= MOST_EPOCHS else f"is {value}, outside {lowest}..{MOST_EPOCHS}"

    return check


def _number(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"is {_kind(value)}, not a number"
    return None if math.isfinite(value) else f"is {value}"


def _mapping(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"is {_kind(value)}, not a dictionary"
    wrong = [key for key in value if not isinstance(key, str)]
    return f"has a name that is {_kind(wrong[0])}, not text" if wrong else None


def _config(value: Any) -> str | None:
    wrong = _mapping(value)
    return wrong or (None if isinstance(value.get("model"), str) else "names no model")


def tensor(value: Any, *, infinite: bool = False) -> str | None:
    """What makes a value unfit to be a weight or a buffer; None if nothing does.

    Args:
        infinite: whether it may hold infinities, as a variance does that has overflowed while the loss stayed finite.
    """
    if not isinstance(value, Tensor):
        return f"is {_kind(value)}, not a tensor"
    if value.layout is not torch.strided or value.is_complex() or value.is_quantized:
        return f"is a tensor of {str(value.dtype).removeprefix('torch.')} ({value.layout}), not of real numbers"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"claims {value.numel():,} numbers and holds fewer"
    if value.is_floating_point() and bool((value.isnan() if infinite else ~value.isfinite()).any()):
        return "holds numbers that are not finite"
    return None


def weights(value: Any) -> str | None:
    """What makes a value unfit to be a state dict; None if nothing does."""
    wrong = _mapping(value)
    if wrong:
        return wrong
    if not value:
        return "is empty"
    for name, item in value.items():
        found = tensor(item, infinite=name.endswith(("running_mean", "running_var")))
        if found:
            return f"has {name!r}, which {found}"
    return None


def _averaged(value: Any) -> str | None:
    return None if value is None else weights(value)


def _optimizer(value: Any) -> str | None:
    wrong = _mapping(value)
    if wrong:
        return wrong
    state, groups = value.get("state"), value.get("param_groups")
    if not isinstance(state, Mapping) or not isinstance(groups, list) or not groups:
        return "has no state or no groups of parameters"
    if not all(isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups):
        return "has a group without parameters"
    for index, entry in state.items():
        if not isinstance(entry, Mapping):
            return f"has a state {index!r} that is {_kind(entry)}"
        for name, item in entry.items():
            found = tensor(item) if isinstance(item, Tensor) else None
            if found:
                return f"has a state {index!r} whose {name!r} {found}"
    return None


def _sums(value: Any) -> str | None:
    found = tensor(value)
    if found:
        return found
    return None if value.ndim == 2 and value.shape[1] == 4 else f"has the shape {tuple(value.shape)}"


def _states(value: Any) -> str | None:
    good = isinstance(value, list) and value and all(isinstance(x, Tensor) and x.dtype is torch.uint8 for x in value)
    return None if good else "is no list of states, one for each process"


WEIGHTS: dict[str, Check] = {"config": _config, "model": weights}

RUN: dict[str, Check] = {
    **WEIGHTS,
    "optimizer": _optimizer,
    "lr_scheduler": _mapping,
    "scaler": _mapping,
    "ema": _averaged,
    "epoch": _whole(0),
    "step": _whole(0),
    "max_test_acc1": _number,
    "test_acc5_at_max_test_acc1": _number,
    "meter": _sums,
    "random_states": _states,
    "world_size": _whole(1),
    "recipe": _mapping,
}


def problem(content: Mapping[str, Any], schema: Mapping[str, Check]) -> str | None:
    """The first thing that is wrong with a checkpoint's content, e.g. "'epoch' is -5, outside 0..1000000000"."""
    for name, check in schema.items():
        if name not in content:
            return f"it has no {name!r}"
        wrong = check(content[name])
        if wrong:
            return f"{name!r} {wrong}"
    return None


def misfit(
    content: Mapping[str, Any], model: nn.Module, optimizer: Optimizer, schedule: Mapping[str, Any]
) -> str | None:
    """What of a run's checkpoint is not of this network, this optimizer or a schedule with this state, or None."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = [index for group in content["optimizer"]["param_groups"] for index in group["params"]]
    if saved != list(range(len(parameters))):
        return f"its optimizer has {len(saved)} parameters instead of {len(parameters)}"
    then, now = ([len(g["params"]) for g in x] for x in (content["optimizer"]["param_groups"], optimizer.param_groups))
    if then != now:
        return f"its optimizer has groups of {then} parameters instead of {now}"
    for index, entry in content["optimizer"]["state"].items():
        if not isinstance(index, int) or not 0 <= index < len(parameters):
            return f"its optimizer has a state {index!r} of no parameter"
        shape = parameters[index].shape
        for name, item in entry.items():
            if isinstance(item, Tensor) and item.ndim and item.shape != shape:
                return f"its optimizer's {name} {index} has the shape {tuple(item.shape)} instead of {tuple(shape)}"
    if _names(content["lr_scheduler"]) != _names(schedule):
        return "its schedule is another one"
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for what, prefix in (("model", ""), ("ema", "module.")):
        if content[what] is None:
            continue
        found = {
            name.removeprefix(prefix): tuple(value.shape)
            for name, value in content[what].items()
            if name.startswith(prefix)
        }
        wrong = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
        if wrong:
            had, has = found.get(wrong[0], "missing"), shapes.get(wrong[0], "nothing")
            return f"its {what}'s {wrong[0]} is {had} instead of {has}"
    return None


def _names(schedule: Any) -> Any:
    """What a schedule's state has values of; of one that is made of several, what each of them has."""
    if not isinstance(schedule, Mapping):
        return None
    parts = schedule.get("_schedulers", [])
    return set(schedule), [_names(part) for part in parts] if isinstance(parts, list) else None


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"

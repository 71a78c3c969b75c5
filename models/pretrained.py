"""Trained networks as folders: `model.safetensors` and `config.json`, the layout of the Hugging Face hub.

Some of them come along, below `weights/`, and have names. A path may also be a checkpoint, of this project or a
published one.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .published import load_published
from .tensors_file import read_tensors, write_tensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"
SHIPPED = Path(__file__).parent.parent / "weights"  # where it lies in the repository, and beside models/ once installed


def list_pretrained() -> dict[str, list[str]]:
    """The names of the weights that come along, each with the networks that it has weights of."""
    found: dict[str, list[str]] = {}
    for path in sorted(SHIPPED.glob(f"*/*/{WEIGHTS}")):
        found.setdefault(path.parts[-3], []).append(path.parts[-2])
    return found


def find_pretrained(where: str | os.PathLike[str], model: str | None = None) -> Path:
    """Where weights lie.

    Args:
        where: a name, as cifar10 or cifar10/fsnn18, or else a path.
        model: the network, for a name that does not say it.

    Raises:
        ValueError: it is neither, or there are none of this network.
    """
    shipped, (name, *rest) = list_pretrained(), os.fspath(where).split("/")
    if name in shipped and len(rest) < 2:
        of = rest[0] if rest else model
        if of not in shipped[name]:
            given = f", not {of}" if of else ""
            raise ValueError(f"{where} has weights of {', '.join(shipped[name])}: name one of these{given}")
        return SHIPPED / name / of
    path = Path(where)
    if not (path.exists() or path.suffix or rest):
        there = ", ".join(f"{name}/{of}" for name, networks in shipped.items() for of in networks)
        raise ValueError(
            f"there is no {where}, neither a file nor one of the weights that come along: {there or 'none'}"
        )
    return path


def save_pretrained(model: Any, folder: str | os.PathLike[str], about: Mapping[str, Any] | None = None) -> None:
    """Write a network of `create_model` as a folder from which `create_model(..., pretrained=folder)` has it again.

    Args:
        about: what else config.json is to say; `create_model` passes it over. The commands read the names of `classes`
            and, of `recipe`, the options of the data.

    Raises:
        OSError: the disk is full, or the folder not writable.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    config = {"library_name": "full-spike-aap", **model.config, **(about or {})}
    partial = path / f"{CONFIG}.partial"
    try:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_tensors(path / WEIGHTS, model.state_dict(), {"format": "pt"})
        os.replace(partial, path / CONFIG)
    finally:
        partial.unlink(missing_ok=True)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"there is no {path}, which says what network it is: name a folder of save_pretrained"
        ) from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no JSON: fetch it again") from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), str):
        raise ValueError(f"{path} names no model: use a folder of save_pretrained")
    return {name: value for name, value in config.items() if name != "library_name"}


def _load(path: Path) -> Any:
    """The content of a file that torch.save wrote, without running anything that it holds."""
    try:
        # a Namespace is how published checkpoints carry their command line
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no {path}: check the path") from None
    except pickle.UnpicklingError:
        raise ValueError(f"{path} holds what could run code, or is damaged: it is not loaded") from None
    except Exception as error:  # whatever a damaged file makes torch's readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason}): use another one") from None


def read_pretrained(
    where: str | os.PathLike[str], model: str | None = None
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """(the config of the network, or nothing where it is not known; the state dict) of a name, a folder or a file.

    Args:
        where, model: see `find_pretrained`.

    Raises:
        ValueError: it is damaged, or none of these.
    """
    path = find_pretrained(where, model)
    if path.is_dir():
        return _read_config(path / CONFIG), read_tensors(path / WEIGHTS)
    if path.suffix == ".safetensors":
        beside = path.with_name(CONFIG)
        return (_read_config(beside) if beside.is_file() else {}), read_tensors(path)
    content = _load(path)
    config = content.get("config") if isinstance(content, Mapping) else None
    return (dict(config) if isinstance(config, Mapping) else {}), content


def load_pretrained(model: Any, where: Any, config: Mapping[str, Any], state: Any) -> None:
    """Put what `read_pretrained` found into a model built for it.

    Raises:
        ValueError: it does not fit, or was saved from another network.
    """
    ours = model.config  # what else a config.json says is not of the network
    wrong = [f"{k}={v!r} instead of {ours[k]!r}" for k, v in config.items() if k in ours and ours[k] != v]
    if wrong:
        raise ValueError(f"{where} was saved from another network ({', '.join(wrong)}): create that one")
    try:
        load_published(model, state)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None

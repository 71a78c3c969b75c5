"""Trained weights: folders of `model.safetensors` and `config.json` (the Hugging Face hub's layout), and checkpoints.

Some come along, below `weights/`, and have names.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path, PosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .accumulation import without_pathway
from .published import from_published, load_published

WEIGHTS, CONFIG = "model.safetensors", "config.json"
LATEST = "checkpoint_latest.pth"  # in a run's folder
SHIPPED = Path(__file__).parent.parent / "weights"  # beside models/, in a checkout and once installed
AVERAGED = (
    "ema",
    "model_ema",
    "state_dict_ema",
)  # where checkpoints keep averaged weights: ours, torchvision's, timm's
# what others' checkpoints hold beside weights: command lines, paths, NumPy's numbers and arrays
_SCALAR, _ARRAY = (value.__reduce__()[0] for value in (np.float64(), np.zeros(1)))
HARMLESS = [
    argparse.Namespace, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in np.typecodes["All"] if code != "O"},
    *((PosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]  # fmt: skip
METADATA = ("data_set", "classes", "inputs", "recipe")  # what a checkpoint says of its data besides


class Pretrained(NamedTuple):
    """Trained weights as they were read.

    path: where they lie.
    config: what `create_model` was called with, empty where that is not known (published checkpoints).
    state: the state dict, in this project's or the published naming.
    metadata: of the data, for those who use the network: some of `METADATA`.
    content: all of a checkpoint.
    """

    path: Path
    config: dict[str, Any]
    state: Mapping[str, Any]
    metadata: dict[str, Any]
    content: Mapping[str, Any]


def list_pretrained() -> dict[str, list[str]]:
    """The names of the weights that come along, each with its networks: {"cifar10": ["dsnn18", "fsnn18", ...]}."""
    found: dict[str, list[str]] = {}
    for path in sorted(SHIPPED.glob(f"*/*/{WEIGHTS}")):
        found.setdefault(path.parts[-3], []).append(path.parts[-2])
    return found


def find_pretrained(where: str | os.PathLike[str], model: str | None = None) -> Path:
    """The folder or file of weights; of a run's folder, its newest checkpoint.

    Args:
        where: a name, as cifar10 or cifar10/fsnn18, or else a path.
        model: the network, for a name that does not say it.

    Raises:
        ValueError: there is no such path, or no weights of this network by that name.
    """
    shipped = list_pretrained()
    if where is True:
        where = next((name for name, networks in shipped.items() if model in networks), "")
        if not where:
            raise ValueError(f"no weights of {model} come along: name a folder or a checkpoint by pretrained=")
    name, *rest = os.fspath(where).split("/")
    if name in shipped and len(rest) < 2:
        network = rest[0] if rest else model
        if network not in shipped[name]:
            asked = f", not {network}" if network else ""
            raise ValueError(f"{where} has weights of {', '.join(shipped[name])}: name one of these{asked}")
        return SHIPPED / name / network
    path = Path(where)
    if not path.exists():
        names = ", ".join(f"{name}/{network}" for name, networks in shipped.items() for network in networks)
        raise ValueError(f"there is no {where}, neither a file nor weights that come along ({names}): check the path")
    return path / LATEST if (path / LATEST).is_file() else path


def save_pretrained(model: Any, folder: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a network of `create_model` as a folder from which `create_model(..., pretrained=folder)` has it again.

    Args:
        metadata: what else config.json says, see `METADATA`; the commands read it, `create_model` does not.

    Raises:
        OSError: the disk is full, or the folder not writable.
    """
    wrong = [k for k, v in model.config.items() if not isinstance(v, str | int | float | None)]
    if wrong:
        raise ValueError(f"{wrong[0]}={model.config[wrong[0]]!r} has no name to save: make it a row of its table")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    own = {"classes": list(model.classes), "inputs": dict(model.inputs)}
    own = {name: value for name, value in own.items() if value}
    config = {"library_name": "full-spike-aap", **model.config, **own, **(metadata or {})}
    partial = [path / f"{name}.partial" for name in (WEIGHTS, CONFIG)]
    try:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial[0], {"format": "pt"})
        partial[1].write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(partial[0], path / WEIGHTS)
        os.replace(partial[1], path / CONFIG)
    except SafetensorError as error:
        raise OSError(f"cannot write {path / WEIGHTS} ({error})") from None
    finally:
        for file in partial:
            file.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Any:
    """The content of a file that torch.save wrote: every stored checksum is verified, and nothing in it can run code.

    Raises:
        ValueError: the file is missing or damaged, or holds what could run code.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}: name a file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch's reader compares no checksums
                broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"checksum of {broken}")
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "weights_only" in str(error):
            raise ValueError(f"{path} is damaged, or holds what could run code: it is not loaded") from None
        raise ValueError(f"{path} is damaged or no checkpoint: use another one") from None
    except Exception as error:  # whatever a damaged file makes torch's and zipfile's readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason}): use another one") from None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no {path}, which names the network: use a folder of save_pretrained") from None
    except ValueError:
        raise ValueError(f"{path} is no JSON: fetch it again") from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), str):
        raise ValueError(f"{path} names no model: use a folder of save_pretrained")
    return config


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is missing, damaged or no .safetensors file ({error}): fetch it again") from None


def read_pretrained(where: str | os.PathLike[str], model: str | None = None, *, averaged: bool = False) -> Pretrained:
    """Trained weights of a name, a run's folder, one of `save_pretrained`, a .safetensors file or anyone's checkpoint.

    Args:
        where, model: see `find_pretrained`.
        averaged: the averaged weights of a checkpoint (of ours: with --ema-decay).

    Raises:
        ValueError: it is damaged, or holds no such weights.
    """
    path = find_pretrained(where, model)
    content: Any
    config: Mapping[str, Any]
    if path.is_dir() and (path / WEIGHTS).is_file():
        config, content = _read_config(path / CONFIG), {"model": _read_safetensors(path / WEIGHTS)}
    elif path.suffix == ".safetensors":
        beside = path.with_name(CONFIG)
        config, content = (_read_config(beside) if beside.is_file() else {}), {"model": _read_safetensors(path)}
    else:
        content = load_checkpoint(path)
        if not isinstance(content, Mapping):
            raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint: use another file")
        config = content.get("config") or {} if "format" in content else {}  # others keep what they like there
        if not isinstance(config, Mapping) or (config and not isinstance(config.get("model"), str)):
            raise ValueError(f"{path} names no model: use another checkpoint")
    if averaged:
        found = next((content[name] for name in AVERAGED if isinstance(content.get(name), Mapping)), None)
        if found is None:
            raise ValueError(f"{path} has no averaged weights: train with --ema-decay, or leave out --ema")
        # torch's AveragedModel: the network below `module`, and a counter
        state = {str(k).removeprefix("module."): v for k, v in found.items() if k != "n_averaged"}
    else:
        state = content.get("model") if "format" in content or config else content
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path} holds no weights: use another checkpoint")
    metadata = {name: value for name, value in {**config, **content}.items() if name in METADATA}
    return Pretrained(path, dict(config), state, metadata, content)


def load_pretrained(model: Any, found: Pretrained) -> list[str]:
    """Give a network of `create_model` trained weights, all or nothing.

    A classifier of another number of classes starts anew; a full-spike network takes the trunk of its
    dual-stream one; time steps, joins and neurons without parameters may differ.

    Returns:
        What differs from the network that was trained, e.g. ["T=2", "num_classes=10"].

    Raises:
        ValueError: the weights are of another network, or hold numbers that are not finite.
    """
    saved, name = found.config, model.config["model"]
    if saved and name not in (saved["model"], without_pathway(saved["model"])):
        raise ValueError(f"{found.path} was saved from another network, {saved['model']}: create that one, not {name}")
    try:
        state = from_published(model, found.state)
        if saved and saved["model"] != name:
            state = {key: value for key, value in state.items() if not key.startswith("aap.")}
        wrong = next((key for key, value in state.items() if _is_not_finite(key, value)), None)
        if wrong is not None:
            raise ValueError(f"{wrong} holds numbers that are not finite: use other weights")
        stem = next(f"{n}.weight" for n, m in model.named_modules() if m is model.stem_layer().conv)
        if isinstance(state.get(stem), torch.Tensor) and state[stem].ndim == 4:
            state[stem] = _for_channels(state[stem], model.in_channels)
        classes = model.config.get("num_classes")
        heads = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
        new = {
            key: value
            for key, value in model.state_dict().items()
            if key.rpartition(".")[0] in heads and key in state and len(state[key]) != classes
        }
        load_published(model, {**state, **new})
    except ValueError as error:
        raise ValueError(f"{found.path}: {error}") from None
    classes, inputs = found.metadata.get("classes", ()), found.metadata.get("inputs", {})
    model.classes = list(classes) if len(classes) == model.config.get("num_classes") else []
    model.inputs = dict(inputs) if len(inputs.get("mean", ())) == model.in_channels else {}
    return [f"{k}={v}" for k, v in saved.items() if k in model.config and k != "model" and v != model.config[k]]


def _for_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """The stem's weights [O, C, h, w] for another number of channels, as timm has it: summed for one, else repeated."""
    had = weight.shape[1]
    if channels == had:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.repeat(1, -(-channels // had), 1, 1)[:, :channels] * (had / channels)


def _is_not_finite(name: str, value: Any) -> bool:
    # a running variance may have overflowed while the loss stayed finite
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    statistics = name.endswith(("running_mean", "running_var"))
    return bool((value.isnan() if statistics else ~value.isfinite()).any())

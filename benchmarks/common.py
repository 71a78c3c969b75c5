"""What the benchmarks share: options, the stock network, interleaved timing and the table."""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import functional
from torch import nn

from models.neuron import FromRest

from .memory import keep_freed_memory


def parser(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """--device, --model, --batch-size, --size, --T, --repeats, --threads, with a benchmark's defaults."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--model", default="dsnn18")
    made.add_argument("--batch-size", type=int, default=4, help="images")
    made.add_argument("--size", type=int, default=112, help="height and width in pixels")
    made.add_argument("--T", type=int, default=4, help="time steps")
    made.add_argument("--repeats", type=int, default=5, help="rounds; in each, every side runs once")
    made.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    made.set_defaults(**defaults)
    return made


def stock(model: nn.Module) -> nn.Module:
    """A copy of the network with spikingjelly's own stateful nodes; `reset` has to follow each forward pass."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, FromRest):
            module.__class__ = type(module).__mro__[2]  # IFNode(FromRest, spikingjelly's IFNode)
    return copied


reset = functional.reset_net


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def compare(sides: dict[str, tuple[Callable[[], Any], bool]], repeats: int, device: torch.device) -> dict[str, float]:
    """Time the sides in turn, print a table, and return each one's median in seconds.

    Args:
        sides: name -> (what to time, whether freed memory is kept meanwhile). The first call of each is not timed
            with the others: it compiles.
    """
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {device}, torch {torch.__version__}")
    times: dict[str, list[float]] = {name: [] for name in sides}
    first = {}
    for round_ in range(-1, repeats):
        for name, (side, keep) in sides.items():
            if device.type == "cpu":
                keep_freed_memory(keep)
                if keep and round_ >= 0:
                    side()  # the other sides may have given memory back: fault it in again untimed
            _finish(device)
            began = time.perf_counter()
            side()
            _finish(device)
            elapsed = time.perf_counter() - began
            if round_ < 0:
                first[name] = elapsed
            else:
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'':32}{'median':>10}{'min':>10}{'max':>10}{'first':>10}   ms")
    for name, values in times.items():
        figures = (medians[name], min(values), max(values), first[name])
        print(f"{name:32}" + "".join(f"{1000 * figure:10.1f}" for figure in figures))
    return medians

"""Random streams: one seed gives every process, epoch and sample its own, the same in each rerun."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def derive(*numbers: int) -> int:
    """A seed in [0, 2^63) from some numbers, e.g. (seed, epoch, index): near tuples give unrelated seeds.

    The mixing step is splitmix64's (Steele, Lea & Flood, OOPSLA 2014). The low 32 bits are mixed as well as the high
    ones, which matters since torch's CPU generator takes no more than those.
    """
    state = 0
    for number in numbers:
        state = (state + (number & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


@contextlib.contextmanager
def drawing_from(*numbers: int) -> Iterator[None]:
    """Inside, torch's CPU generator draws from the stream of some numbers; after it, it goes on where it was."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(derive(*numbers))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices), differently in each process."""
    value = derive(seed, rank)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.manual_seed(value)


def get_rng_state(device: torch.device) -> Tensor:
    """The states of all generators of this process as one uint8 tensor on the CPU, of the same length in each."""
    _version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    numbers = np.array([*words, -1 if gauss is None else 0, position, has_gauss], dtype=np.int64)
    floats = np.array([0.0 if gauss is None else gauss, cached], dtype=np.float64)
    parts = [
        torch.from_numpy(numbers).view(torch.uint8),
        torch.from_numpy(floats).view(torch.uint8),
        torch.from_numpy(np.asarray(keys, dtype=np.uint32).copy()).view(torch.uint8),
        torch.get_rng_state(),
    ]
    if device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(device))
    return torch.cat(parts)


def set_rng_state(state: Tensor, device: torch.device) -> None:
    """Undo `get_rng_state`. A state saved on another kind of device restores what both have."""
    words = len(random.getstate()[1])
    sizes = [8 * (words + 3), 8 * 2, 4 * 624, len(torch.get_rng_state())]
    if len(state) < sum(sizes):
        raise ValueError(f"a random state of {len(state)} bytes is too short: {sum(sizes)} are needed")
    numbers_, floats_, keys, cpu, cuda = torch.split(state, [*sizes, len(state) - sum(sizes)])
    numbers = numbers_.clone().view(torch.int64).tolist()
    floats = floats_.clone().view(torch.float64).tolist()
    gauss = None if numbers[words] == -1 else floats[0]
    random.setstate((3, tuple(numbers[:words]), gauss))
    np.random.set_state(
        ("MT19937", keys.clone().view(torch.uint8).numpy().view(np.uint32), numbers[-2], numbers[-1], floats[1])
    )
    torch.set_rng_state(cpu.clone())
    if device.type == "cuda" and len(cuda):
        torch.cuda.set_rng_state(cuda.clone(), device)

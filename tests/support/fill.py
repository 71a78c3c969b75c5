"""Deterministic weights and inputs: the rule that the goldens were computed with.

Every tensor is a function of its published state-dict key and shape alone.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDENS = Path(__file__).parent.parent / "goldens"


def fill(key, shape, shift=0.4):
    """Values of one tensor of the published state dict, float64; shift: the mean of norms' shifts and of biases."""
    rng = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    shape = tuple(shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    z = rng.standard_normal(shape)
    if key.endswith("running_mean"):
        return 0.05 * z
    if key.endswith("running_var"):
        return 0.5 + 0.1 * np.abs(z)
    if len(shape) == 4:  # convolution [out, in / groups, kh, kw]; He's rule, fan_out of one channel if depthwise
        fan_out = shape[2] * shape[3] * (1 if shape[1] == 1 else shape[0])
        return z * np.sqrt(2.0 / fan_out)
    if len(shape) in (2, 3):  # linear [out, in], or a 1x1 convolution over tokens [out, in, 1]
        return z / np.sqrt(shape[1])
    if key.endswith("weight"):  # batch norm's scale
        return 1.0 + 0.1 * z
    return shift + 0.1 * z  # batch norm's shift, linear bias


def probe(key, shape):
    """A fixed direction for one tensor, float64: their product sees a sign and a permutation, a norm doesn't."""
    rng = np.random.RandomState(zlib.crc32(f"probe of {key}".encode()) & 0x7FFFFFFF)
    return torch.from_numpy(np.asarray(rng.standard_normal(tuple(shape))))


def published_state(model):
    """The filled state dict of `keys_<model>.json`, under its published names."""
    keys = json.loads((GOLDENS / f"keys_{model}.json").read_text())
    return filled(keys)


def filled(keys, shift=0.4):
    """A state dict of these names and shapes."""
    return {key: torch.from_numpy(np.asarray(fill(key, shape, shift))) for key, shape in keys.items()}


def images(batch=2, size=64):
    """[batch, 3, size, size], float64."""
    return torch.from_numpy(np.random.RandomState(7).standard_normal((batch, 3, size, size)))


def frames(batch=2, T=4, size=128):
    """Event counts [T, batch, 2, size, size], float64."""
    return torch.from_numpy(np.random.RandomState(11).poisson(0.4, (T, batch, 2, size, size)).astype(np.float64))


def targets(batch=2):
    return torch.arange(3, 3 + batch)

"""The grey and colour levels of a folder's images: whether there are colours, means and standard deviations."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from full_spike.utils.data.images.folder import load_image
from full_spike.utils.data.images.listing import ImageIndex
from full_spike.utils.data.images.options import KNOWN, MEASURED, FolderOptions
from full_spike.utils.data.prepared import KeepAlive, digest, read_json, write_json
from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError
from full_spike.utils.files import cache_home
from full_spike.utils.log import RunLog
from PIL import Image

LOOKED_AT = 200  # images, to see whether they are grey
MEASURED_ON = 10_000  # images
DIGITS = 6  # that a mean is kept with: what is measured is the same wherever it is measured

Levels = tuple[tuple[float, ...], tuple[float, ...]]  # channel means and standard deviations of pixels in [0, 1]


def _spread(index: ImageIndex, most: int) -> list[str]:
    """Paths of at most so many images, evenly over all."""
    count = min(most, len(index))
    return [index.path(i * len(index) // count) for i in range(count)]


def are_grey(index: ImageIndex, keep_alive: Callable[[], None] = lambda: None) -> bool:
    """Whether images have no colours, whatever their files could hold; some of them, evenly over all, are looked at."""
    for path in _spread(index, LOOKED_AT):
        pixels = np.asarray(load_image(path))  # [H, W, 3]
        if (pixels != pixels[..., :1]).any():
            return False
        keep_alive()
    return True


def measure(index: ImageIndex, channels: int, keep_alive: Callable[[], None] = lambda: None) -> Levels:
    """Means and standard deviations by channel over the pixels of images; each image weighs as much as another.

    Args:
        index: the training images; of more than 10,000 so many, evenly over all.
        channels: 1 or 3.
        keep_alive: called again and again while it works.
    """
    sums = np.zeros((2, channels))
    paths = _spread(index, MEASURED_ON)
    for path in paths:
        image: Image.Image = load_image(path)
        pixels = (
            np.asarray(image if channels == 3 else image.convert("L"), dtype=np.float64).reshape(-1, channels) / 255.0
        )
        sums += pixels.mean(axis=0), (pixels**2).mean(axis=0)
        keep_alive()
    mean, square = sums / len(paths)
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    if not std.all():
        raise UserError(f"the images of {index.root} are all of one level: there is nothing to tell apart")
    return tuple(np.round(mean, DIGITS).tolist()), tuple(np.round(std, DIGITS).tolist())


def _measure_once(
    index: ImageIndex, channels: int, keep_alive: Callable[[], None], say: Callable[[str], None]
) -> Levels:
    """`measure`, kept below ~/.cache for the same images."""
    path = cache_home() / f"levels-{digest([str(index.root.resolve()), index.fingerprint(), channels])[:16]}.json"
    try:
        kept = read_json(path)
        return tuple(kept["mean"]), tuple(kept["std"])
    except UserError:
        mean, std = measure(index, channels, keep_alive)
    say(f"images of {index.root}: mean {_in_words(mean)}, standard deviation {_in_words(std)}, measured")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"mean": list(mean), "std": list(std)})
    except OSError as error:
        say(f"warning: cannot keep them in {path} ({error.strerror}): they are measured at each start")
    return mean, std


def _in_words(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def look_at(index: ImageIndex, options: FolderOptions, default: str, world: World) -> tuple[int, Levels]:
    """(channels, means and standard deviations) that a folder's images are read with; the same in all processes.

    Args:
        index: the training images.
        options: what was asked for; where that is nothing, colours are normalised as `default`, and grey as measured.
        world: the processes, all of which call this; the main one looks.
    """
    letter = b""
    with world.main_only(f"looking at the images of {index.root}") as main:
        if main:
            keep_alive = KeepAlive(world)
            channels = options.channels or (1 if are_grey(index, keep_alive) else 3)
            mean, std = _levels(index, options, channels, default, world, keep_alive)
            letter = json.dumps([channels, mean, std]).encode()
    channels, mean, std = json.loads(world.share(letter))
    return channels, (tuple(mean), tuple(std))


def _levels(
    index: ImageIndex, options: FolderOptions, channels: int, default: str, world: World, keep_alive: Callable[[], None]
) -> Levels:
    name = options.mean or options.std or (default if channels == 3 else MEASURED)
    if name == MEASURED:
        return _measure_once(index, channels, keep_alive, RunLog(world).say)
    if name in KNOWN:
        mean, std = KNOWN[name]
        return (mean, std) if channels == 3 else ((float(np.mean(mean)),), (float(np.mean(std)),))
    numbers = options.numbers()
    assert numbers is not None  # what is no name is numbers
    for flag, values in zip(("--mean", "--std"), numbers, strict=True):
        if len(values) not in (1, channels):
            raise UserError(f"{flag} has {len(values)} numbers and the images {channels} channels: give one for each")
    return numbers[0] * (channels // len(numbers[0])), numbers[1] * (channels // len(numbers[1]))

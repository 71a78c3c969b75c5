"""Small images in memory, as one tensor: cropped, flipped, normalised and erased by the batch, on the device.

Every sample draws what torchvision's transforms would draw from its stream, so a batch is, bit for bit, the one that
these make of it image by image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms import v2

from full_spike.utils.distributed import World
from full_spike.utils.log import RunLog
from full_spike.utils.seed import derive, drawing_from, first_words

LIMIT = 512 << 20  # numbers that a set in memory may have: 170,000 images of 32x32
TOGETHER = 8192  # samples whose changes are drawn at once


@dataclass(frozen=True)
class Kept:
    """A transform of images that may be kept in memory after its first part, which is always the same.

    Attributes:
        fit: PIL image -> [C, side, side].
        then: of one such image; for many it is what follows.
        numbers: of one such image.
        normalise: of some.
        padding: with 0 at each side before a v2.RandomCrop, in pixels; 0: no crop.
        flips: how often there is a v2.RandomHorizontalFlip.
        erasing: after normalisation.
    """

    fit: Callable[[Any], Tensor]
    then: Callable[[Tensor], Tensor]
    numbers: int
    normalise: Callable[[Tensor], Tensor]
    padding: int = 0
    flips: float = 0.0
    erasing: v2.RandomErasing | None = None

    def __call__(self, image: Any) -> Tensor:
        return self.then(self.fit(image))

    def draw(self, seeds: np.ndarray) -> Tensor:
        """Each crop's top and left and whether it is flipped, from the stream of its seed [N]: [N, 3]."""
        drawn = np.zeros((3, len(seeds)), dtype=np.int64)
        words = iter(first_words(seeds, 3))
        if self.padding:
            drawn[0], drawn[1] = (next(words) % (2 * self.padding + 1) for _ in range(2))  # as torch.randint
        if self.flips:
            drawn[2] = next(words) % 2**24 < self.flips * 2**24  # as torch.rand(1) < flips
        return torch.from_numpy(drawn.T.copy())

    def change(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Crop, flip and normalise images [N, C, side, side] as drawn for them [N, 3]."""
        side, (top, left, flipped) = images.shape[-1], drawn.unbind(1)
        if self.padding:
            windows = F.pad(images, [self.padding] * 4).unfold(2, side, 1).unfold(3, side, 1)  # [N, C, y, x, H, W]
            images = windows[torch.arange(len(images), device=images.device), :, top, left]
        if self.flips:
            images = torch.where(flipped.bool()[:, None, None, None], images.flip(-1), images)
        return self.normalise(images)

    def erase(self, image: Tensor) -> None:
        """Erase of one image [C, side, side] what is to be, drawing from torch's generator as `then` does."""
        torch.rand(2 * bool(self.padding) + bool(self.flips))  # drawn already
        if self.erasing is not None and torch.rand(1) < self.erasing.p:
            box = self.erasing.make_params([image])
            image[:, box["i"] : box["i"] + box["h"], box["j"] : box["j"] + box["w"]] = 0.0


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on the device, without waiting for it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


class InMemory:
    """Batches of a data set that is read once and kept on the device, with a `transform` that is `Kept`.

    Args:
        sampler: `EpochSampler` or `EvaluationSampler`.
        readers: threads to read the images with.
    """

    def __init__(self, dataset: Any, sampler: Any, batch_size: int, world: World, seed: int, readers: int) -> None:
        self.dataset, self.sampler, self.batch_size = dataset, sampler, batch_size
        self.world, self.seed, self.readers = world, seed, readers

    @cached_property
    def kept(self) -> tuple[Tensor, Tensor]:
        """All images [N, C, side, side] and their classes [N]."""
        fitted = copy.copy(self.dataset)
        fitted.transform = self.dataset.transform.fit
        parts = [range(len(fitted))[i : i + 256] for i in range(0, len(fitted), 256)]
        batches = []
        with (
            ThreadPoolExecutor(max(1, self.readers)) as pool,
            RunLog(self.world).progress("reading images", len(parts)) as progress,
            progress.waiting("to keep them in memory"),
        ):
            for batch in pool.map(lambda part: default_collate([fitted[i] for i in part]), parts):
                batches.append(batch)
                progress.advance()
        images, classes = (torch.cat(tensors).to(self.world.device) for tensors in zip(*batches, strict=True))
        return images, classes

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, classes = self.kept
        transform, epoch = self.dataset.transform, self.sampler.epoch
        order, step = self.sampler.order(), -(-TOGETHER // self.batch_size) * self.batch_size
        for start in range(0, len(order), step):
            some = order[start : start + step]
            drawn = transform.draw(derive(self.seed, epoch, some.numpy().astype(np.uint64)))
            there = sent(torch.cat([some[:, None], drawn], dim=1), self.world.device)
            for indices, rows in zip(some.split(self.batch_size), there.split(self.batch_size), strict=True):
                inputs = transform.change(images[rows[:, 0]], rows[:, 1:])
                if transform.erasing:
                    for image, index in zip(inputs, indices.tolist(), strict=True):
                        with drawing_from(self.seed, epoch, index):
                            transform.erase(image)
                yield inputs, classes[rows[:, 0]]

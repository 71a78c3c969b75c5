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

LIMIT = 512 << 20  # numbers that a set in memory may have: 170,000 images of 32x32 as bytes
TOGETHER = 8192  # samples whose changes are drawn at once
TRIES = 10  # of RandomErasing, to find a rectangle inside of the image


@dataclass(frozen=True)
class Changes:
    """What a batch of images [N, C, H, W] goes through: v2.RandomCrop after padding with 0, v2.RandomHorizontalFlip,
    normalisation, v2.RandomErasing.

    Attributes:
        normalise: of images.
        padding: pixels at each side; 0: no crop.
        flips, erasing: how often.
    """

    normalise: Callable[[Tensor], Tensor]
    padding: int = 0
    flips: float = 0.0
    erasing: float = 0.0

    def draw(self, seeds: np.ndarray, side: int) -> Tensor:
        """The changes of images of this side, each drawn from the stream of its seed [N].

        Returns:
            [N, 7]: the crop's top and left, whether it is flipped, the erased rectangle's top, left, bottom and right.
        """
        drawn = np.zeros((7, len(seeds)), dtype=np.int64)
        if not (self.padding or self.flips or self.erasing):
            return torch.from_numpy(drawn.T)
        words = iter(first_words(seeds, 4 + 2 * (TRIES + 1)))
        if self.padding:
            drawn[0], drawn[1] = (next(words) % (2 * self.padding + 1) for _ in range(2))  # as torch.randint does
        if self.flips:
            drawn[2] = _uniform(next(words)) < np.float32(self.flips)
        if self.erasing:
            searching = _uniform(next(words)) < np.float32(self.erasing)
            area, ratio = next(words), next(words)
            erasing = v2.RandomErasing()
            limits = torch.log(torch.tensor(erasing.ratio)).tolist()
            for _ in range(TRIES):
                top, left = next(words), next(words)  # or the next area and ratio, if this one does not fit
                pixels = side * side * _uniform(area, *erasing.scale).astype(np.float64)
                shape = torch.from_numpy(_uniform(ratio, *limits)).exp().double().numpy()
                height, width = (np.rint(np.sqrt(x)).astype(np.int64) for x in (pixels * shape, pixels / shape))
                fits = searching & (height < side) & (width < side)
                y, x = (at[fits] % (side + 1 - size[fits]) for at, size in ((top, height), (left, width)))
                drawn[3:, fits] = [y, x, y + height[fits], x + width[fits]]
                searching &= ~fits
                area, ratio = top, left
        return torch.from_numpy(drawn.T.copy())

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Images [N, C, H, W], not normalised yet, and what was drawn for them [N, 7]."""
        side = images.shape[-1]
        top, left, flipped, *box = drawn.unbind(1)
        if self.padding:
            windows = F.pad(images, [self.padding] * 4).unfold(2, side, 1).unfold(3, side, 1)  # [N, C, y, x, H, W]
            images = windows[torch.arange(len(images), device=images.device), :, top, left]
        if self.flips:
            images = torch.where(flipped.bool()[:, None, None, None], images.flip(-1), images)
        images = self.normalise(images)
        if self.erasing:
            place = torch.arange(side, device=images.device)
            upper, leftmost, lower, rightmost = (edge[:, None] for edge in box)
            rows, columns = (upper <= place) & (place < lower), (leftmost <= place) & (place < rightmost)  # [N, side]
            images = images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
        return images


def _uniform(words: np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """What torch makes of random words: float32 in [low, high)."""
    least, most = np.float32(low), np.float32(high)
    return ((words & 0xFFFFFF) / 2.0**24 * (most - least) + least).astype(np.float32)


@dataclass(frozen=True)
class Kept:
    """A transform of images that may be kept in memory after its first part, which is always the same.

    Attributes:
        fit: PIL image -> [C, side, side].
        then: of one such image, at random or not.
        together: the same for a batch of them.
        numbers: of one.
    """

    fit: Callable[[Any], Tensor]
    then: Callable[[Tensor], Tensor]
    together: Changes
    numbers: int

    def __call__(self, image: Any) -> Tensor:
        return self.then(self.fit(image))


class MemoryLoader:
    """Batches of a data set that is read once and kept on the device; they are made here, without other processes.

    Args:
        dataset: of (image, class), with a `transform` that is `Kept`.
        sampler: `EpochSampler` or `EvaluationSampler`.
        readers: threads to read the images with.
        mix: see `make_loaders`.
    """

    def __init__(
        self, dataset: Any, sampler: Any, batch_size: int, world: World, seed: int, readers: int, mix: Any = None
    ) -> None:
        self.dataset, self.sampler, self.batch_size = dataset, sampler, batch_size
        self.world, self.seed, self.readers, self.mix = world, seed, readers, mix

    @staticmethod
    def suits(dataset: Any) -> bool:
        """Whether a data set can be kept, and is small enough."""
        transform = getattr(dataset, "transform", None)
        return isinstance(transform, Kept) and len(dataset) * transform.numbers <= LIMIT

    @cached_property
    def kept(self) -> tuple[Tensor, Tensor]:
        """All images [N, C, H, W] and their classes [N]."""
        fitted = copy.copy(self.dataset)
        fitted.transform = self.dataset.transform.fit
        parts = [range(i, min(i + 256, len(fitted))) for i in range(0, len(fitted), 256)]
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
        epoch, together = self.sampler.epoch, self.dataset.transform.together
        order, step = self.sampler.order(), -(-TOGETHER // self.batch_size) * self.batch_size
        for start in range(0, len(order), step):
            some = order[start : start + step]
            seeds = derive(self.seed, epoch, some.numpy().astype(np.uint64))
            drawn = together.draw(seeds, images.shape[-1]).to(self.world.device)
            for index, changes in zip(some.split(self.batch_size), drawn.split(self.batch_size), strict=True):
                chosen = index.to(self.world.device)
                inputs, targets = together(images[chosen], changes), classes[chosen]
                if self.mix is not None:
                    with drawing_from(self.seed, epoch, *index.tolist()):
                        inputs, targets = self.mix(inputs, targets, epoch)
                yield inputs, targets

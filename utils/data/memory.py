"""Small images in memory, as one tensor: cropped, flipped, normalised and erased by the batch, on the device.

Each draws what torchvision's transforms would draw from its stream, so a batch is, bit for bit, the one that these make
of it image by image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms import v2

from full_spike.utils.distributed import World
from full_spike.utils.log import RunLog
from full_spike.utils.seed import derive, drawing_from

LIMIT = 512 << 20  # numbers of a set in memory: 170,000 images of 32x32


@dataclass(frozen=True)
class Kept:
    """A transform of images that may be kept in memory after its first part, which is always the same.

    Attributes:
        fit: PIL image -> [C, side, side], of so many numbers.
        then: of one such image: v2.RandomCrop after so much padding with 0, v2.RandomHorizontalFlip as often,
            `normalise`, `erasing`. `change` does that for many.
    """

    fit: Callable[[Any], Tensor]
    numbers: int
    then: Callable[[Tensor], Tensor]
    normalise: Callable[[Tensor], Tensor]
    padding: int = 0
    flips: float = 0.0
    erasing: v2.RandomErasing | None = None

    def __call__(self, image: Any) -> Tensor:
        return self.then(self.fit(image))

    def draw(self, image: Tensor) -> list[int]:
        """From torch's generator as `then` does: the crop's top and left, whether it is flipped, the rectangle."""
        corner = torch.randint(2 * self.padding + 1, (2,)).tolist() if self.padding else [0, 0]
        flipped = bool(self.flips and torch.rand(1) < self.flips)
        if self.erasing is None or torch.rand(1) >= self.erasing.p:
            return [*corner, flipped, 0, 0, 0, 0]
        box = self.erasing.make_params([image])
        return [*corner, flipped, box["i"], box["j"], box["i"] + box["h"], box["j"] + box["w"]]

    def change(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Images [N, C, side, side] as drawn for each [N, 7]."""
        side, device = images.shape[-1], images.device
        top, left, flipped, *box = drawn.unbind(1)
        if self.padding:
            windows = F.pad(images, [self.padding] * 4).unfold(2, side, 1).unfold(3, side, 1)  # [N, C, y, x, H, W]
            images = windows[torch.arange(len(images), device=device), :, top, left]
        if self.flips:
            images = torch.where(flipped[:, None, None, None] > 0, images.flip(-1), images)
        images = self.normalise(images)
        if self.erasing is not None:
            place, (y0, x0, y1, x1) = torch.arange(side, device=device), (edge[:, None] for edge in box)
            rows, columns = (y0 <= place) & (place < y1), (x0 <= place) & (place < x1)  # [N, side]
            images = images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)
        return images


@dataclass
class InMemory:
    """A data set with a `transform` that is `Kept`, read once, by some threads, and kept on the device."""

    dataset: Any
    world: World
    threads: int

    @cached_property
    def kept(self) -> tuple[Tensor, Tensor]:
        """All images [N, C, side, side] and their classes [N]."""
        fitted = copy.copy(self.dataset)
        fitted.transform = self.dataset.transform.fit
        parts = [range(len(fitted))[i : i + 256] for i in range(0, len(fitted), 256)]
        batches = []
        with (
            ThreadPoolExecutor(max(1, self.threads)) as pool,
            RunLog(self.world).progress("reading images", len(parts)) as progress,
            progress.waiting("to keep them in memory"),
        ):
            for batch in pool.map(lambda part: default_collate([fitted[i] for i in part]), parts):
                batches.append(batch)
                progress.advance()
        images, classes = (torch.cat(tensors).to(self.world.device) for tensors in zip(*batches, strict=True))
        return images, classes

    def batch(self, seed: int, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(inputs, classes) of some samples in an epoch."""
        (images, classes), transform = self.kept, self.dataset.transform
        rows = []
        with drawing_from(seed):  # which puts the stream of the process back once, and not for each sample
            for index in indices.tolist():
                torch.default_generator.manual_seed(derive(seed, epoch, index))
                rows.append([index, *transform.draw(images[0])])
        drawn = torch.tensor(rows, pin_memory=images.is_cuda).to(images.device, non_blocking=True)
        return transform.change(images[drawn[:, 0]], drawn[:, 1:]), classes[drawn[:, 0]]

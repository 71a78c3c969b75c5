"""Training images a second on one core, from files of JPEG and from memory: ours beside the released pipeline.

Without --data-path the photographs are made: noise of a photograph's spectrum, 500x375 pixels, quality 90.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import datasets, transforms
from torchvision.transforms import v2

from full_spike.cifar import data as cifar
from full_spike.cifar.train import make_parser as cifar_parser
from full_spike.imagenet import data as imagenet
from full_spike.imagenet.train import make_parser as imagenet_parser
from full_spike.utils.data import memory
from full_spike.utils.data.loading import make_loaders
from full_spike.utils.data.options import KNOWN
from full_spike.utils.distributed import World
from full_spike.utils.options import parse

from .common import Sides, compare, parser

RELEASED, REFERENCE, PIL, OURS = "released", "torchvision's reference", "--loader pil", "ours"
ONE_BY_ONE, IN_MEMORY = "32x32, one by one", "32x32, in memory"


def photograph(rng: np.random.Generator) -> Image.Image:
    """Noise whose amplitude falls with frequency as a photograph's does; about 90 KB as a JPEG."""
    frequency = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500))
    frequency[0, 0] = np.inf

    def noise(power: float) -> np.ndarray:
        waves = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
        found = np.fft.irfft2(waves / frequency**power, (375, 500))
        return found / found.std()

    light, u, v = noise(1.2), noise(1.6), noise(1.6)
    pixels = np.stack([light + 0.4 * u, light - 0.2 * (u + v), light + 0.4 * v], axis=-1)
    return Image.fromarray(np.clip(120 + 50 * pixels, 0, 255).astype(np.uint8))


def side(dataset: Any, limit: int = memory.LIMIT) -> Any:
    """A pass over a training set in batches of 64."""
    memory.LIMIT, kept = limit, memory.LIMIT
    loaders = make_loaders(dataset, dataset, batch_size=64, workers=0, world=World(), seed=0)
    memory.LIMIT = kept
    return lambda: sum(len(targets) for _, targets in loaders.train)


class Small(torch.utils.data.Dataset):
    """2,000 images of noise, 32x32."""

    images = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)

    def __init__(self, args: Namespace) -> None:
        self.transform = cifar.transforms(args, *KNOWN["cifar10"])[0]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), index % 10


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data-path", help="folder with train/ and val/")
    args = made.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.data_path is None:
            args.data_path, rng = folder, np.random.default_rng(0)
            for i in range(220):  # 200 to train on, in two classes, and some to test
                place = Path(folder, "train" if i < 200 else "val", str(i % 2))
                place.mkdir(parents=True, exist_ok=True)
                photograph(rng).save(place / f"{i}.jpg", quality=90)
        mean, std = map(list, KNOWN["imagenet"])
        begin: list[Any] = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()]
        whole = v2.Compose([*begin, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
        released = transforms.Compose(
            [
                transforms.RandomResizedCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )
        train = str(Path(args.data_path, "train"))
        sides: Sides = {
            RELEASED: (side(datasets.ImageFolder(train, released)), False),
            REFERENCE: (side(datasets.ImageFolder(train, whole)), False),
        }
        for name, loader in ((PIL, "pil"), (OURS, "torchvision")):
            options = parse(imagenet_parser(), ["--data-path", args.data_path, "--loader", loader])
            sides[name] = side(imagenet.load(options, World()).train), True
        small = Small(parse(cifar_parser(), ["--dataset", "cifar10"]))
        sides |= {ONE_BY_ONE: (side(small, 0), False), IN_MEMORY: (side(small), True)}
        count = len(datasets.ImageFolder(train))
        medians = compare(sides, f"training images: {count} JPEGs, {len(small)} of 32x32 pixels", args)
    for name, seconds in medians.items():
        print(f"{name:32}{(len(small) if '32x32' in name else count) / seconds:10.0f} images/s")
    print(
        f"ratio input released/ours {medians[RELEASED] / medians[OURS]:.2f} "
        f"reference/ours {medians[REFERENCE] / medians[OURS]:.2f} memory {medians[ONE_BY_ONE] / medians[IN_MEMORY]:.2f}"
    )


if __name__ == "__main__":
    main()

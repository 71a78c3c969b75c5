"""Made trees of real image files."""

import torch
from PIL import Image


def image_tree(root, classes=("cat", "dog"), splits=("train", "test"), count=3, size=(8, 8), suffix="jpg"):
    """`root/<split>/<class>/<i>.<suffix>`, noise; `count` images of each class in each split."""
    generator = torch.Generator().manual_seed(0)
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(root / split / name / f"{i}.{suffix}")
    return root


def imagenet_tree(root, count=10):
    """Three classes of ImageNet's names with `count` training and validation images each."""
    wnids = ("n01440764", "n01443537", "n01484850")
    return image_tree(root, wnids, ("train", "val"), count, size=(20, 24), suffix="JPEG")

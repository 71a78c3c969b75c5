"""What changes to images and mixing do."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from full_spike.cifar import data as cifar
from full_spike.cifar.data import Digits
from full_spike.imagenet import data as imagenet
from full_spike.utils.data.augment import mixing
from full_spike.utils.data.images import load_image
from full_spike.utils.data.options import AUTO_AUGMENT, KNOWN
from support.images import image_args, imagenet_tree

CIFAR10, IMAGENET = KNOWN["cifar10"], KNOWN["imagenet"]
MEAN, STD = IMAGENET


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A photograph's size and shape, in small."""
    return load_image(next(imagenet_tree(tmp_path_factory.mktemp("data"), count=1).rglob("*.JPEG")))


def pixels(image, mean, std, size=None, how="bilinear"):
    """An image as it is, perhaps resized, normalised."""
    if size is not None:
        image = v2.functional.resize(image, size, v2.InterpolationMode(how))
    found = v2.functional.pil_to_tensor(image).float() / 255
    return (found - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def draws(function, count=40):
    torch.manual_seed(0)
    return [function() for _ in range(count)]


# One image


@pytest.mark.parametrize("flips", [0.0, 0.2, 1.0])
def test_crops_can_be_left_out_and_images_are_flipped_as_often_as_asked(image, flips):
    train, test = cifar.transforms(image_args("cifar", crop=False, hflip=flips), *CIFAR10)
    plain = pixels(image, *CIFAR10)
    torch.testing.assert_close(test(image), plain)
    found = draws(lambda: train(image), 200)
    flipped = [torch.equal(x, test(image).flip(-1)) for x in found]
    assert all(f or torch.equal(x, test(image)) for f, x in zip(flipped, found, strict=True))
    assert abs(sum(flipped) / 200 - flips) < 0.1


@pytest.mark.parametrize("flips", [None, 0.0, 1.0])
def test_digits_are_flipped_only_when_asked(flips):
    digits, plain = (Digits(image_args("cifar", crop=False, hflip=x, image_size=8), train=True) for x in (flips, 0.0))
    image = plain[0][0]
    assert not torch.equal(image, image.flip(-1))
    assert all(torch.equal(digits[0][0], image.flip(-1) if flips else image) for _ in range(20))


@pytest.mark.parametrize("name", AUTO_AUGMENT)
def test_automatic_augmentation_of_photographs_and_digits(image, name):
    options = image_args("cifar", auto_augment=name, crop=False, hflip=0.0, image_size=8)
    photographs, _ = cifar.transforms(options, *CIFAR10)
    digits = Digits(options, train=True)
    of_files, _ = imagenet.transforms(image_args("imagenet", auto_augment=name, hflip=0.0), *IMAGENET)
    for draw, (mean, std) in (
        (lambda: photographs(image), CIFAR10),
        (lambda: digits[3][0], ([digits.mean], [digits.std])),
        (lambda: of_files(image), IMAGENET),
    ):
        found = torch.stack(draws(draw))
        assert len({x.numpy().tobytes() for x in found}) > 10
        values = 255 * (found * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None])
        assert -1e-3 < values.min() < values.max() < 255.001
        torch.testing.assert_close(values, values.round(), rtol=0, atol=1e-3)  # of 8 bits


def test_erasing_sets_a_rectangle_to_the_mean_colour(image):
    train, test = cifar.transforms(image_args("cifar", crop=False, hflip=0.0, random_erase=0.5), *CIFAR10)
    plain, erased = test(image), 0
    for found in draws(lambda: train(image), 100):
        inside = (found == 0).all(dim=0)  # [H, W]
        assert torch.equal(found[:, ~inside], plain[:, ~inside])
        if inside.any():
            rows, columns = inside.any(dim=1), inside.any(dim=0)
            assert torch.equal(inside, rows[:, None] & columns)
            erased += 1
    assert 30 < erased < 70


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_how_images_are_resized(image, how):
    options = f"--val-resize-size 16 --val-crop-size 16 --train-crop-size 16 --hflip 0 --interpolation {how}"
    train, test = imagenet.transforms(image_args("imagenet", options, train_crop_scale=1.0), *IMAGENET)
    square = image.crop((0, 0, 20, 20))  # a least share of 1 leaves nothing to crop
    for found in draws(lambda: train(square), 20):
        torch.testing.assert_close(found, pixels(square, MEAN, STD, [16, 16], how))
    expected = pixels(v2.functional.resize(image, 16, v2.InterpolationMode(how)), MEAN, STD)
    torch.testing.assert_close(test(image), v2.functional.center_crop(expected, [16, 16]))


# Mixing


def batch(count=16, classes=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.randint(0, classes, (count,), generator=generator)


def mix_of(mixup=0.0, cutmix=0.0, mixup_off_epoch=0):
    return mixing(SimpleNamespace(mixup=mixup, cutmix=cutmix, mixup_off_epoch=mixup_off_epoch), 5)


def own_share(targets, classes):
    """The share that an image has in its mixture, read off the targets where its partner is of another class."""
    rows = [i for i in range(len(classes)) if classes[i] != classes[i - 1]]
    (share,) = {round(targets[i, classes[i]].item(), 5) for i in rows}
    assert len(rows) > 3
    return share


def test_mixup_is_its_formula():
    """x <- s x + (1 - s) x', and the targets alike, the partner being the sample before; s is drawn for each batch."""
    images, classes = batch()
    mix = mix_of(mixup=1.0)
    shares = []
    for mixed, targets in draws(lambda: mix(images, classes, 0)):
        share = own_share(targets, classes)
        torch.testing.assert_close(mixed, share * images + (1 - share) * images.roll(1, 0), rtol=0, atol=1e-4)
        one_hot = F.one_hot(classes, 5).float()
        torch.testing.assert_close(targets, share * one_hot + (1 - share) * one_hot.roll(1, 0), rtol=0, atol=1e-5)
        shares.append(share)
    assert len(set(shares)) == 40
    assert min(shares) < 0.2 < 0.8 < max(shares)


def test_with_both_each_has_half_of_the_batches():
    images, classes = batch()
    mix = mix_of(mixup=1.0, cutmix=1.0)
    cut = [bool((mixed == images).any()) for mixed, _ in draws(lambda: mix(images, classes, 0), 100)]
    assert 30 < sum(cut) < 70


def test_mixing_ends():
    images, classes = batch()
    assert mix_of() is None
    mix = mix_of(mixup=1.0, mixup_off_epoch=3)
    assert mix(images, classes, 2)[1].shape == (16, 5)
    for epoch in (3, 4):
        same, targets = mix(images, classes, epoch)
        assert same is images
        assert targets is classes

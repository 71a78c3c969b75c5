"""Batches are functions of the seed, the epoch and the processes; they don't depend on who loads them."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from full_spike.cifar import data as cifar
from full_spike.imagenet import data as imagenet
from full_spike.utils.data.augment import mixing
from full_spike.utils.data.loading import EpochSampler, EvaluationSampler, make_loaders
from full_spike.utils.data.memory import InMemory
from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError
from full_spike.utils.seed import drawing_from
from support.images import image_args, image_tree, imagenet_tree

DATA_SETS = {
    "digits": ("cifar", None, "--image-size 8"),
    "folder": ("cifar", image_tree, "--dataset folder --image-size 16 --random-erase 0.5"),
    "imagenet": ("imagenet", imagenet_tree, "--train-crop-size 16"),
    "changed digits": ("cifar", None, "--image-size 8 --mixup 1 --cutmix 1 --aa autoaugment-svhn --hflip 1"),
    "mixed digits": ("cifar", None, "--image-size 16 --mixup 1 --cutmix 1 --hflip 0.3 --random-erase 0.7"),
    "digits as they are": ("cifar", None, "--image-size 4"),  # too small for a margin
    "mixed": ("imagenet", imagenet_tree, "--mixup 1 --cutmix 1 --aa randaugment --random-erase 0.5"),
}


def load(name, folder):
    data_set, make, options = DATA_SETS[name]
    args = image_args(data_set, options, data_path=make and str(make(folder)))
    return {"cifar": cifar, "imagenet": imagenet}[data_set].load(args, World())


def loaders_of(data, *, workers=0, world=None, batch_size=4):
    options = {"batch_size": batch_size, "seed": 0, "collate": data.collate, "mix": data.mix}
    return make_loaders(data.train, data.test, workers=workers, world=world or World(), **options)


def same(a, b):
    return all(torch.equal(x, y) for these, those in zip(a, b, strict=True) for x, y in zip(these, those, strict=True))


@pytest.mark.parametrize("name", DATA_SETS)
def test_batches_do_not_depend_on_how_loading_processes_are_started(tmp_path, monkeypatch, name):
    """Also not forked, as Python 3.14 starts them: all that they need can be sent to them."""
    data = load(name, tmp_path)
    found = []
    for workers in (0, 1):
        loaders = loaders_of(data, workers=workers)
        for loader in (loaders.train, loaders.test):
            loader.source.multiprocessing_context = "forkserver" if workers else None
            found.append(next(iter(loader)))
        monkeypatch.setattr("full_spike.utils.data.memory.LIMIT", 0)
    assert same(found[:2], found[2:])


@pytest.mark.parametrize("name", ["digits", "folder", "mixed digits", "digits as they are"])
def test_batches_made_in_memory_are_those_made_image_by_image(tmp_path, monkeypatch, name):
    """In any process, and from any batch on."""
    data = load(name, tmp_path)
    places = [(World(), 2), (World(1, 2), 0)]
    found = []
    for _ in range(2):
        batches = []
        for world, first in places:
            loaders = loaders_of(data, world=world, batch_size=5)
            loaders.sampler.start_at(3, first)
            batches += [*loaders.train, *loaders.test]
        found.append(batches)
        assert isinstance(loaders.train.source, InMemory) == (len(found) == 1)
        monkeypatch.setattr("full_spike.utils.data.memory.LIMIT", 0)
    assert same(*found)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_sample_is_trained_on_once_in_an_epoch_and_tested_once(size):
    worlds = [World(rank=rank, size=size) for rank in range(size)]
    shares = [list(EpochSampler(range(50), 4, world, seed=0)) for world in worlds]
    taken = [index for share in shares for _, index in share]
    assert set(taken) == set(range(50))
    assert len(taken) == size * -(-50 // size)  # filled up, so that all make as many steps
    together = [index for k in range(len(shares[0])) for share in shares for _, index in share[k : k + 1]]
    assert together[:50] == [index for _, index in EpochSampler(range(50), 4, World(), seed=0)]
    assert sorted(index for world in worlds for index in EvaluationSampler(range(50), world)) == list(range(50))


def test_an_empty_data_set_is_refused():
    data = TensorDataset(torch.zeros(2), torch.zeros(2))
    with pytest.raises(UserError, match="the test set holds no samples"):
        make_loaders(data, [], batch_size=2, workers=0, world=World(), seed=0)


class Samples(torch.utils.data.Dataset):
    """Of 50, number i is noise of its own around i, of class i % 5."""

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return torch.full((1, 4, 4), float(index)) + torch.rand(1, 4, 4), index % 5


BOTH = SimpleNamespace(mixup=1.0, cutmix=1.0, mixup_off_epoch=0)


def batches(*, epoch=0, first=0, seed=7, workers=0, world=None, mix=None):
    loaders = make_loaders(
        Samples(), Samples(), batch_size=8, workers=workers, world=world or World(), seed=seed, mix=mix
    )
    loaders.sampler.start_at(epoch, first)
    return [torch.cat([x.flatten(1), y.view(len(y), -1)], dim=1) for x, y in loaders.train]


@pytest.mark.parametrize("mix", [None, mixing(BOTH, 5)], ids=["plain", "mixed"])
def test_batches_depend_on_seed_epoch_and_samples_alone(mix):
    torch.manual_seed(0)
    whole = batches(epoch=2, mix=mix)
    assert [len(x) for x in whole] == [8] * 6 + [2]
    torch.manual_seed(1)
    assert same(batches(epoch=2, mix=mix), whole)
    assert same(batches(epoch=2, workers=2, mix=mix), whole)
    assert same(batches(epoch=2, first=4, workers=1, mix=mix), whole[4:])
    assert not same(batches(epoch=3, mix=mix), whole)
    assert not same(batches(epoch=2, seed=8, mix=mix), whole)
    ranks = [batches(epoch=2, world=World(rank=rank, size=2), mix=mix) for rank in range(2)]
    assert not any(same([a], [b]) for a, b in zip(*ranks, strict=True))


def test_loading_leaves_the_stream_of_the_process_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with drawing_from(1, 2):
        first = torch.rand(3)
    batches(mix=mixing(BOTH, 5))
    assert torch.equal(torch.get_rng_state(), before)
    with drawing_from(1, 2):
        assert torch.equal(torch.rand(3), first)


def test_test_batches_are_neither_changed_nor_mixed():
    changed = "--aa randaugment --random-erase 1 --hflip 1 --mixup 1"
    found = []
    for options in ("", changed):
        data = cifar.load(image_args("cifar", f"--image-size 8 {options}"), World())
        loaders = make_loaders(data.train, data.test, batch_size=8, workers=0, world=World(), seed=0, mix=data.mix)
        found.append(next(iter(loaders.test)))
    for ours, plain in zip(*found, strict=True):
        assert torch.equal(ours, plain)

"""From datasets to the batches of each process.

What a sample looks like in an epoch is a function of (seed, epoch, its index): neither the number of workers nor of
processes nor an interruption changes it. Which samples a batch holds is a function of (seed, epoch) and the number of
processes; how they are mixed, of (seed, epoch, which they are).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from full_spike.utils.data.memory import MemoryLoader
from full_spike.utils.distributed import World, end_with_parent
from full_spike.utils.errors import UserError
from full_spike.utils.seed import derive, drawing_from

Mix = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]  # (inputs, classes [N], epoch) -> (inputs, targets)


class SeededSamples(Dataset):
    """Draws every random number of a training sample, and of the mixing of a batch, from a generator of its own.

    Indexed by (epoch, index), which `EpochSampler` yields.

    Args:
        collate, mix: see `make_loaders`.
    """

    def __init__(self, dataset: Any, seed: int, collate: Callable | None = None, mix: Mix | None = None) -> None:
        self.dataset = dataset
        self.seed = seed
        self.collate = collate or default_collate
        self.mix = mix

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        with drawing_from(self.seed, epoch, index):
            return self.dataset[index]

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """A batch: what torch's loader asks for in place of a list of samples."""
        inputs, classes = self.collate([self[key] for key in keys])
        if self.mix is None:
            return inputs, classes
        epoch = keys[0][0]
        with drawing_from(self.seed, epoch, *(index for _, index in keys)):
            return self.mix(inputs, classes, epoch)


class EpochSampler(Sampler[tuple[int, int]]):
    """A process's share of an epoch's permutation, as (epoch, index), from any batch on.

    Processes take turns, so the union of their k-th batches is what one process with the whole batch would draw. Where
    the data don't divide evenly the first samples of the permutation fill up, so that all processes make as many steps.
    """

    def __init__(self, dataset: Sized, batch_size: int, world: World, seed: int) -> None:
        self.length = len(dataset)
        self.batch_size = batch_size
        self.world = world
        self.seed = seed
        self.epoch = 0
        self.first_batch = 0

    def start_at(self, epoch: int, first_batch: int = 0) -> None:
        """The epoch to draw next, and how many of its batches to leave out because they were trained on already."""
        self.epoch, self.first_batch = epoch, first_batch

    @property
    def share(self) -> int:
        """Samples of one process in a whole epoch."""
        return -(-self.length // self.world.size)

    @property
    def batches(self) -> int:
        """Batches of one process in a whole epoch; the last one may be smaller."""
        return -(-self.share // self.batch_size)

    def __len__(self) -> int:
        return max(0, self.share - self.first_batch * self.batch_size)

    def order(self) -> Tensor:
        """The indices of the samples that are left of the epoch."""
        generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator)
        order = order.repeat(-(-self.share * self.world.size // self.length))[: self.share * self.world.size]
        return order[self.world.rank :: self.world.size][self.first_batch * self.batch_size :]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, index) for index in self.order().tolist()])


class EvaluationSampler(Sampler[int]):
    """Every world-size-th sample, in order: over all processes each exactly once, none repeated to even out."""

    epoch = 0  # samples are always the same

    def __init__(self, dataset: Sized, world: World) -> None:
        self.indices = range(world.rank, len(dataset), world.size)

    def order(self) -> Tensor:
        """The indices of the samples."""
        return torch.tensor(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


def _start_worker(_worker: int) -> None:
    """A scheduler may signal every process of a job: workers must outlive the trainer's saving.

    SIGTERM is how Python ends a worker that is left over, too, so it is put off and not ignored.
    """
    end_with_parent()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))  # seconds; SIGALRM then kills


class Batches(Protocol):
    """Pairs of (inputs, targets), again at each iteration."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class Loaders(NamedTuple):
    """What a run reads its batches from."""

    train: Batches
    sampler: EpochSampler  # of the training loader
    test: Batches


def make_loaders(
    train: Any,
    test: Any,
    *,
    batch_size: int,
    workers: int,
    world: World,
    seed: int,
    collate: Callable | None = None,
    mix: Mix | None = None,
) -> Loaders:
    """Loaders over datasets of (input, class). Small images are kept in memory, and made into batches there.

    Args:
        batch_size: samples of one process in a batch.
        workers: loading processes of each process; 0 loads in the process itself. What is kept in memory is read once,
            by as many threads.
        collate: list of samples -> (input, classes [N]); by default inputs are stacked along a new first dimension.
        mix: makes of a training batch, and the epoch's number, one of the same shape with targets [N] or [N, classes].

    Raises:
        UserError: a dataset is empty.
    """
    for name, dataset in (("training", train), ("test", test)):
        if len(dataset) == 0:
            raise UserError(f"the {name} set holds no samples: check the data path")

    def loader(dataset: Any, sampler: Sampler, collate: Callable | None, *, persistent: bool) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=world.device.type == "cuda",
            persistent_workers=persistent and workers > 0,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # a loader would otherwise draw from the trainer's stream at each epoch
        )

    sampler, in_order = EpochSampler(train, batch_size, world, seed), EvaluationSampler(test, world)
    how = (batch_size, world, seed, workers)
    return Loaders(
        MemoryLoader(train, sampler, *how, mix)
        if MemoryLoader.suits(train)
        else loader(SeededSamples(train, seed, collate, mix), sampler, _no_collate, persistent=True),
        sampler,
        MemoryLoader(test, in_order, *how)
        if MemoryLoader.suits(test)
        # a test set's workers would be idle while the network is trained: they live for one evaluation
        else loader(test, in_order, collate, persistent=False),
    )


def _no_collate(batch: Any) -> Any:
    return batch

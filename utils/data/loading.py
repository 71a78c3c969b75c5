"""From datasets to the batches of each process.

What a sample looks like in an epoch is a function of (seed, epoch, its index): neither the number of workers nor of
processes nor an interruption changes it. Which samples a batch holds is a function of (seed, epoch) and the number of
processes; how they are mixed, of (seed, epoch, which they are).
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from full_spike.utils.allocator import keep_freed_memory
from full_spike.utils.data import memory
from full_spike.utils.data.augment import Halves
from full_spike.utils.data.memory import InMemory, Kept
from full_spike.utils.distributed import World, cores_of_each
from full_spike.utils.errors import UserError, end_with_parent
from full_spike.utils.seed import derive, drawing_from

Mix = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]  # (inputs, classes [N], epoch) -> (inputs, targets)


class SeededSamples(Dataset):
    """Draws every random number of a training sample from a generator of its own.

    Indexed by (epoch, index), which `EpochSampler` yields.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        with drawing_from(self.seed, epoch, index):
            return self.dataset[index]


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

    seed = epoch = 0  # samples are always the same

    def __init__(self, dataset: Sized, world: World) -> None:
        self.indices = torch.arange(world.rank, max(len(dataset), world.rank), world.size)

    def order(self) -> Tensor:
        """The indices of the samples."""
        return self.indices

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices.tolist())


def _start_worker(_worker: int) -> None:
    """A scheduler may signal every process of a job: workers must outlive the trainer's saving.

    SIGTERM is how Python ends a worker that is left over, too, so it is put off and not ignored.
    """
    end_with_parent()
    keep_freed_memory()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))  # seconds; SIGALRM then kills


@dataclass
class Batches:
    """Batches of a data set on the device, (inputs, targets), the same ones in each pass of an epoch.

    Args:
        source: (inputs, classes) in the order of the sampler, or what makes them of indices.
        finish: of inputs, on the device.
        mix: see `make_loaders`.
    """

    source: DataLoader | InMemory
    sampler: EpochSampler | EvaluationSampler
    batch_size: int
    device: torch.device
    finish: Callable[[Tensor], Tensor] | None
    mix: Mix | None

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        seed, epoch, source = self.sampler.seed, self.sampler.epoch, self.source
        parts = self.sampler.order().split(self.batch_size)[: len(self)]  # an empty order has a part as well
        made = (source.batch(seed, epoch, part) for part in parts) if isinstance(source, InMemory) else source
        for part, (inputs, targets) in zip(parts, made, strict=False):
            inputs, targets = inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
            if self.finish is not None:
                inputs = self.finish(inputs)
            if self.mix is not None:
                with drawing_from(seed, epoch, *part.tolist()):
                    inputs, targets = self.mix(inputs, targets, epoch)
            yield inputs, targets


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
    workers: int | None,
    world: World,
    seed: int,
    collate: Callable | None = None,
    mix: Mix | None = None,
) -> Loaders:
    """Loaders over datasets of (input, class). Small images are kept in memory, and made into batches there.

    Args:
        batch_size: samples of one process in a batch.
        workers: loading processes of each process, or threads that read what is kept in memory; 0: none, the process
            itself. By default as many as it has cores, but 16, and half of that to test.
        collate: list of samples -> (input, classes [N]); by default inputs are stacked along a new first dimension.
        mix: makes of a training batch, and the epoch's number, one of the same shape with targets [N] or [N, classes].

    Raises:
        UserError: a dataset is empty.
    """
    for name, dataset in (("training", train), ("test", test)):
        if len(dataset) == 0:
            raise UserError(f"the {name} set holds no samples: check the data path")

    most = min(cores_of_each(), 16)

    def batches(dataset: Any, sampler: Any, mix: Mix | None, count: int, *, again: bool) -> Batches:
        transform, finish = getattr(dataset, "transform", None), None
        if isinstance(transform, Kept) and len(dataset) * transform.numbers <= memory.LIMIT:
            return Batches(InMemory(dataset, world, count), sampler, batch_size, world.device, None, mix)
        if isinstance(transform, Halves):
            dataset, finish = copy.copy(dataset), transform.together
            dataset.transform = transform.alone
        loader = DataLoader(
            SeededSamples(dataset, seed) if again else dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=count,
            collate_fn=collate,
            pin_memory=world.device.type == "cuda",
            # a test set's workers would be idle while the network is trained: they live for one evaluation
            persistent_workers=again and count > 0,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # a loader would otherwise draw from the trainer's stream at each epoch
        )
        return Batches(loader, sampler, batch_size, world.device, finish, mix)

    sampler = EpochSampler(train, batch_size, world, seed)
    return Loaders(
        batches(train, sampler, mix, most if workers is None else workers, again=True),
        sampler,
        batches(test, EvaluationSampler(test, world), None, -(-most // 2) if workers is None else workers, again=False),
    )

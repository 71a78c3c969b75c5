"""When a run should save inside an epoch, and when it should stop: intervals and scheduler signals."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from full_spike.utils.distributed import Consensus, World
from full_spike.utils.errors import StopRequestedError
from full_spike.utils.options import interval

NOTHING, SAVE, STOP = 0, 1, 2  # ordered: of two requests the larger one counts

# What schedulers send before they take a machine: SLURM's --signal=USR1@120, Kubernetes' and torchrun's SIGTERM.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class _AskedToStopError(BaseException):
    """Comes from a signal at any place, so it must pass by whatever handles errors."""


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """A block with nothing to save, which a scheduler's signal ends: before training, or testing alone.

    Raises:
        StopRequestedError: a signal came.
    """
    with _handling(_stop_at_once, SIGNALS):
        try:
            yield
        except _AskedToStopError as stop:
            raise StopRequestedError(f"asked to stop by {stop} with nothing to save: start it again") from None


def _stop_at_once(number: int, _frame: FrameType | None) -> None:
    for name in SIGNALS:  # one is enough
        signal.signal(name, signal.SIG_IGN)
    raise _AskedToStopError(signal.Signals(number).name)


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], names: Sequence[signal.Signals]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread alone: a notebook or a web page has started this one
        return
    before = {name: signal.signal(name, handler) for name in names}
    try:
        yield
    finally:
        for name, previous in before.items():
            signal.signal(name, previous)


class Interrupts:
    """Decides after each optimizer step, alike in all processes, whether to go on, save, or save and stop.

    Args:
        world: the processes.
        checkpoint_every: an interval as --checkpoint-every has it, or None.
    """

    def __init__(self, world: World, checkpoint_every: str | None = None) -> None:
        self.world = world
        self.consensus = Consensus(world)
        self.unit, self.interval = interval(checkpoint_every) if checkpoint_every else ("steps", 0.0)
        self.received: signal.Signals | None = None
        self._saved_at = time.monotonic()
        self._steps = 0
        self._announced = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """A block in which signals, Ctrl-C included, are noted instead of ending the process; a second Ctrl-C does."""
        with _handling(self._note, (*SIGNALS, signal.SIGINT)):
            yield

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def after_step(self) -> int:
        """NOTHING, SAVE or STOP; the same in every process."""
        self._steps += 1
        request = NOTHING
        if self.world.is_main and self.interval and not self._announced:
            passed = self._steps if self.unit == "steps" else (time.monotonic() - self._saved_at) / 60.0
            if passed >= self.interval:
                request, self._announced = SAVE, True
        return self.consensus.exchange(STOP if self.received else request)

    def after_test_batch(self) -> int:
        """STOP where that was asked for, else NOTHING (or a SAVE of before, which the epoch's end does anyway)."""
        return self.consensus.exchange(STOP if self.received else NOTHING)

    def after_epoch(self) -> int:
        """As `after_step`, at an epoch's end, where nothing may stay under way."""
        return max(self.consensus.settle(), self.after_test_batch(), self.consensus.settle())

    def saved(self) -> None:
        """A checkpoint was written: the interval begins again."""
        self._saved_at = time.monotonic()
        self._steps = 0
        self._announced = False

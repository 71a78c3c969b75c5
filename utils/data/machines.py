"""Files that each machine of a run needs on disks of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError

ROUND = 1.0  # seconds between two looks at how far the others are
_DONE, _WORKING, _FAILED = range(3)


class _Work(threading.Thread):
    """Work beside the process's main thread, which answers the others meanwhile."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:  # raised again by who waits for it
            self.error = error

    @property
    def state(self) -> int:
        return _WORKING if self.is_alive() else _FAILED if self.error else _DONE


def on_machines_without(path: Path, world: World, what: str, work: Callable[[], None]) -> None:
    """Where a path is not there, let the first process of the machine make it, and the others wait as long as it takes.

    Args:
        path: looked for by every process; none does anything if all have it.
        world: the processes, all of which call this.
        what: the work, in words.
        work: makes the path; may find that another machine with the same disk has made it.

    Raises:
        UserError: it failed, here or elsewhere.
    """
    missing = not path.exists()
    if not any(bool(there) for there in world.gather(torch.tensor([missing]))):
        return
    worker = _Work(work)
    mine = missing and world.local_rank == 0
    if mine:
        worker.start()
    while True:
        told = worker.state if mine else _DONE
        states = [int(state) for state in world.gather(torch.tensor([told]))]
        if told == _FAILED and worker.error is not None:
            raise worker.error
        if _FAILED in states:
            time.sleep(2.0)  # the launcher ends all processes with the first one: the other says its error before
            raise UserError(f"{what} failed in process {states.index(_FAILED)}: its error says why")
        if _WORKING not in states:
            return
        time.sleep(ROUND)

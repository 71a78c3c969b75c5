"""One job for each run folder: a file in it says which job trains there.

The file is created exclusively, which network file systems can do (they may have no locks), and its holder renews its
time of change. A job that finds one is refused, unless the holder is known to be over. Should a holder that was only
suspended come back after another job has taken its place, it finds before it writes that the lease is not its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from full_spike.utils.cluster.holder import describe, is_over, is_process, this_process
from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError

NAME = "lease.json"
RENEWAL = 10.0  # seconds between two signs of life
_DYING = 3.0  # seconds that a process which was killed may take to be gone


@contextlib.contextmanager
def held(folder: Path, world: World) -> Iterator[Callable[[], None]]:
    """A block in which the run's folder, which is made if need be, belongs to this job.

    Yields a function that raises UserError where the folder has come to belong to another job; it does nothing but in
    the main process.

    Raises:
        UserError: another job holds it.
    """
    lease = None
    with world.main_only("taking the output folder") as main:
        if main:
            folder.mkdir(parents=True, exist_ok=True)
            lease = Lease(folder / NAME, world.keep_alive)
    try:
        yield lease.check if lease else lambda: None
    finally:
        if lease:
            lease.release()


class Lease:
    """Args:
        path: the file that says who holds it.
        keep_alive: called now and then while it is found out whether another holder is over.

    Raises:
        UserError: another job holds it, or the file is damaged.
    """

    def __init__(self, path: Path, keep_alive: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.holder = {**this_process(), "token": uuid.uuid4().hex}
        while not self._create():
            other = _read(path)
            if other is not None:
                self._wait_for_the_end_of(other, keep_alive)
                self._remove(other)  # if it is still there
        self._ended = threading.Event()
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()

    def check(self) -> None:
        """Raises UserError if the lease has gone to another job, or the file is missing."""
        holder = _read(self.path)
        if holder is None or holder["token"] != self.holder["token"]:
            now = describe(holder) if holder else "nobody: the file is gone"
            raise UserError(
                f"{self.path} was this job's and now names {now}; this job ends without writing to the folder, "
                "go on with --resume auto when no other job trains there"
            )

    def release(self) -> None:
        """Let other jobs have the folder."""
        self._ended.set()
        self._renewal.join()
        self._remove(self.holder)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL):
            with contextlib.suppress(OSError, UserError):
                self.check()
                os.utime(self.path)  # by the file server's clock

    def _create(self) -> bool:
        """Make the file with all of its content at once; False if there is one."""
        partial = self.path.with_name(f"{NAME}.{self.holder['token']}")
        try:
            with open(partial, "x", encoding="utf-8") as file:
                json.dump(self.holder, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(partial, self.path)
            except FileExistsError:
                return os.stat(partial).st_nlink == 2  # it was made, and the server's answer was lost
            except OSError:  # a file system without hard links
                return _write_new(self.path, self.holder)
            return True
        finally:
            partial.unlink(missing_ok=True)

    def _wait_for_the_end_of(self, other: dict[str, Any], keep_alive: Callable[[], None]) -> None:
        """Return when the holder is known to be over, at once or after watching it; UserError if it is not."""
        began, seen = time.monotonic(), _changed(self.path)
        here = other["host"] == self.holder["host"]
        # the same job, which SLURM or torchrun started again on another machine: its predecessor is over if it gives
        # no more signs of life
        watched = not here and other["job"] != "" and other["job"] == self.holder["job"]
        patience = 3 * RENEWAL if watched else _DYING if here else 0.0
        while not is_over(other, self.holder):
            now = _changed(self.path)
            too_long = time.monotonic() - began >= patience
            if now is None or (watched and now == seen and too_long):
                return
            if now != seen or too_long:
                raise UserError(
                    f"{self.path.parent} is in use by {describe(other)}, whose last sign of life was "
                    f"{max(0.0, time.time() - now):.0f} s ago: end it, wait for its end, or choose another "
                    f"--output-dir; if it is over, delete {self.path}"
                )
            keep_alive()
            time.sleep(0.5)

    def _remove(self, holder: dict[str, Any]) -> None:
        """Take the file away if it is this holder's."""
        aside = self.path.with_name(f"{NAME}.{uuid.uuid4().hex}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        try:
            found = _read(aside)
            if found is not None and found["token"] != holder["token"]:  # another one's, who was faster: put it back
                os.link(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)


def _write_new(path: Path, holder: dict[str, Any]) -> bool:
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(holder, file, indent=1)
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """Who holds a lease; None if there is no file.

    Raises:
        UserError: the file is damaged.
    """
    for _ in range(5):  # a file system without hard links shows it before it is written
        try:
            holder = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            holder = None
        if is_process(holder) and "token" in holder:
            return holder
        time.sleep(0.1)
    raise UserError(f"{path} is damaged, so nobody knows which job holds the folder: delete it if none does")


def _changed(path: Path) -> float | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return None

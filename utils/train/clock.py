"""How long a run will still take."""

from __future__ import annotations

import time


class Clock:
    """Tells the time that is left from what a run has done since it started here.

    Args:
        done: epochs that were trained before, parts of one included.
        end: epochs in all.
    """

    def __init__(self, done: float, end: int) -> None:
        self._start, self._end = done, end
        self._began = time.monotonic()

    def leave_out(self, seconds: float) -> None:
        """Time that is not spent again, such as that of compiling."""
        self._began += seconds

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def left(self, done: float) -> float:
        """Seconds that are left when so many epochs are done; 0 where nothing is known yet."""
        here = done - self._start
        return max(0.0, self.elapsed / here * (self._end - done)) if here > 0 else 0.0


def in_words(seconds: float) -> str:
    """1:02:03, as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

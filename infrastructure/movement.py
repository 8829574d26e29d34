"""Whether awaited processes still move: a busy machine is slow, which is no reason to give them
up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

# of one CPU: a process that only waits spends less, on its timers
_LEAST_SHARE: Final = 0.01


class Movement:
    """Watches processes, their children and their logs: spent CPU time and a log that grew are
    movement."""

    def __init__(self, pids: Sequence[int], logs: Sequence[Path] = ()) -> None:
        self._pids = pids
        self._logs = logs
        self._seen = self._look()
        self._since = time.monotonic()

    def stopped(self, silence: float) -> bool:
        """Whether nothing was seen to move for ``silence`` seconds. It costs nothing until that
        time has passed since the last movement."""
        elapsed = time.monotonic() - self._since
        if elapsed < silence:
            return False
        now = self._look()
        if abs(now[0] - self._seen[0]) < _LEAST_SHARE * elapsed and now[1:] == self._seen[1:]:
            return True
        self._seen, self._since = now, time.monotonic()
        return False

    def _look(self) -> tuple[float, frozenset[int], int]:
        """CPU seconds of all processes, which they are, and the logs' bytes."""
        spent, there = 0.0, set[int]()
        for pid in self._pids:
            try:
                root = psutil.Process(pid)
                for process in (root, *root.children(recursive=True)):
                    there.add(process.pid)
                    times = process.cpu_times()
                    spent += times.user + times.system + times.children_user + times.children_system
            except psutil.Error:  # it ended while it was looked at
                continue
        return (
            spent,
            frozenset(there),
            sum(log.stat().st_size for log in self._logs if log.exists()),
        )

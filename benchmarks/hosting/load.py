"""Traffic that does not wait for answers: every shape gets the same requests at the same moments.

A latency runs from the moment at which a request was due, so that one that waits for another
counts in full.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import numpy as np

from tenantry.names import ids

_CLIENTS: Final = 64
Ask = Callable[[ids.TenantId], object]


@dataclass(frozen=True)
class Traffic:
    """`rate` requests a second in all, by Poisson's law, each of a tenant drawn evenly."""

    rate: float
    tenants: Sequence[ids.TenantId]
    seed: int = 7

    def calls(self) -> Iterator[tuple[float, ids.TenantId]]:
        """Moments in seconds, and tenants, without an end."""
        draw, moment = random.Random(self.seed), 0.0
        while True:
            moment += draw.expovariate(self.rate)
            # One draw for any number of tenants, so that the moments are the same for all.
            yield moment, self.tenants[int(draw.random() * len(self.tenants))]

    def within(self, seconds: float) -> list[tuple[float, ids.TenantId]]:
        """The calls of the first `seconds`."""
        return list(itertools.takewhile(lambda call: call[0] <= seconds, self.calls()))


@dataclass
class Answers:
    """What came of the requests: seconds of those answered, and what went wrong with others."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """All requests."""
        return len(self.seconds) + len(self.failures)

    def percentile_ms(self, percent: float) -> float | None:
        """The latency that `percent` of the answers have at most, None without answers."""
        if not self.seconds:
            return None
        return round(1000 * float(np.percentile(self.seconds, percent)), 1)


class Load:
    """Traffic for the length of a `with` block, or for so many seconds of it."""

    def __init__(self, ask: Ask, traffic: Traffic, seconds: float = float("inf")) -> None:
        self.answers = Answers()
        self._ask, self._traffic, self._seconds = ask, traffic, seconds
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(_CLIENTS)
        self._thread = threading.Thread(target=self._send, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None or self._seconds == float("inf"):
            self._stop.set()
        self._thread.join()
        self._pool.shutdown(wait=True)

    def _send(self) -> None:
        for moment, tenant in self._traffic.calls():
            due = self._began + moment
            if moment > self._seconds or self._stop.wait(max(0.0, due - time.perf_counter())):
                return
            self._pool.submit(self._one, tenant, due)

    def _one(self, tenant: ids.TenantId, due: float) -> None:
        try:
            self._ask(tenant)
        except Exception as error:  # noqa: BLE001 - every failure of a request is counted
            self.answers.failures.append(f"{type(error).__name__}: {error}"[:200])
        else:
            self.answers.seconds.append(time.perf_counter() - due)


def answered_further(load: Load, count: int, limit: float = 120.0) -> None:
    """Wait until `count` more requests have been answered, or have failed.

    Raises:
        TimeoutError: that took longer than `limit` seconds.
    """
    enough, deadline = load.answers.requests + count, time.monotonic() + limit
    while load.answers.requests < enough:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} requests had no answer within {limit:.0f} s")
        time.sleep(0.05)

"""How many instances give an equal p95, by simulating queues with measured times of requests.

An instance answers one request at a time, first come, first served; requests that wait for any of
several instances form one queue. This is careful towards shared instances: the real container of
`portraits` draws up to 16 pictures together.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
REQUESTS: Final = 20_000
FLEET: Final = 20
"""Instances of the fleet for 10 tenants that the one for 10,000 is compared with: so many that one
more is not a large share."""
ALIKE: Final = 1.01
"""The ratio up to which two p95 are equal; no measurement tells less apart."""
PATIENCE: Final = 2.0
"""The p95 that both of these fleets must keep, as a multiple of a warm request's time."""


def latencies(arrivals: Floats, service: Floats, instances: int) -> Floats:
    """Seconds from each arrival to its answer, with one queue before so many instances."""
    free = [0.0] * instances
    found = np.empty_like(arrivals)
    for place, (arrival, seconds) in enumerate(
        zip(arrivals.tolist(), service.tolist(), strict=True)
    ):
        end = max(arrival, free[0]) + seconds
        heapq.heapreplace(free, end)
        found[place] = end - arrival
    return found


def p95(values: Floats) -> float:
    """The 95th percentile."""
    return float(np.percentile(values, 95))


@dataclass(frozen=True)
class Simulation:
    """Requests by Poisson's law. `warm` and `cold` are the seconds of one whose model is loaded, or
    is not.

    All of a kind take the same time, as in `benchmarks.capacity.simulator`: how much single
    requests differ on a machine that others use says nothing of an instance.
    """

    warm: float
    cold: float
    seed: int = 7

    def _moments(self, rate: float) -> Floats:
        return np.cumsum(np.random.default_rng(self.seed).exponential(1 / rate, REQUESTS))

    def shared_instances(self, rate: float, tenants: int) -> int:
        """The fewest shared instances whose p95 is, within `ALIKE`, no worse than that of an
        instance for each tenant, at `rate` requests a second in all.

        There are at most `tenants`: one queue before them is never slower than one before each.
        """
        arrivals, warm = self._moments(rate), np.full(REQUESTS, self.warm)
        whose = np.random.default_rng(self.seed + 1).integers(0, tenants, REQUESTS)
        own = np.concatenate(
            [latencies(arrivals[whose == one], warm[whose == one], 1) for one in range(tenants)]
        )
        goal = ALIKE * p95(own)
        for instances in range(1, tenants):
            if p95(latencies(arrivals, warm, instances)) <= goal:
                return instances
        return tenants

    def fleets(self) -> tuple[float, int | None]:
        """Requests a second that `FLEET` instances answer, all warm, with a p95 of `PATIENCE` times
        `warm`; and the fewest instances that keep this p95 when every request loads its model
        first, None if no number of them does."""
        goal = PATIENCE * self.warm
        warm, cold = (np.full(REQUESTS, one) for one in (self.warm, self.cold))

        def rate(share: int) -> float:
            """Requests a second that keep so many hundredths of the fleet busy."""
            return share / 100 * FLEET / self.warm

        shares = range(1, 100)
        kept = bisect_left(
            shares,
            True,
            key=lambda share: p95(latencies(self._moments(rate(share)), warm, FLEET)) > goal,
        )
        found = rate(shares[kept - 1])
        moments = self._moments(found)
        counts = range(FLEET, 10 * FLEET + 1)
        enough = bisect_left(
            counts, True, key=lambda count: p95(latencies(moments, cold, count)) <= goal
        )
        return found, counts[enough] if enough < len(counts) else None

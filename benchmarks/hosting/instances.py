"""How many instances give an equal p95, by simulating queues with measured service times.

An instance answers one request at a time, first come, first served; requests that wait for any of
several instances form one queue. This is careful towards shared instances: the real container of
`portraits` draws up to 16 pictures together.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence
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
"""The p95 that both of these fleets must keep, as a multiple of a warm request's median."""


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
    """Requests at random moments, whose service takes as long as measured ones did.

    `warm` and `cold` are measured seconds of requests whose model was loaded, or was not. A warm
    and a cold request of the same place are drawn at the same quantile, so that the two differ by
    the load alone.
    """

    warm: Sequence[float]
    cold: Sequence[float]
    seed: int = 7

    def _drawn(self) -> tuple[Floats, Floats, Floats]:
        """Gaps between arrivals at one request a second, and service times, warm and cold."""
        draw = np.random.default_rng(self.seed)
        gaps, places = draw.exponential(1.0, REQUESTS), draw.random(REQUESTS)
        return gaps, np.quantile(self.warm, places), np.quantile(self.cold, places)

    def shared_instances(self, rate: float, tenants: int) -> int:
        """The fewest shared instances whose p95 is, within `ALIKE`, no worse than that of an
        instance for each tenant, at `rate` requests a second in all.

        There are at most `tenants`: one queue before them is never slower than one before each.
        """
        gaps, warm, _ = self._drawn()
        arrivals = np.cumsum(gaps) / rate
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
        """Requests a second that `FLEET` instances answer warm with a p95 of `PATIENCE` medians;
        and the fewest instances that keep this p95 when every request loads its model first, None
        if no number of them does."""
        gaps, warm, cold = self._drawn()
        goal = PATIENCE * float(np.median(warm))
        moments = np.cumsum(gaps)

        def rate(share: int) -> float:
            """Requests a second that keep so many hundredths of the fleet busy."""
            return share / 100 * FLEET / float(warm.mean())

        shares = range(1, 100)
        kept = bisect_left(
            shares,
            True,
            key=lambda share: p95(latencies(moments / rate(share), warm, FLEET)) > goal,
        )
        if not kept:
            return 0.0, None
        found = rate(shares[kept - 1])
        counts = range(FLEET, 10 * FLEET + 1)
        enough = bisect_left(
            counts, True, key=lambda count: p95(latencies(moments / found, cold, count)) <= goal
        )
        return found, counts[enough] if enough < len(counts) else None

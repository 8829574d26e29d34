"""Capacity ahead of a forecast of demand.

A forecast is a value: quantiles of the requests a second of each hour. Whoever has a forecaster
passes one in. The policy makes of it a floor: instances that there should be at least, asked for a
start time before the hour begins. The floor raises what the reactive policy wants and never lowers
it.

The floor is the newsvendor's quantile of demand (Arrow, Harris, Marschak 1951). An instance too
many costs its price for the hour, `over`. One too few costs late requests, `under`: those until the
reactive policy has noticed, the next instance has started and the backlog is gone. The best
quantile is `under / (under + over)`. The price of a late request is the one at which the service
level is just kept, so that the level is the only knob. At first it follows from the start time: a
share `short` of the hours may be short of an instance, and each such hour is late for `shortfall`
seconds,

    short * shortfall / 3600 = allowed share of late requests,   quantile = 1 - short

Then each hour's late requests correct it: the quantile falls by a step as long as fewer are late
than the level allows, and rises by more where more are (adaptive conformal inference; Gibbs, Candes
2021). Where the reactive policy keeps the level by itself, a forecast therefore costs nothing.

A forecast that misses too often is not followed: `Trust` says so, and why.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from tenantry.capacity.queueing import late_by_chance
from tenantry.capacity.reactive import FAST, SETTLING, SPENT, TICK, EndpointProfile

HOUR: Final = 3600.0
QUANTILES: Final = (0.05, 0.99)
"""The lowest and the highest quantile."""
STEP: Final = 1.0
"""What a quantile falls in an hour, for each share of its requests that were late too few."""
SEEN: Final = SETTLING
"""Seconds of an hour after which its own load decides."""
DAY: Final = 24
MISSES: Final = 0.05
"""A forecast is not followed while so many misses or more are as unlikely as this by chance."""


@dataclass(frozen=True)
class Forecast:
    """Demand by hour.

    `hours` has, by the number of the hour on the policy's clock (seconds over 3600), the requests a
    second at each of the ascending `levels` between 0 and 1.

    Raises:
        ValueError: levels that are not ascending between 0 and 1, or an hour with another number
            of values, or with values that are not ascending from 0 on.
    """

    levels: Sequence[float]
    hours: Mapping[int, Sequence[float]]

    def __post_init__(self) -> None:
        edges = (0.0, *self.levels, 1.0)
        if not self.levels or any(b <= a for a, b in pairwise(edges)):
            raise ValueError("levels of a forecast ascend between 0 and 1")
        for hour, values in self.hours.items():
            if len(values) != len(self.levels):
                raise ValueError(f"hour {hour} has {len(values)} values, not {len(self.levels)}")
            ordered = (0.0, *values)
            if not all(a <= b < math.inf for a, b in pairwise(ordered)):
                raise ValueError(f"hour {hour} has values that do not ascend from 0 on")

    def at(self, hour: int, level: float) -> float | None:
        """The requests a second that a share `level` of the possible demand of an hour does not
        exceed, between two levels by a straight line; None for an hour without a forecast."""
        values = self.hours.get(hour)
        if values is None:
            return None
        if level <= self.levels[0]:
            return values[0]
        for place in range(1, len(self.levels)):
            low, high = self.levels[place - 1], self.levels[place]
            if level <= high:
                share = (level - low) / (high - low)
                return values[place - 1] + share * (values[place] - values[place - 1])
        return values[-1]


def quantile(endpoint: EndpointProfile) -> float:
    """The newsvendor's quantile before anything was learned; see this module."""
    shortfall = FAST * TICK + endpoint.start_seconds + SETTLING
    return _bounded(1 - SPENT * (1 - endpoint.level) * HOUR / shortfall)


def _bounded(level: float) -> float:
    low, high = QUANTILES
    return min(max(level, low), high)


def instances_for(endpoint: EndpointProfile, rate: float) -> int:
    """The fewest instances with which a steady rate, in requests a second, keeps the level."""
    count = max(math.ceil(rate / endpoint.rate), endpoint.least)
    while count < endpoint.most and (
        late_by_chance(rate, count * endpoint.rate, endpoint.seconds_per_inference, endpoint.slo)
        > 1 - endpoint.level
    ):
        count += 1
    return min(count, endpoint.most)


@dataclass
class Trust:
    """Whether the intervals of a forecast held in the last day.

    Each hour that has passed was above the quantile of that hour or not. The forecast is not
    followed while more hours were above than chance explains.
    """

    _hours: deque[tuple[bool, float]] = field(default_factory=lambda: deque(maxlen=DAY))

    def note(self, above: bool, level: float) -> None:
        """Tell whether an hour's demand was above the quantile of a level."""
        self._hours.append((above, 1 - level))

    @property
    def doubt(self) -> str | None:
        """Why the forecast is not followed; None where it is."""
        above = sum(one for one, _ in self._hours)
        expected = math.fsum(chance for _, chance in self._hours)
        # How likely each number of hours above is, hour by hour (Poisson's binomial distribution).
        chances = [1.0]
        for _, chance in self._hours:
            chances = [
                chance * before + (1 - chance) * same
                for before, same in zip([0.0, *chances], [*chances, 0.0], strict=True)
            ]
        if not above or math.fsum(chances[above:]) >= MISSES:
            return None
        return (
            f"demand was above the forecast's quantile in {above} of the last {len(self._hours)} "
            f"hours, where {expected:.0f} were to be expected; capacity follows the load alone "
            "until that has passed"
        )


@dataclass
class PredictiveFloor:
    """The floor of an endpoint, and what it remembers."""

    endpoint: EndpointProfile
    forecast: Forecast | None = None
    trust: Trust = field(default_factory=Trust)
    level: float = field(init=False)
    _hour: int = 0
    _arrived: int = 0
    _late: int = 0

    def __post_init__(self) -> None:
        self.level = quantile(self.endpoint)

    def note(self, now: float, arrived: int, late: int) -> None:
        """Tell the requests, and the late ones, since the moment before, at one in seconds."""
        hour = math.floor((now - TICK / 2) / HOUR)
        if hour != self._hour:
            self._end_of_hour()
            self._hour, self._arrived, self._late = hour, 0, 0
        self._arrived += arrived
        self._late += late

    def _end_of_hour(self) -> None:
        said = None if self.forecast is None else self.forecast.at(self._hour, self.level)
        if said is not None:
            self.trust.note(self._arrived / HOUR > said, self.level)
        if self._arrived:
            allowed = SPENT * (1 - self.endpoint.level)
            self.level = _bounded(self.level + STEP * (self._late / self._arrived - allowed))

    def floor(self, now: float) -> int:
        """The instances that there should be at least, those on their way included.

        Once an hour has shown its load for `SEEN` seconds, that tells more than a forecast of it.
        """
        least = self.endpoint.least
        if self.forecast is None or self.trust.doubt is not None:
            return least
        ready = now + self.endpoint.start_seconds + TICK
        hours = {math.floor(ready / HOUR)}
        if now % HOUR < SEEN:
            hours.add(math.floor(now / HOUR))
        elif math.floor(now / HOUR) in hours:
            return least
        rates = [self.forecast.at(hour, self.level) for hour in hours]
        return max(
            [least, *(instances_for(self.endpoint, rate) for rate in rates if rate is not None)]
        )

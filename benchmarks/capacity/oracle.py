"""The oracle: a plan of capacity made with perfect foresight of the arrivals.

It is a feasible plan, not a bound: the benchmark runs it through the same simulator as every
policy, and takes the cheapest plan that keeps the service level there. `lower_bound` gives what
no plan can beat.

The plans come from a dynamic programme over steps of time. Its state is the number of serving
instances and the backlog. It minimises the billed time, every start's 240 s included, plus a fine
for each late request. A fluid model of the queue tells which requests are late: request `number` is
late if the server has not reached it `slo` seconds after it came. The service level lets a
twentieth of the requests be late, and the oracle uses that: a bisection over the fine finds the
smallest that keeps the level in the exact simulation. The fluid model knows no randomness within a
step, so that the oracle also tries plans for instances that are a little slower than the real ones.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.capacity.simulator import MICROSECONDS, Instance, Run, View, simulate
from benchmarks.capacity.traces import SHARE, Trace
from tenantry.capacity.queueing import late_by_chance

STEPS: Final = 17_300
"""About the most steps of a plan; a step is a divisor of the start time."""
LEVELS: Final = 300
"""About the most levels of backlog that are told apart."""
VARIANTS: Final = ((1.0, True), (1.0, False), (0.975, True), (0.975, False))
"""What plans are made for: a share of an instance's real speed, and whether requests are late by
chance as well. A long trace has the first alone, for the sake of time."""
LONG: Final = 86_400.0
"""Seconds of a long trace."""
BISECTIONS: Final = 6


@dataclass(frozen=True)
class Plan:
    """Serving instances in each step of `interval` seconds; a policy that follows it."""

    interval: float
    serving: NDArray[np.int64]
    ahead: int
    """Steps that an instance takes to start."""

    def decide(self, view: View) -> int:
        """The most that will serve until an instance asked for now would."""
        place = round(view.now / self.interval)
        coming = self.serving[place : place + self.ahead + 1]
        return int(coming.max()) if len(coming) else int(view.waiting[-1] > 0)


def lower_bound(trace: Trace, instance: Instance) -> float:
    """Instance-seconds that no plan can do without: the inferences' own time over the slots, and
    the fewest instances over the whole trace."""
    work = len(trace.arrivals) * instance.seconds_per_inference / instance.slots
    return max(work, trace.bounds.least * trace.duration)


def foresee(trace: Trace, instance: Instance, constant: Run) -> Run:
    """The cheapest run found that keeps the trace's service level.

    `constant` is the run of the fewest constant instances that keep it: a plan as well.
    """
    best = constant
    for slower, chance in VARIANTS[: 1 if trace.duration > LONG else None]:
        programme = _Programme(trace, instance, slower, chance=chance)
        for run in _search(programme, trace, instance):
            if run.instance_seconds < best.instance_seconds:
                best = run
    return best


def _search(programme: "_Programme", trace: Trace, instance: Instance) -> Iterator[Run]:
    """Runs that keep the level, for ever smaller fines."""
    allowed = math.floor((1 - SHARE) * len(trace.arrivals) + 1e-9)
    low, high = 3e-3, 3e1  # instance-seconds a late request, on a logarithmic scale
    for _ in range(BISECTIONS):
        fine = math.sqrt(low * high)
        run = simulate(trace.arrivals, trace.duration, programme.plan(fine), trace.bounds, instance)
        if not run.lost and run.late(trace.slo) <= allowed:
            yield run
            high = fine
        else:
            low = fine


class _Programme:
    """The dynamic programme of a trace."""

    def __init__(self, trace: Trace, instance: Instance, slower: float, *, chance: bool) -> None:
        self._instance = instance
        self._least = trace.bounds.least
        self._step = _step(trace.duration, instance.start_seconds)
        self._ahead = round(instance.start_seconds / self._step)
        rate = instance.rate * slower
        tail = math.ceil((trace.slo + 2 * instance.start_seconds) / self._step)
        self._regular = math.ceil(trace.duration / self._step)
        steps = self._regular + tail
        edges = np.arange(steps + 1) * self._step
        self._most = min(_most(trace, instance, self._step), trace.bounds.most)
        came = _cumulative(trace, edges)
        overdue = _cumulative(trace, edges - trace.slo)
        window = max(4 * trace.slo, 2 * 3600.0)
        span = min(math.ceil(window / self._step), steps)
        largest = int((came[span:] - came[:-span]).max())
        per_step = rate * self._step  # requests an instance serves in a step
        parts = max(1, math.ceil(per_step * LEVELS / max(largest, 1)))
        self._unit = per_step / parts
        self._parts = parts
        self._levels = math.ceil(largest / self._unit) + 2
        self._came = np.ceil(came / self._unit).astype(np.int64)
        self._overdue = overdue / self._unit
        each = instance.seconds_per_inference
        self._chance = np.array(
            [
                [
                    late_by_chance(arrived / self._step, count * rate, each, trace.slo)
                    for count in range(self._most + 1)
                ]
                for arrived in (np.diff(came) * chance).tolist()
            ]
        )

    def plan(self, fine: float) -> Plan:
        """The cheapest plan where a late request costs `fine` instance-seconds."""
        counts = np.arange(self._most + 1)
        levels = np.arange(self._levels)
        starts = np.maximum(counts[None, :] - counts[:, None], 0) * self._instance.start_seconds
        steps = len(self._came) - 1
        value = np.where(levels[None, :] == 0, 0.0, np.inf) + np.zeros((len(counts), 1))
        choices = np.empty((steps, len(counts), self._levels), dtype=np.uint8)
        for place in range(steps - 1, -1, -1):
            cost = self._cost(place, counts, levels, value, fine)
            least = self._least if place < self._regular else 0
            cost[:least] = np.inf
            ways = cost[None, :, :] + starts[:, :, None]
            choice = ways.argmin(axis=1)
            choices[place] = choice
            value = np.take_along_axis(ways, choice[:, None, :], axis=1)[:, 0, :]
        return Plan(float(self._step), self._follow(choices), self._ahead)

    def _cost(
        self,
        place: int,
        counts: NDArray[np.int64],
        levels: NDArray[np.int64],
        value: NDArray[np.float64],
        fine: float,
    ) -> NDArray[np.float64]:
        """What is to pay from a step on, by instances that serve in it and backlog before it."""
        came, comes = self._came[place], self._came[place + 1]
        after = np.maximum(levels[None, :] + (comes - came) - counts[:, None] * self._parts, 0)
        within = after < self._levels
        cost = np.where(within, value[counts[:, None], np.minimum(after, self._levels - 1)], np.inf)
        if place < self._ahead:  # nothing that is asked for now serves yet
            cost[self._least + 1 :] = np.inf
        served = levels[None, :] + (comes - came) - after
        behind = self._overdue[place] - (came - levels[None, :])
        at_end = self._overdue[place + 1] - (comes - after)
        late = served * np.maximum(_positive_share(behind, at_end), self._chance[place][:, None])
        paid = counts[:, None] * float(self._step)
        if place >= self._regular:  # the bill ends when the queue is empty
            paid = np.where((after == 0) & (levels[None, :] == 0), 0.0, paid)
        return np.asarray(cost + paid + fine * self._unit * late)

    def _follow(self, choices: NDArray[np.uint8]) -> NDArray[np.int64]:
        count, level = self._least, 0
        serving = np.empty(len(choices), dtype=np.int64)
        for place in range(len(choices)):
            count = int(choices[place, count, level])
            serving[place] = count
            coming = int(self._came[place + 1] - self._came[place])
            level = min(max(level + coming - count * self._parts, 0), self._levels - 1)
        return serving


def _positive_share(begin: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the way from one value to another on which they are above 0."""
    high, low = np.maximum(begin, end), np.minimum(begin, end)
    width = np.where(high > low, high - low, 1.0)
    return np.clip(np.where(high > low, high / width, (high > 0).astype(float)), 0.0, 1.0)


def _step(duration: float, start: float) -> float:
    """Seconds of a step: they divide the start time."""
    for parts in (24, 12, 8, 6, 4, 3, 2):
        if duration / (start / parts) <= STEPS:
            return start / parts
    return start


def _cumulative(trace: Trace, seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Arrivals before each of these moments."""
    moments = np.round(seconds * MICROSECONDS).astype(np.int64)
    return np.searchsorted(trace.arrivals, moments).astype(np.int64)


def _most(trace: Trace, instance: Instance, step: float) -> int:
    """Instances that keep every request in time, and one more.

    Windows of all lengths from a step on are looked at, each twice as long as the one before.
    """
    edges = np.arange(0.0, trace.duration + step, step)
    came = _cumulative(trace, edges)
    needed, span = 1.0, 1
    while span < len(edges):
        busiest = int((came[span:] - came[:-span]).max())
        needed = max(needed, busiest / (instance.rate * (span * step + trace.slo)))
        span *= 2
    return math.ceil(needed) + 1

"""An exact simulation of one queue before a fleet that grows and shrinks.

Requests are served first come, first served. Every inference takes the same time, so requests also
finish in the order in which they started. While the fleet stays as it is, a request therefore takes
the slot of the request that started as many places before it as there are slots:

    start[k] = max(arrival[k], start[k - slots] + seconds_per_inference)

Along one slot, `start - place * seconds_per_inference` is a running maximum. numpy computes a
stretch of any length in one pass, and no approximation is made. All times within are whole
microseconds.

An instance serves `start_seconds` after the policy asked for it. It is billed from then on until
the policy releases it and its last inference has ended. A release takes instances that do not serve
yet, the latest asked first. It then takes those that finish first. A released instance takes no new
work.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

MICROSECONDS: Final = 1_000_000
PATIENCE: Final = 86_400.0
"""Seconds after a trace's end until requests still waiting count as lost."""

Integers = NDArray[np.int64]


def in_microseconds(seconds: float) -> int:
    """Seconds as whole microseconds."""
    return round(seconds * MICROSECONDS)


@dataclass(frozen=True)
class Instance:
    """What an instance can do.

    `slots` inferences at a time, each of `seconds_per_inference`; it serves `start_seconds` after
    the asking.
    """

    slots: int = 4
    seconds_per_inference: float = 0.5
    start_seconds: float = 240.0

    @property
    def rate(self) -> float:
        """The most requests a second that it serves."""
        return self.slots / self.seconds_per_inference


@dataclass(frozen=True)
class Bounds:
    """The fewest and the most instances of an endpoint."""

    least: int
    most: int

    def within(self, count: int) -> int:
        """The nearest count that they allow."""
        return min(max(count, self.least), self.most)


@dataclass
class Rental:
    """An instance's life, in microseconds. `stopped` is None while it is billed."""

    asked: int
    ready: int
    stopped: int | None = None


class View:
    """What a policy may see at a moment: the past alone.

    `waiting`, `busy` and `serving` hold a value for each moment of decision so far, the present one
    last: requests that wait, inferences under way, instances that serve. `interval` seconds lie
    between these moments.
    """

    def __init__(self, fleet: "Fleet", interval: float) -> None:
        self._fleet = fleet
        self.interval = interval
        self.now = 0.0
        self.waiting: list[int] = []
        self.busy: list[int] = []
        self.serving: list[int] = []
        self.starting: tuple[float, ...] = ()
        self._served: list[int] = []
        self._late = (0, 0)  # among so many of the requests served, so many were late

    def look(self, now: int) -> None:
        """Take note of the fleet at a moment, in microseconds."""
        fleet = self._fleet
        self.now = now / MICROSECONDS
        self.waiting.append(fleet.waiting(now))
        self.busy.append(fleet.busy(now))
        self.serving.append(fleet.serving)
        self.starting = tuple(ready / MICROSECONDS for ready in fleet.starting)
        self._served.append(fleet.served)

    def late(self, slo: float, place: int = -1) -> int:
        """Requests that had started by a moment of decision (-1 is the latest), after a wait longer
        than `slo` seconds. The moments have to be asked for in order."""
        count, late = self._late
        until = self._served[place]
        late += int((self._fleet.waits_between(count, until) > in_microseconds(slo)).sum())
        self._late = (until, late)
        return late

    @property
    def capacity(self) -> int:
        """Instances asked for and not released, those that do not serve yet included."""
        return self.serving[-1] + len(self.starting)

    def arrived(self, begin: float, end: float) -> int:
        """Requests that arrived from `begin` to just before `end`, both in seconds.

        Raises:
            ValueError: `end` lies in the future.
        """
        if end > self.now:
            raise ValueError(f"a policy asked at {self.now:g} s for arrivals until {end:g} s")
        first, last = np.searchsorted(
            self._fleet.arrivals, (in_microseconds(begin), in_microseconds(end))
        )
        return int(last - first)


class Policy(Protocol):
    """How many instances there should be."""

    @property
    def interval(self) -> float:
        """Seconds between two decisions."""

    def decide(self, view: View) -> int:
        """The instances there should be from now on, those on their way included."""


@dataclass(frozen=True)
class Run:
    """What a policy made of a trace.

    `waits` are microseconds from arrival to start, one a request served. `changes` are moments in
    seconds, with the instances billed and those serving from then on.
    """

    waits: Integers
    lost: int
    instance_seconds: float
    changes: Sequence[tuple[float, int, int]] = field(repr=False)

    def wait(self, share: float) -> float:
        """The wait, in seconds, that a share of the served requests does not exceed; 0 without
        any."""
        return self.waits_of((share,))[0]

    def waits_of(self, shares: Sequence[float]) -> list[float]:
        """The same of several shares."""
        count = len(self.waits)
        if not count:
            return [0.0] * len(shares)
        places = [max(math.ceil(share * count - 1e-9) - 1, 0) for share in shares]
        ordered = np.partition(self.waits, places)
        return [float(ordered[place]) / MICROSECONDS for place in places]

    def late(self, slo: float) -> int:
        """Requests served that waited for longer than `slo` seconds."""
        return int((self.waits > in_microseconds(slo)).sum())


class Fleet:
    """The queue and the slots that serve it, moved on in time by `advance`."""

    def __init__(self, arrivals: Integers, instance: Instance) -> None:
        self.arrivals = arrivals
        self.instance = instance
        self.served = 0
        self.rentals: list[Rental] = []
        self._inference = in_microseconds(instance.seconds_per_inference)
        self._free: Integers = np.empty(0, dtype=np.int64)  # when each slot is free, in order
        self._owner: Integers = np.empty(0, dtype=np.int64)
        self._starting: list[int] = []
        self._starts = np.empty(len(arrivals), dtype=np.int64)

    @property
    def serving(self) -> int:
        """Instances that take new work."""
        return len(self._free) // self.instance.slots

    @property
    def starting(self) -> list[int]:
        """When the instances that were asked for and do not serve yet will, in microseconds."""
        return [self.rentals[number].ready for number in self._starting]

    @property
    def waits(self) -> Integers:
        """Of the requests served so far, microseconds from arrival to start."""
        return self.waits_between(0, self.served)

    def waits_between(self, begin: int, end: int) -> Integers:
        """The same of the requests from one place to just before another."""
        return self._starts[begin:end] - self.arrivals[begin:end]

    def busy(self, now: int) -> int:
        """Inferences under way, those of released instances left out."""
        return int((self._free > now).sum())

    def waiting(self, now: int) -> int:
        """Requests that arrived before `now` and have not started."""
        return int(np.searchsorted(self.arrivals, now)) - self.served

    def finished(self) -> int:
        """When the last request that started ends."""
        return int(self._starts[self.served - 1]) + self._inference if self.served else 0

    def ask(self, now: int, ready: int) -> None:
        """Rent another instance."""
        self.rentals.append(Rental(now, ready))
        self._starting.append(len(self.rentals) - 1)
        self._starting.sort(key=lambda number: self.rentals[number].ready)

    def release(self, now: int) -> None:
        """Give an instance back."""
        if self._starting:
            self.rentals[self._starting.pop()].stopped = now
            return
        ends: dict[int, int] = {}
        for free, owner in zip(self._free.tolist(), self._owner.tolist(), strict=True):
            ends[owner] = max(ends.get(owner, now), free)
        first = min(ends, key=lambda owner: (ends[owner], owner))
        self.rentals[first].stopped = ends[first]
        kept = self._owner != first
        self._free, self._owner = self._free[kept], self._owner[kept]

    def advance(self, until: int) -> None:
        """Start all that starts before `until`; instances that become ready take part."""
        while self._starting and self.rentals[self._starting[0]].ready <= until:
            number = self._starting.pop(0)
            ready = self.rentals[number].ready
            self._serve(ready)
            place = int(np.searchsorted(self._free, ready, side="right"))
            slots = self.instance.slots
            self._free = np.insert(self._free, place, [ready] * slots)
            self._owner = np.insert(self._owner, place, [number] * slots)
        self._serve(until)

    def _serve(self, until: int) -> None:
        slots = len(self._free)
        first = self.served
        if not slots or self._free[0] >= until:
            return
        came = int(np.searchsorted(self.arrivals, until))
        # The slots can start no more than this before `until`.
        begin = max(int(self._free[0]), int(self.arrivals[first]) if came > first else until)
        most = slots * ((until - begin) // self._inference + 1)
        count = min(came - first, most)
        if count <= 0:
            return
        rows = -(-count // slots)
        places = np.full(rows * slots, until, dtype=np.int64)
        places[:count] = self.arrivals[first : first + count]
        table = places.reshape(rows, slots)
        np.maximum(table[0], self._free, out=table[0])
        along = (np.arange(rows, dtype=np.int64) * self._inference)[:, None]
        table -= along
        np.maximum.accumulate(table, axis=0, out=table)
        table += along
        started = int(np.searchsorted(places[:count], until))
        self._starts[first : first + started] = places[:started]
        self.served += started
        ends = places[max(started - slots, 0) : started] + self._inference
        self._free = np.concatenate((self._free[started:], ends)) if started < slots else ends
        self._owner = np.roll(self._owner, -(started % slots))


def simulate(
    arrivals: Integers,
    duration: float,
    policy: Policy,
    bounds: Bounds,
    instance: Instance,
    initial: int | None = None,
) -> Run:
    """Replay a trace against a policy.

    `initial` instances serve from the start on; None means the fewest of `bounds`. After the end of
    the trace, the policy goes on deciding until the queue is empty, for `PATIENCE` at most. What is
    rented then is billed until that moment, or until the trace ends if that is later.

    Args:
        arrivals: microseconds, in order.
        duration: of the trace, in seconds.
        policy: decides at 0, and every `interval` seconds from then on.
        bounds: kept to, whatever the policy decides.
        instance: of which the fleet consists.
        initial: see above.
    """
    fleet = Fleet(arrivals, instance)
    for _ in range(bounds.least if initial is None else initial):
        fleet.ask(0, 0)
    fleet.advance(0)
    view = View(fleet, policy.interval)
    end = in_microseconds(duration)
    start = in_microseconds(instance.start_seconds)
    limit = end + in_microseconds(PATIENCE)
    moment = 0
    while True:
        now = in_microseconds(moment * policy.interval)
        fleet.advance(min(now, limit))
        if now >= limit or (now >= end and fleet.served == len(arrivals)):
            break
        view.look(now)
        wanted = bounds.within(policy.decide(view))
        for _ in range(wanted - view.capacity):
            fleet.ask(now, now + start)
        for _ in range(view.capacity - wanted):
            fleet.release(now)
        moment += 1
    lost = len(arrivals) - fleet.served
    last = max(end, limit if lost else fleet.finished())
    return Run(fleet.waits, lost, _billed(fleet.rentals, last), _changes(fleet.rentals, last))


def _billed(rentals: Sequence[Rental], last: int) -> float:
    whole = sum(
        max((last if one.stopped is None else one.stopped) - one.asked, 0) for one in rentals
    )
    return whole / MICROSECONDS


def _changes(rentals: Sequence[Rental], last: int) -> list[tuple[float, int, int]]:
    """See `Run`."""
    steps: dict[int, list[int]] = {0: [0, 0], last: [0, 0]}
    for one in rentals:
        stopped = last if one.stopped is None else one.stopped
        for moment, which, step in (
            (one.asked, 0, 1),
            (stopped, 0, -1),
            (min(one.ready, stopped), 1, 1),
            (stopped, 1, -1),
        ):
            steps.setdefault(moment, [0, 0])[which] += step
    billed = serving = 0
    changes = []
    for moment in sorted(steps):
        billed += steps[moment][0]
        serving += steps[moment][1]
        changes.append((moment / MICROSECONDS, billed, serving))
    return changes

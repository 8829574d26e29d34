"""Capacity that follows the queue: the fewest instances that keep a service level.

Every few seconds the policy projects how many requests would start late, and compares them with
those that the service level still allows. It asks for the fewest instances that keep within the
allowance, and it asks as soon as waiting any longer would not. The projection covers the requests
that wait now, and those that will come before another decision could still help. If the service
level leaves more time than an instance takes to start, these are few. Otherwise they are those of
a start time and a settling time.

What it needs, and where it comes from on AWS, where CloudWatch's own metrics are of whole minutes:

- requests asked and answered every ten seconds, with the late ones among the answered: the client
  and the server count them, as metrics of their own with high resolution;
- seconds an inference, and slots: the server measures them;
- instances that serve, and that start: DescribeEndpoint.

`decide` computes from what is passed in, and calls nothing. So any process that sees these numbers
can run it. No process of Tenantry does yet; `benchmarks.capacity` simulates it. Its result is meant
to be the minimum of the endpoint's scalable target. Should that
process fail, the target's own policies go on between the last minimum and the maximum.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tenantry.capacity.queueing import late_by_chance, late_by_drift

TICK: Final = 10.0
"""Seconds between two decisions, the shortest period of a metric with high resolution that an alarm
can have."""
FAST: Final = 6
"""Ticks whose arrivals tell the present rate."""
NOW: Final = 2
"""Ticks that tell a rate that has just changed."""
SURPRISE: Final = 4.0
"""Standard deviations beyond which it has."""
USUAL: Final = 180
"""Ticks whose arrivals tell the usual rate."""
REPLAYED: Final = 360
"""Ticks that are replayed with constant numbers of instances."""
LEAST_REPLAYED: Final = 90
"""Ticks before the first replay."""
FAILED: Final = 2.0
"""Times the allowed share of late requests from which following the load has failed."""
CHEAPER: Final = 0.95
"""The share of what was billed that a constant number may cost at most."""
SLOW: Final = 12
"""Ticks whose arrivals have to agree before an instance is released."""
SETTLING: Final = 120.0
"""Seconds after a start that a projection covers."""
DAY: Final = 8640
"""Ticks over which the service level is kept."""
PARTS: Final = 12
"""Parts of a projection."""
SPENT: Final = 0.7
"""The share of the late requests allowed so far that a projection may use up. The rest is for what
was not foreseen."""
CONCEDED: Final = 0.8
"""The largest share of the requests in a projection that may be late."""
RELEASED_AT: Final = 0.6
"""The share of the allowance within which a projection with fewer instances has to stay."""
HASTE: Final = 4.0
"""Times as fast as its time allows that a queue is served before an instance is released, where an
endpoint leaves more time than a start takes."""
WORTH: Final = 0.1
"""The share of the avoidable late requests that is not worth an instance."""
MARGIN: Final = 0.25
"""The share of the start time that a start may take longer, where an endpoint waits before it
asks."""
SCENARIOS: Final = ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6))
"""The present rate is uncertain: standard errors from its mean, and weights (Gauss-Hermite)."""
MOST_GAPS: Final = 50


@dataclass(frozen=True)
class EndpointProfile:
    """What a policy knows of an endpoint.

    A share `level` of its requests has to wait for `slo` seconds at most. An instance does `slots`
    inferences at a time, each of `seconds_per_inference`, from `start_seconds` after the asking on.
    It has from `least` to `most` instances.
    """

    slots: int
    seconds_per_inference: float
    start_seconds: float
    slo: float
    least: int
    most: int
    level: float = 0.95

    @property
    def rate(self) -> float:
        """The most requests a second that an instance serves."""
        return self.slots / self.seconds_per_inference


@dataclass(frozen=True)
class Observation:
    """What was seen at a moment.

    The counts of requests are `age` seconds old. `arrived` and `late` count since the observation
    before: requests asked, and requests that started too late. `waiting` requests had not started.
    `starting` are the seconds until each instance on its way serves.
    """

    now: float
    age: float
    arrived: int
    late: int
    waiting: int
    serving: int
    starting: tuple[float, ...]


class Reactive:
    """The policy of an endpoint, with what it remembers."""

    def __init__(self, endpoint: EndpointProfile) -> None:
        self.endpoint = endpoint
        self._arrived: deque[int] = deque(maxlen=DAY)
        self._late: deque[int] = deque(maxlen=DAY)
        self._usual = 0.0
        self._lasting = math.inf
        self._serving_before = 0
        self._arrived_sum = 0
        self._late_sum = 0
        self._squares: deque[float] = deque(maxlen=180)
        self._squares_sum = 0.0
        self._gaps = _Gaps(endpoint.start_seconds)
        self._margin = MARGIN * endpoint.start_seconds
        self._patient = endpoint.slo >= endpoint.start_seconds + self._margin + TICK
        beyond = endpoint.start_seconds - endpoint.slo
        self._horizon = beyond + SETTLING if beyond > 0 else TICK
        self._hindsight = _Hindsight(endpoint)

    def decide(self, seen: Observation, floor: int = 0) -> int:
        """The instances that there should be from now on, those on their way included.

        At least `floor`, and never fewer than without one.
        """
        self._remember(seen)
        fast = self._present_rate()
        self._look_ahead(fast)
        served = min(seen.serving, self._serving_before) * self.endpoint.rate
        self._serving_before = seen.serving
        since = (fast - served) * seen.age
        seen = replace(seen, waiting=max(0, math.floor(seen.waiting + since)))
        have = seen.serving + len(seen.starting)
        self._gaps.note(seen.now, self._busy(seen, fast))
        fails = self._late_sum > FAILED * (1 - self.endpoint.level) * self._arrived_sum
        self._hindsight.note(seen.arrived, have, fails=fails)
        floor = max(floor, self._hindsight.floor)
        asked = self._asked(seen, fast)
        if asked or have < floor:
            return min(max(have + asked, floor), self.endpoint.most)
        least = max(self.endpoint.least, floor)
        return have - self._released(seen, max(fast, self._rate(SLOW)), least)

    def _remember(self, seen: Observation) -> None:
        if len(self._arrived) == DAY:
            self._arrived_sum -= self._arrived[0]
            self._late_sum -= self._late[0]
        if self._arrived:
            if len(self._squares) == self._squares.maxlen:
                self._squares_sum -= self._squares[0]
            self._squares.append((seen.arrived - self._arrived[-1]) ** 2 / 2)
            self._squares_sum += self._squares[-1]
        self._arrived.append(seen.arrived)
        self._late.append(seen.late)
        self._arrived_sum += seen.arrived
        self._late_sum += seen.late

    def _rate(self, ticks: int) -> float:
        count = min(ticks, len(self._arrived))
        return sum(self._arrived[-place] for place in range(1, count + 1)) / (count * TICK)

    def _present_rate(self) -> float:
        """Requests a second now: over `FAST` ticks, or over the latest `NOW` where these differ by
        more than chance."""
        fast, now = self._rate(FAST), self._rate(NOW)
        expected = fast * NOW * TICK
        if abs(now * NOW * TICK - expected) > SURPRISE * math.sqrt(
            max(expected, 1.0) * self._dispersion()
        ):
            return now
        return fast

    def _look_ahead(self, rate: float) -> None:
        """A rate far above the usual one is expected to last for as long as it has lasted (Lindy's
        law), and the usual one after that."""
        count = min(len(self._arrived), USUAL)
        self._usual = min(self._rate(count), rate)
        self._lasting = math.inf
        if rate < 2 * self._usual:
            return
        lasted = 0
        for arrived in reversed(self._arrived):
            if arrived < rate * TICK / 2:
                break
            lasted += 1
        self._lasting = max(lasted, 1) * TICK

    def _dispersion(self) -> float:
        """The variance of arrivals over their mean, from the differences between neighbours: these
        are hardly touched by a trend."""
        count = len(self._squares)
        if not count:
            return 1.0
        recent = sum(self._arrived[-place] for place in range(1, min(count, FAST) + 1))
        mean = max(recent / min(count, FAST), 1.0)
        return min(max(self._squares_sum / count / mean, 1.0), 10.0)

    def _busy(self, seen: Observation, fast: float) -> int:
        """Instances that the present load keeps busy."""
        endpoint = self.endpoint
        load = fast * TICK + seen.waiting
        count = math.ceil(load / (endpoint.rate * TICK))
        if count == 1 and not seen.waiting and self._patient and fast < endpoint.rate / 2:
            return 0  # what comes is served by another start, many at once
        if endpoint.slo >= endpoint.start_seconds:
            count = min(count, self._in_good_time(seen, fast))
        return min(count, endpoint.most)

    def _in_good_time(self, seen: Observation, fast: float) -> int:
        """Instances that serve each of the waiting requests in a part of the time that it has
        left. Those in the queue before it are served first."""
        endpoint = self.endpoint
        ahead, count = float(seen.waiting), 1
        for age, requests in self._waiting(seen, fast):
            left = endpoint.slo - age
            if left > 0:
                served = endpoint.rate * max(left, TICK)
                count = max(count, math.ceil(HASTE * (ahead - requests / 2) / served))
            ahead -= requests
        return count

    def _allowance(self, seen: Observation, rate: float) -> float:
        """Late requests that a projection may have: a share of those that the level still allows,
        but not so many that most of what is projected would be late."""
        share = 1 - self.endpoint.level
        projected = rate * self._horizon + seen.waiting
        left = share * (self._arrived_sum + projected) - self._late_sum
        # Where all is spent, the present requests still have their own share.
        return min(max(SPENT * left, SPENT * share * projected), CONCEDED * projected)

    def _asked(self, seen: Observation, fast: float) -> int:
        """Further instances to ask for now."""
        endpoint = self.endpoint
        if not fast and not seen.waiting:
            return 0
        room = endpoint.most - seen.serving - len(seen.starting)
        if room <= 0:
            return 0
        allowed = self._allowance(seen, fast)
        if self._is_calm(seen, fast, allowed):
            return 0
        ready = sorted(seen.starting)
        if not seen.serving and not ready and self._can_wait(seen, fast):
            return 0
        if self._can_ask_later(seen, fast, ready, allowed):
            return 0
        nothing = self._projected(seen, fast, seen.serving, ready)
        if nothing <= allowed and (seen.serving or ready):
            return 0
        best = self._projected(seen, fast, seen.serving, ready, room)
        target = max(allowed, best + WORTH * (nothing - best))
        low, high = 0, room
        while high - low > 1:
            middle = (low + high) // 2
            if self._projected(seen, fast, seen.serving, ready, middle) <= target:
                high = middle
            else:
                low = middle
        if nothing - best <= 0.5 and (seen.serving or ready):
            return 0  # nothing that is asked for now helps
        return high

    def _is_calm(self, seen: Observation, fast: float, allowed: float) -> bool:
        """Whether the instances that serve suffice beyond doubt, which is quick to tell."""
        if seen.waiting or not fast:
            return False
        dispersion = self._dispersion()
        high = fast * (1 + math.sqrt(3 * dispersion / (fast * FAST * TICK)))
        capacity = seen.serving * self.endpoint.rate
        chance = self._by_chance(high, capacity, self.endpoint.slo, dispersion)
        return chance * high * self._horizon <= allowed

    def _can_wait(self, seen: Observation, fast: float) -> bool:
        """Whether, without an instance, the one to ask for can be asked for a tick later: it is
        still in time then, and one still suffices. More requests share its start."""
        if not self._patient:
            return False
        oldest = max((age for age, _ in self._waiting(seen, fast)), default=0.0) + TICK / 2
        latest = self.endpoint.slo - self.endpoint.start_seconds - self._margin - TICK
        if oldest > latest:
            return False
        coming = seen.waiting + fast * TICK
        return coming <= self.endpoint.rate * (self._margin + TICK)

    def _can_ask_later(
        self, seen: Observation, rate: float, ready: Sequence[float], allowed: float
    ) -> bool:
        """Whether an instance that is asked for at a later tick can still serve those that come in
        time, while those that wait need none. A burst may have ended by then."""
        endpoint = self.endpoint
        if endpoint.slo < endpoint.start_seconds + 2 * TICK or not (seen.serving or ready):
            return False
        return self._late_waiting(seen, rate, self._lines(seen.serving, ready)) <= allowed

    def _released(self, seen: Observation, rate: float, least: int) -> int:
        """Instances to release now; `least` stay."""
        have = seen.serving + len(seen.starting)
        ready = sorted(seen.starting)
        allowed = RELEASED_AT * self._allowance(seen, rate)
        count = 0
        while have - count > max(least, self._busy(seen, rate)):
            left = have - count - 1
            if self._gaps.holds(left + 1, seen.now):
                break
            serving = min(seen.serving, left)
            if self._projected(seen, rate, serving, ready[: left - serving]) > allowed:
                break
            count += 1
        return count

    def _projected(
        self, seen: Observation, rate: float, serving: int, ready: Sequence[float], more: int = 0
    ) -> float:
        """Expected late requests among those that wait and those that come within the horizon, with
        `more` instances asked for now."""
        lines = self._lines(serving, ready, more)
        late = self._late_waiting(seen, rate, lines)
        if rate <= 0:
            return late
        dispersion = self._dispersion()
        error = math.sqrt(dispersion / (rate * FAST * TICK))
        for places, weight in SCENARIOS:
            late += weight * self._late_coming(
                seen.waiting, rate * max(1 + places * error, 0.0), lines, dispersion
            )
        return late

    def _lines(
        self, serving: int, ready: Sequence[float], more: int = 0
    ) -> list[tuple[float, float]]:
        """The rate that each instance adds, and from when on."""
        endpoint = self.endpoint
        lines = [(0.0, serving * endpoint.rate)] if serving else []
        lines += [(moment, endpoint.rate) for moment in ready]
        if more:
            lines.append((endpoint.start_seconds, more * endpoint.rate))
        return lines

    def _waiting(self, seen: Observation, rate: float) -> Iterator[tuple[float, float]]:
        """Ages and numbers of the requests that wait, the newest first."""
        waiting = float(seen.waiting)
        unseen = min(rate * seen.age, waiting)
        if unseen:
            yield seen.age / 2, unseen
        for place, arrived in enumerate(reversed(self._arrived)):
            waiting -= unseen
            unseen = min(float(arrived), waiting)
            if waiting <= 0:
                return
            if unseen:
                yield seen.age + (place + 0.5) * TICK, unseen

    def _by_chance(self, rate: float, capacity: float, slo: float, dispersion: float) -> float:
        each = self.endpoint.seconds_per_inference
        return late_by_chance(rate, capacity, each, slo, dispersion)

    def _late_waiting(
        self, seen: Observation, rate: float, lines: Sequence[tuple[float, float]]
    ) -> float:
        """Late ones of the requests that wait, by their ages."""
        before = float(seen.waiting)
        late = 0.0
        for age, count in self._waiting(seen, rate):
            if _served_by(self.endpoint.slo - age, lines) < before - count / 2:
                late += count
            before -= count
        return late

    def _late_coming(
        self, waiting: float, rate: float, lines: Sequence[tuple[float, float]], dispersion: float
    ) -> float:
        """Late ones of the requests that come, at a rate as long as it lasts."""
        endpoint = self.endpoint
        parts = max(1, min(PARTS, round(self._horizon / TICK)))
        width = self._horizon / parts
        backlog = float(waiting)
        late = 0.0
        moment = 0.0
        high = rate
        for _ in range(parts):
            middle = moment + width / 2
            rate = high if middle <= self._lasting else self._usual
            served = _served_by(middle, lines) - _served_by(moment, lines)
            half = max(backlog + rate * width / 2 - served, 0.0)
            wait = _time_to_serve(half, middle, lines)
            if wait > endpoint.slo:
                late += rate * width
            else:
                capacity = sum(more for begin, more in lines if begin <= middle + wait)
                slack = endpoint.slo - wait
                chance = self._by_chance(rate, capacity, slack, dispersion)
                if chance > 0.01:
                    chance = min(chance, late_by_drift(rate, capacity * slack, middle, dispersion))
                late += chance * rate * width
            end = moment + width
            served = _served_by(end, lines) - _served_by(moment, lines)
            backlog = max(backlog + rate * width - served, 0.0)
            moment = end
        return late


def _served_by(moment: float, lines: Sequence[tuple[float, float]]) -> float:
    """The most requests served by a moment; each line adds a rate from its beginning on."""
    return sum((moment - begin) * rate for begin, rate in lines if moment > begin)


def _time_to_serve(count: float, moment: float, lines: Sequence[tuple[float, float]]) -> float:
    """Seconds from a moment on until so many requests are served; infinite without capacity."""
    rate = 0.0
    now = moment
    for begin, more in lines:
        if begin > now:
            if rate * (begin - now) >= count and rate:
                break
            count -= rate * (begin - now)
            now = begin
        rate += more
    return now - moment + count / rate if rate else math.inf


class _Hindsight:
    """Whether a constant number of instances would have done better than following the load.

    Where bursts are shorter than an instance takes to start, following them buys instances that
    come too late. So the last hour is replayed with constant numbers. The fewest that would have
    kept the level become a floor where they would have cost less than what was billed, or where
    following did not keep the level.
    """

    def __init__(self, endpoint: EndpointProfile) -> None:
        self._endpoint = endpoint
        self._arrived: deque[int] = deque(maxlen=REPLAYED)
        self._billed: deque[int] = deque(maxlen=REPLAYED)
        self._until_next = LEAST_REPLAYED
        self.floor = 0

    def note(self, arrived: int, have: int, *, fails: bool) -> None:
        """Tell a tick's requests and instances, and whether following fails to keep the level."""
        self._arrived.append(arrived)
        self._billed.append(have)
        self._until_next -= 1
        if self._until_next:
            return
        self._until_next = FAST
        billed = sum(self._billed)
        most = self._endpoint.most if fails else int(billed / len(self._billed) * CHEAPER)
        self.floor = next((n for n in range(1, most + 1) if self._keeps(n)), 0)

    def _keeps(self, count: int) -> bool:
        """Whether so many instances would have kept the level."""
        endpoint = self._endpoint
        capacity = count * endpoint.rate
        allowed = (1 - endpoint.level) * sum(self._arrived)
        backlog = late = 0.0
        for arrived in self._arrived:
            after = max(backlog + arrived - capacity * TICK, 0.0)
            wait = (backlog + after) / 2 / capacity
            if wait > endpoint.slo:
                late += arrived
            elif arrived:
                late += arrived * late_by_chance(
                    arrived / TICK, capacity, endpoint.seconds_per_inference, endpoint.slo - wait
                )
            if late > allowed:
                return False
            backlog = after
        return True


class _Gaps:
    """How long instances were not needed until they were needed again, by their number."""

    def __init__(self, start_seconds: float) -> None:
        self._start = start_seconds
        self._needed_at: dict[int, float] = {}
        self._gaps: dict[int, deque[float]] = {}
        self._before = 0

    def note(self, now: float, needed: int) -> None:
        """Tell how many instances are needed now."""
        for number in range(1, needed + 1):
            if number > self._before and number in self._needed_at:
                gaps = self._gaps.setdefault(number, deque(maxlen=MOST_GAPS))
                gaps.append(now - self._needed_at[number])
            self._needed_at[number] = now
        self._before = needed

    def holds(self, number: int, now: float) -> bool:
        """Whether to keep an instance that is not needed costs less than another start.

        An instance kept for `hold` seconds costs those, and a start if the gap lasts longer. Past
        gaps that were longer than the present one so far tell what to expect, and one gap without
        end. There is always the choice to release at once.
        """
        if number not in self._needed_at:
            return False
        age = now - self._needed_at[number]
        longer = [gap - age for gap in self._gaps.get(number, ()) if gap > age]
        at_once = self._start * (len(longer) + 1)
        return any(
            sum(min(gap, hold) + self._start * (gap > hold) for gap in longer) + hold + self._start
            < at_once
            for hold in longer
            if hold < self._start
        )

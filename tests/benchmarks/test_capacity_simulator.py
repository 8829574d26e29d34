"""The simulator serves, waits and bills as an event by event simulation does."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.rivals import Constant
from benchmarks.capacity.simulator import Bounds, Instance, Run, View, simulate

INSTANCE = Instance(slots=2, seconds_per_inference=0.5, start_seconds=3.0)
SECOND = 1_000_000


@dataclass
class Scripted:
    """Wants what a list says; its last value ever after."""

    wanted: Sequence[int]
    interval: float = 1.0

    def decide(self, view: View) -> int:
        place = round(view.now / self.interval)
        return self.wanted[min(place, len(self.wanted) - 1)]


def one_by_one(arrivals: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Starts, from events in a heap: arrivals, ends, readiness and decisions of each second. It
    shares no code with the simulator."""
    slots, inference, start = 2, SECOND // 2, 3 * SECOND
    # At one moment: ends and readiness, then releases and askings, then arrivals, then starts.
    events: list[tuple[int, int, int]] = [(moment, 2, 0) for moment in arrivals]
    heapq.heapify(events)
    queue: list[int] = []
    starts: list[int] = []
    rentals = [{"ready": 0, "busy": 0, "out": 0, "last": 0} for _ in range(wanted[0])]
    heapq.heappush(events, (0, 1, 0))
    now = 0
    while events:
        now = events[0][0]
        while events and events[0][0] == now:
            _, kind, what = heapq.heappop(events)
            if kind == 0 and what >= 0:
                rentals[what]["busy"] -= 1
            elif kind == 1:
                want = wanted[min(what, len(wanted) - 1)]
                have = [one for one in rentals if not one["out"]]
                for _ in range(want - len(have)):
                    rentals.append({"ready": now + start, "busy": 0, "out": 0, "last": 0})
                    heapq.heappush(events, (now + start, 0, -1))
                for _ in range(len(have) - want):
                    have = [one for one in rentals if not one["out"]]
                    late = [one for one in have if one["ready"] > now]
                    gone = late[-1] if late else min(have, key=lambda one: max(one["last"], now))
                    gone["out"] = 1
                done = not queue and now >= max(arrivals) and len(starts) == len(arrivals)
                if not done and what < 200:
                    heapq.heappush(events, (now + SECOND, 1, what + 1))
            elif kind == 2:
                queue.append(now)
        while queue:
            free = [
                one
                for one in rentals
                if one["ready"] <= now and not one["out"] and one["busy"] < slots
            ]
            if not free:
                break
            # The slot that has been free for longest; a tie falls to no matter which.
            queue.pop(0)
            starts.append(now)
            free[0]["busy"] += 1
            free[0]["last"] = now + inference
            place = next(place for place, one in enumerate(rentals) if one is free[0])
            heapq.heappush(events, (now + inference, 0, place))
    return starts


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, 12 * SECOND), min_size=1, max_size=60),
    st.lists(st.integers(1, 3), min_size=1, max_size=14),
)
def test_requests_start_when_single_events_say_so(gaps: list[int], wanted: list[int]) -> None:
    # Off the whole seconds: a decision at the moment of an end is a matter of convention.
    arrivals = sorted(moment * 2 + 1 for moment in gaps)
    starts = one_by_one(arrivals, wanted)
    run = simulate(
        np.array(arrivals, dtype=np.int64),
        25.0,
        Scripted(wanted),
        Bounds(1, 3),
        INSTANCE,
        wanted[0],
    )
    assert run.lost == 0
    assert (run.waits + np.array(arrivals)).tolist() == starts


@given(st.lists(st.integers(0, 20 * SECOND), min_size=1, max_size=200), st.integers(1, 4))
def test_more_instances_never_make_a_request_wait_longer(moments: list[int], count: int) -> None:
    arrivals = np.array(sorted(moments), dtype=np.int64)
    few, many = (_constant(arrivals, 20.0, number) for number in (count, count + 1))
    assert (many.waits <= few.waits).all()


def _constant(arrivals: np.ndarray, duration: float, count: int) -> Run:
    return simulate(arrivals, duration, Constant(count), Bounds(count, count), INSTANCE)


def test_an_instance_is_billed_from_the_asking_until_its_last_inference_ends() -> None:
    # Three wait for the instance asked for at 0, which serves from 3 s on. At 4 s it is released,
    # and finishes the third, which started at 3.5 s.
    arrivals = np.array([100, 200, 300], dtype=np.int64)
    run = simulate(arrivals, 10.0, Scripted([1, 1, 1, 1, 0]), Bounds(0, 5), INSTANCE, 0)
    assert run.waits.tolist() == [3 * SECOND - 100, 3 * SECOND - 200, int(3.5 * SECOND) - 300]
    assert run.instance_seconds == 4.0
    # The third waits for the next instance, asked for at 4 s.
    early = Scripted([1, 1, 1, 1, 1, 1, 1, 0, 1], interval=0.5)
    run = simulate(arrivals, 10.0, early, Bounds(0, 5), INSTANCE, 0)
    assert run.waits.tolist()[-1] == 7 * SECOND - 300
    assert run.instance_seconds == 3.5 + 6.0


def test_an_instance_on_its_way_is_taken_back_before_one_that_serves() -> None:
    arrivals = np.array([5 * SECOND], dtype=np.int64)
    run = simulate(arrivals, 6.0, Scripted([2, 1]), Bounds(1, 2), INSTANCE, 1)
    assert run.waits.tolist() == [0]
    assert run.instance_seconds == 6.0 + 1.0


def test_what_is_left_at_the_end_is_served_and_billed() -> None:
    arrivals = np.array([0, 1, 2, 3], dtype=np.int64)
    run = simulate(arrivals, 0.5, Constant(1), Bounds(1, 1), INSTANCE)
    assert run.lost == 0
    assert run.instance_seconds == 1.000001


def test_what_no_instance_ever_serves_is_lost() -> None:
    run = simulate(np.array([0], dtype=np.int64), 1.0, Constant(0), Bounds(0, 1), INSTANCE)
    assert (run.lost, len(run.waits)) == (1, 0)


def test_a_policy_sees_no_future() -> None:
    class Curious:
        interval = 1.0

        def decide(self, view: View) -> int:
            return view.arrived(view.now, view.now + 1)

    with pytest.raises(ValueError, match="arrivals until 1 s"):
        simulate(np.array([0], dtype=np.int64), 1.0, Curious(), Bounds(0, 1), INSTANCE)

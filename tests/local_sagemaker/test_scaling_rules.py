"""What policies and alarms make of values: the documented examples, and rules that always hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_sagemaker.clock import MACHINE
from local_sagemaker.monitoring.alarm_states import Alarm, Missing, State
from local_sagemaker.monitoring.statistics import Metric, Statistics, StatisticSet, Values
from local_sagemaker.scaling.policies import (
    LOW_PERIODS,
    Bounds,
    Cooldowns,
    Step,
    StepScaling,
    TargetTracking,
    note,
)

# docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html, both tables:
# the last five of the data points (0: within the threshold, X: breaching it, -: missing), and the
# states where missing data are missing, ignore, breaching and notBreaching. "kept" is the state
# before.
THREE_OF_THREE = {
    "0-X-X": ("OK", "OK", "OK", "OK"),
    "0----": ("OK", "OK", "OK", "OK"),
    "-----": ("INSUFFICIENT_DATA", "kept", "ALARM", "OK"),
    "0XX-X": ("ALARM", "ALARM", "ALARM", "ALARM"),
    "--X--": ("ALARM", "kept", "ALARM", "OK"),
}
TWO_OF_THREE = {
    "0-X-X": ("ALARM", "ALARM", "ALARM", "ALARM"),
    "00X0X": ("ALARM", "ALARM", "ALARM", "ALARM"),
    "0-X--": ("OK", "OK", "ALARM", "OK"),
    "----0": ("OK", "OK", "ALARM", "OK"),
    "---X-": ("ALARM", "kept", "ALARM", "OK"),
}
TREATMENTS: tuple[Missing, ...] = ("missing", "ignore", "breaching", "notBreaching")
STATES: tuple[State, ...] = ("OK", "ALARM", "INSUFFICIENT_DATA")


def series(text: str) -> list[float | None]:
    return [{"0": 0.0, "X": 2.0, "-": None}[one] for one in text]


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize(("needed", "table"), [(3, THREE_OF_THREE), (2, TWO_OF_THREE)])
def test_an_alarm_treats_missing_data_as_documented(
    needed: int, table: dict[str, tuple[str, ...]], before: State
) -> None:
    for text, states in table.items():
        for missing, after in zip(TREATMENTS, states, strict=True):
            found = Alarm(1.0, "GreaterThanThreshold", 3, needed, missing)
            expected = before if after == "kept" else after
            assert found.state(series(text), before) == expected, (text, missing)


def test_a_breach_that_is_too_young_does_not_alarm() -> None:
    alarm = Alarm(1.0, "GreaterThanThreshold", 3, 3)
    assert [alarm.state(series(text), "OK") for text in ("----X", "---X-")] == ["OK", "OK"]


def test_an_alarm_needs_m_of_n() -> None:
    alarm = Alarm(1.0, "GreaterThanThreshold", 5, 2)
    assert alarm.state(series("X0000"), "OK") == "OK"
    assert alarm.state(series("X000X"), "OK") == "ALARM"
    assert alarm.state(series("XX0000"), "OK") == "OK", "only the last five count"


VALUES = st.lists(st.none() | st.floats(0, 1000), min_size=LOW_PERIODS, max_size=LOW_PERIODS)
COOLING = st.floats(0, 1000)


@given(
    VALUES, st.integers(0, 40), st.integers(0, 10), st.integers(10, 40), st.floats(1, 100), COOLING
)
def test_target_tracking_stays_within_bounds_and_moves_towards_its_target(
    values: list[float | None], capacity: int, least: int, most: int, target: float, out_at: float
) -> None:
    tracking, bounds = TargetTracking(target), Bounds(least, most)
    capacity = bounds.within(capacity)
    cooldowns = Cooldowns(out_at=out_at, out_to=capacity)
    decision = tracking.decide(values, capacity, bounds, cooldowns, now=1000.0)
    if decision is None:
        return
    assert least <= decision.capacity <= most
    latest = [value for value in values[-3:] if value is not None]
    if decision.alarm == "AlarmHigh":
        assert decision.capacity > capacity
        assert values[-1] is not None
        assert min(latest) > target
        wanted = math.ceil(max(capacity, 1) * latest[-1] / target)
        assert decision.capacity == min(wanted, most)
    else:
        assert decision.capacity < capacity
        assert out_at + tracking.out_cooldown <= 1000.0
        highest = max(value for value in values if value is not None)
        assert highest * capacity <= decision.capacity * target or decision.capacity == least


def test_target_tracking_scales_in_after_a_quarter_of_an_hour_and_waits_between() -> None:
    tracking, bounds, cooldowns = TargetTracking(10.0, 60, 120), Bounds(1, 9), Cooldowns()
    low: list[float | None] = [2.0] * LOW_PERIODS
    assert tracking.decide([None, *low[1:]], 4, bounds, cooldowns, 0.0) is None, "14 of 15"
    decision = tracking.decide(low, 4, bounds, cooldowns, 0.0)
    assert decision is not None
    assert (decision.capacity, decision.alarm) == (1, "AlarmLow")
    note(cooldowns, decision, 0.0)
    assert tracking.decide(low, 4, bounds, cooldowns, 119.0) is None
    assert tracking.decide(low, 4, bounds, cooldowns, 120.0) is not None
    never = TargetTracking(10.0, scale_in=False)
    assert never.decide(low, 4, bounds, Cooldowns(), 0.0) is None


def test_a_scale_out_within_the_cooldown_adds_only_what_is_more() -> None:
    tracking, bounds, cooldowns = TargetTracking(10.0, 300), Bounds(1, 20), Cooldowns()
    high: list[float | None] = [None] * 12 + [20.0, 20.0, 20.0]
    first = tracking.decide(high, 2, bounds, cooldowns, 0.0)
    assert first is not None
    assert first.capacity == 4
    note(cooldowns, first, 0.0)
    assert tracking.decide(high, 2, bounds, cooldowns, 60.0) is None, "the first is on its way"
    more = tracking.decide([*high[:-1], 35.0], 2, bounds, cooldowns, 60.0)
    assert more is not None
    assert more.capacity == 7


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_a_target_that_could_never_hold_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        TargetTracking(target)


# docs.aws.amazon.com/autoscaling/application/userguide/step-scaling-policy-overview.html
PERCENT = StepScaling(
    "PercentChangeInCapacity", (Step(0, 10, 0), Step(10, 20, 10), Step(20, None, 30))
)
PERCENT_DOWN = StepScaling(
    "PercentChangeInCapacity", (Step(-10, 0, 0), Step(-20, -10, -10), Step(None, -20, -30))
)


@pytest.mark.parametrize(
    ("steps", "breach", "capacity", "after"),
    [
        (PERCENT, 10, 10, 11),
        (PERCENT, 20, 11, 14),
        (PERCENT, 5, 10, 10),
        (PERCENT_DOWN, -10, 10, 9),
        (PERCENT_DOWN, -25, 13, 10),
        (StepScaling("ChangeInCapacity", (Step(0, None, 1),)), 0, 0, 1),
        (StepScaling("ChangeInCapacity", (Step(5, None, 1),)), 4, 2, 2),
        (StepScaling("ExactCapacity", (Step(0, None, 7),)), 3, 2, 7),
        (StepScaling("PercentChangeInCapacity", (Step(0, None, 10),), 3), 1, 10, 13),
    ],
)
def test_steps_change_capacity_as_documented(
    steps: StepScaling, breach: float, capacity: int, after: int
) -> None:
    assert steps.capacity_for(breach, capacity, Bounds(0, 100)) == after


def test_a_step_within_the_cooldown_counts_from_the_capacity_before_the_first() -> None:
    steps = StepScaling("ChangeInCapacity", (Step(0, 10, 1), Step(10, None, 3)), cooldown=300)
    bounds, cooldowns = Bounds(0, 9), Cooldowns()
    first = steps.decide(0.0, 0, bounds, cooldowns, 0.0)
    assert first is not None
    assert first.capacity == 1
    note(cooldowns, first, 0.0, before=0)
    assert steps.decide(0.0, 1, bounds, cooldowns, 60.0) is None, "the first is on its way"
    assert steps.decide(0.0, 3, bounds, cooldowns, 60.0) is None, "another policy added more"
    larger = steps.decide(10.0, 1, bounds, cooldowns, 120.0)
    assert larger is not None
    assert larger.capacity == 3
    after = steps.decide(0.0, 1, bounds, cooldowns, 300.0)
    assert after is not None
    assert after.capacity == 2


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 5)), min_size=1, max_size=20))
def test_statistics_are_those_of_the_values(pairs: list[tuple[float, int]]) -> None:
    values, every = Values(), [value for value, count in pairs for _ in range(count)]
    for value, count in pairs:
        values.add(value, count)
    ordered = sorted(every)
    assert values.statistic("SampleCount") == len(every)
    assert values.statistic("Sum") == pytest.approx(math.fsum(every))
    assert values.statistic("Average") == pytest.approx(math.fsum(every) / len(every))
    assert (values.statistic("Minimum"), values.statistic("Maximum")) == (ordered[0], ordered[-1])
    assert values.statistic("p100") == ordered[-1]
    assert values.statistic("p50") in every
    parts: Any = [every[:3], every[3:]]
    summed = Values(
        sets=[StatisticSet(len(one), math.fsum(one), min(one), max(one)) for one in parts if one]
    )
    assert summed.statistic("Average") == pytest.approx(values.statistic("Average"))
    assert summed.statistic("p90") is None, "a set hides its values"


def test_each_set_of_dimensions_is_a_series_of_its_own_across_restarts() -> None:
    statistics = Statistics(MACHINE)
    one, other = (Metric.of("N", "m", {"EndpointName": name}) for name in ("a", "b"))
    now = statistics.now() // 60 * 60
    statistics.record(one, 1.0, now)
    statistics.record(other, 5.0, now, count=2)
    statistics.record_set(other, StatisticSet(1, 8.0, 8.0, 8.0), now)
    again = Statistics(MACHINE)
    for minute, document in statistics.changed():
        assert document is not None
        again.restore(minute, document)
    assert again.values(one, "Sum", now, now + 60) == [1.0]
    assert again.values(other, "Average", now - 60, now + 60) == [None, 6.0]
    assert list(statistics.changed()) == [], "until something changes"

"""Capacity by queue and by forecast: what the policies promise, whatever the load."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.capacity.predictive import Forecast, PredictiveFloor, Trust, instances_for, quantile
from tenantry.capacity.queueing import late_by_chance, late_by_drift
from tenantry.capacity.reactive import TICK, EndpointProfile, Observation, Reactive

PATIENT = EndpointProfile(4, 0.5, 240.0, 600.0, least=0, most=40)
PROMPT = replace(PATIENT, slo=2.0, least=1)

loads = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 20_000)), min_size=1, max_size=30)


def seen(
    arrived: int, waiting: int = 0, serving: int = 0, starting: tuple[float, ...] = ()
) -> Observation:
    return Observation(0.0, 0.0, arrived, 0, waiting, serving, starting)


@given(st.sampled_from([PATIENT, PROMPT]), loads, st.integers(0, 45))
def test_a_floor_never_lowers_what_the_load_wants(
    endpoint: EndpointProfile, load: list[tuple[int, int]], floor: int
) -> None:
    alone, floored = Reactive(endpoint), Reactive(endpoint)
    serving = endpoint.least
    for place, (arrived, waiting) in enumerate(load):
        one = replace(seen(arrived, waiting, serving), now=place * TICK)
        without, within = alone.decide(one), floored.decide(one, floor)
        assert within >= without
        assert within >= min(floor, endpoint.most)
        assert endpoint.least <= without <= endpoint.most
        serving = without


@given(st.sampled_from([PATIENT, PROMPT]), st.integers(1, 2000), st.integers(0, 10_000))
def test_what_waits_is_never_left_without_an_instance(
    endpoint: EndpointProfile, arrived: int, waiting: int
) -> None:
    policy = Reactive(endpoint)
    first = policy.decide(seen(arrived, waiting + arrived, 0))
    moment = TICK
    while not first and moment < endpoint.slo:
        first = policy.decide(replace(seen(0, waiting + arrived, 0), now=moment))
        moment += TICK
    assert first >= 1
    assert moment <= max(endpoint.slo - endpoint.start_seconds, 2 * TICK)


def test_a_patient_endpoint_asks_in_time_for_a_start_and_lets_more_requests_share_it() -> None:
    policy = Reactive(PATIENT)
    asked = [
        policy.decide(replace(seen(20 if place == 0 else 0, 20), now=place * TICK))
        for place in range(40)
    ]
    first = asked.index(1) * TICK
    margin = PATIENT.slo - PATIENT.start_seconds - first
    assert 0.25 * PATIENT.start_seconds <= margin <= 0.25 * PATIENT.start_seconds + 3 * TICK


def test_more_backlog_asks_for_no_fewer_instances() -> None:
    asked = [
        Reactive(PATIENT).decide(seen(waiting, waiting)) for waiting in range(3000, 60_000, 3000)
    ]
    assert asked == sorted(asked)
    assert asked[0] < asked[-1]


def test_an_idle_instance_is_released_and_a_busy_one_is_not() -> None:
    policy = Reactive(PATIENT)
    policy.decide(seen(100, 100, 1))
    assert policy.decide(seen(0, 100, 1)) == 1
    for _ in range(20):
        policy.decide(seen(0, 0, 1))
    assert policy.decide(seen(0, 0, 1)) == 0


def test_bursts_that_start_too_fast_to_follow_leave_a_constant_number() -> None:
    policy = Reactive(PROMPT)
    for place in range(360):
        burst = place % 30 < 3
        now = replace(seen(400 if burst else 10, 800 if burst else 0, 1), now=place * TICK)
        policy.decide(replace(now, late=350 if burst else 0))
    assert policy.decide(replace(seen(10, 0, 1), now=3600.0)) >= 5


@given(st.floats(0.1, 300), st.floats(0, 5), st.floats(1, 5))
def test_chance_falls_with_capacity(rate: float, spare: float, dispersion: float) -> None:
    less = late_by_chance(rate, rate + spare, 0.5, 2.0, dispersion)
    more = late_by_chance(rate, rate + spare + 1, 0.5, 2.0, dispersion)
    assert 0 <= more <= less <= 1


def test_drift_needs_time_and_requests() -> None:
    assert late_by_drift(10, 50, 0) == 0
    assert late_by_drift(10, 50, 10) < late_by_drift(10, 50, 100) < 1


def forecast(*rates: float) -> Forecast:
    return Forecast((0.1, 0.5, 0.9), {n: (r * 0.9, r, r * 1.1) for n, r in enumerate(rates)})


def test_capacity_is_asked_for_a_start_time_before_its_hour() -> None:
    policy = PredictiveFloor(PROMPT, forecast(10, 30))
    before = policy.floor(3600 - PROMPT.start_seconds - 2 * TICK)
    assert policy.floor(3600 - PROMPT.start_seconds) > before
    assert policy.floor(3600 + 10) > before
    # Later in the hour, its own load decides; and the third hour has no forecast.
    assert policy.floor(3600 + 1800) == PROMPT.least
    assert policy.floor(2 * 3600 + 10) == PROMPT.least


def test_the_floor_keeps_the_level_at_its_quantile() -> None:
    for rate in (3, 7.9, 23.5, 100):
        count = instances_for(PROMPT, rate)
        assert late_by_chance(rate, count * PROMPT.rate, 0.5, PROMPT.slo) <= 0.05
        assert count == 1 or late_by_chance(rate, (count - 1) * PROMPT.rate, 0.5, 2.0) > 0.05


def test_the_quantile_rises_with_the_service_level_and_with_the_start_time() -> None:
    assert quantile(replace(PROMPT, level=0.99)) > quantile(PROMPT)
    assert quantile(replace(PROMPT, start_seconds=600.0)) > quantile(PROMPT)


def test_late_requests_raise_the_quantile_and_their_absence_lowers_it() -> None:
    policy = PredictiveFloor(PROMPT)
    before = policy.level
    policy.note(1800, 1000, 300)
    policy.note(3600 + TICK, 1, 0)
    raised = policy.level
    assert raised > before
    policy.note(2 * 3600 + TICK, 1, 0)
    assert policy.level < raised


def test_a_forecast_that_misses_is_not_followed_until_it_holds_again() -> None:
    policy = PredictiveFloor(PROMPT, forecast(*[10.0] * 60))
    for hour in range(10):
        policy.note(hour * 3600 + 1800, 30 * 3600, 0)
    assert "capacity follows the load alone" in (policy.trust.doubt or "")
    assert policy.floor(10 * 3600 + 10) == PROMPT.least
    for hour in range(10, 40):
        policy.note(hour * 3600 + 1800, 8 * 3600, 3600)
    assert policy.trust.doubt is None
    assert policy.floor(40 * 3600 + 10) > PROMPT.least


def test_misses_that_chance_explains_are_no_doubt() -> None:
    trust = Trust()
    for place in range(20):
        trust.note(place % 5 == 0, 0.75)
    assert trust.doubt is None


@pytest.mark.parametrize(
    ("levels", "values", "said"),
    [
        ((0.5, 0.5), (1.0, 2.0), "levels of a forecast ascend"),
        ((0.5, 0.9), (1.0,), "hour 0 has 1 values, not 2"),
        ((0.5, 0.9), (2.0, 1.0), "do not ascend"),
        ((0.5, 0.9), (1.0, float("nan")), "do not ascend"),
    ],
)
def test_a_malformed_forecast_is_refused(
    levels: tuple[float, ...], values: tuple[float, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Forecast(levels, {0: values})

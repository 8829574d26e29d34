"""Timetables: the cron expressions against croniter and AWS's form, and the bounds of a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dagster._vendored.croniter.croniter import croniter
from hypothesis import assume, given
from hypothesis import strategies as st

from local_sagemaker.scaling.schedules import Schedule
from tenantry.capacity.timetable import Bounds, actions_of, bounds_at
from tenantry.workloads.capacity import EndpointCapacity
from tenantry.workloads.cron import as_aws, cron_fault, latest_before, on_aws_fault

ZONES = st.sampled_from(["UTC", "Europe/London", "America/New_York", "Asia/Kolkata"])
FIRST, LAST = (datetime.fromisoformat(day) for day in ("2025-01-01", "2027-12-31"))
MOMENTS = st.datetimes(FIRST, LAST, timezones=ZONES.map(ZoneInfo))


def by_croniter(expression: str, moment: datetime) -> Any:
    return croniter(expression, moment)  # type: ignore[no-untyped-call]


def parts(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.tuples(number, number)
        .filter(lambda pair: pair[0] < pair[1])
        .map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.integers(1, high).map(lambda step: f"*/{step}"),
        st.lists(number, min_size=2, max_size=3, unique=True).map(
            lambda found: ",".join(map(str, found))
        ),
    )


CRONS = st.tuples(parts(0, 59), parts(0, 23), st.just("*"), parts(1, 12), parts(0, 6)).map(
    " ".join
) | st.tuples(parts(0, 59), parts(0, 23), parts(1, 28), parts(1, 12), st.just("*")).map(" ".join)


@given(CRONS, MOMENTS)
def test_the_time_before_is_croniters(expression: str, moment: datetime) -> None:
    assume(cron_fault(expression) is None)
    # Where clocks are set, croniter and a calendar differ; the hours beside it are left out.
    assume(moment.utcoffset() == (moment - timedelta(days=370)).utcoffset())
    beside = {(moment + timedelta(hours=hours)).utcoffset() for hours in (-26, 0, 26)}
    assume(len(beside) == 1)
    found = latest_before(expression, moment)
    expected = by_croniter(expression, moment + timedelta(microseconds=1)).get_prev(datetime)
    if moment - expected > timedelta(days=360):
        return
    assert found is not None
    assume(found.utcoffset() == moment.utcoffset())
    assert found == expected


@given(CRONS, st.integers(0, 400))
def test_aws_runs_an_expression_at_the_same_times(expression: str, days: int) -> None:
    assume(cron_fault(expression) is None)
    assert on_aws_fault(expression) is None
    moment = datetime(2025, 1, 1, 12, 30, tzinfo=UTC) + timedelta(days=days)
    following = Schedule.parse(as_aws(expression), "UTC").next_after(moment)
    assert following == by_croniter(expression, moment).get_next(datetime)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("0 7 1 * 1", "AWS takes one of the two"),
        ("0 7 L * *", "has L or #"),
        ("0 7 * * 5#2", "has L or #"),
    ],
)
def test_what_aws_cannot_say_is_told(expression: str, why: str) -> None:
    assert cron_fault(expression) is None
    fault = on_aws_fault(expression)
    assert fault is not None
    assert why in fault


def section(**more: Any) -> EndpointCapacity:
    london = "Europe/London"
    return EndpointCapacity.model_validate(
        {
            "minimum": 1,
            "maximum": 4,
            "timetable": [
                {"name": "day", "cron": "0 7 * * 1-5", "timezone": london, "minimum": 3},
                {
                    "name": "night",
                    "cron": "0 19 * * 1-5",
                    "timezone": london,
                    "minimum": 0,
                    "maximum": 2,
                },
            ],
            "policies": [{"kind": "scale_from_zero"}],
            **more,
        }
    )


@pytest.mark.parametrize(
    ("moment", "bounds"),
    [
        ("2026-06-10T05:59:00", Bounds(0, 2)),  # 06:59 in London
        ("2026-06-10T06:00:00", Bounds(3, 4)),
        ("2026-12-10T06:59:00", Bounds(0, 2)),
        ("2026-12-10T07:00:00", Bounds(3, 4)),
        ("2026-06-13T12:00:00", Bounds(0, 2)),  # a Saturday: Friday's night goes on
        ("2026-12-25T12:00:00", Bounds(0, 2)),  # a holiday
    ],
)
def test_the_change_that_came_last_holds(moment: str, bounds: Bounds) -> None:
    of = section(holidays={"country": "GB", "change": "night"})
    assert bounds_at(of, datetime.fromisoformat(moment).replace(tzinfo=UTC), 4) == bounds


def test_without_a_timetable_the_sections_bounds_hold_and_a_budget_caps_them() -> None:
    plain = section(timetable=[], minimum=2, maximum=9, monthly_budget_usd=730.0)
    now = datetime(2026, 6, 10, tzinfo=UTC)
    assert bounds_at(plain, now, plain.affordable(0.1)) == Bounds(2, 9)
    assert bounds_at(plain, now, plain.affordable(0.25)) == Bounds(2, 4)


def test_a_holiday_gets_its_change_a_minute_after_the_days_other() -> None:
    of = section(holidays={"country": "GB", "change": "night"})
    actions = {
        action.name: action for action in actions_of(of, datetime(2026, 11, 30, tzinfo=UTC), 4)
    }
    assert actions["tenantry-day"].schedule == "cron(0 7 ? * MON,TUE,WED,THU,FRI *)"
    christmas = actions["tenantry-holiday-2026-12-25-day"]
    assert (christmas.schedule, christmas.timezone) == ("at(2026-12-25T07:01:00)", "Europe/London")
    assert christmas.bounds == Bounds(0, 2)
    assert not any("2026-12-26" in name for name in actions), "a Saturday has no change"
    assert not any(name.endswith("-night") for name in actions if "holiday" in name)

"""When scheduled actions run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from dagster._vendored.croniter.croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from local_sagemaker.scaling.schedules import InvalidScheduleError, Schedule

NOON = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)  # a Monday
MOMENTS = st.integers(1_577_836_800, 2_051_222_400).map(  # the years from 2020 to 2034
    lambda second: datetime.fromtimestamp(second, UTC)
)


def runs(
    expression: str, count: int = 2, timezone: str | None = None, after: datetime = NOON
) -> list[str]:
    """The next runs after a moment, in UTC."""
    schedule, found = Schedule.parse(expression, timezone), list[str]()
    following: datetime | None = after
    while len(found) < count and (following := schedule.next_after(following or after)):
        found.append(f"{following:%Y-%m-%d %H:%M}")
    return found


def by_croniter(expression: str, after: datetime) -> datetime:
    """The next run of a cron expression of five fields, by the library that Dagster uses."""
    found: datetime = croniter(expression, after).get_next(datetime)  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("cron(0 7 ? * MON-FRI *)", ["2026-12-01 07:00", "2026-12-02 07:00"]),
        ("cron(0/20 12 ? * * *)", ["2026-11-30 12:20", "2026-11-30 12:40"]),
        ("cron(0 12 L * ? *)", ["2026-12-31 12:00", "2027-01-31 12:00"]),
        ("cron(0 8 1W * ? *)", ["2026-12-01 08:00", "2027-01-01 08:00"]),
        ("cron(0 8 15W 8 ? *)", ["2027-08-16 08:00", "2028-08-15 08:00"]),
        ("cron(0 8 LW 1 ? *)", ["2027-01-29 08:00", "2028-01-31 08:00"]),
        ("cron(15 10 ? * 6L 2027-2028)", ["2027-01-29 10:15", "2027-02-26 10:15"]),
        ("cron(0 8 ? * 2#1 *)", ["2026-12-07 08:00", "2027-01-04 08:00"]),
        ("cron(0 0 29 2 ? *)", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("cron(0 0 ? * FRI-SUN *)", ["2026-12-04 00:00", "2026-12-05 00:00"]),
        ("cron(0 0 30 2 ? *)", []),
        ("cron(0 0 1 1 ? 2020)", []),
        ("rate(90 minutes)", ["2026-11-30 13:30", "2026-11-30 15:00"]),
        ("at(2026-12-24T18:30:00)", ["2026-12-24 18:30"]),
        ("at(2026-11-30T12:00:00)", []),
    ],
)
def test_an_expression_runs_when_aws_documents_it(expression: str, wanted: list[str]) -> None:
    assert runs(expression) == wanted


def test_clocks_are_those_of_the_zone_and_none_of_its_days_is_skipped() -> None:
    assert runs("cron(0 7 ? * * *)", 1, "Europe/London", datetime(2026, 7, 1, tzinfo=UTC)) == [
        "2026-07-01 06:00"
    ]
    spring = datetime(2026, 3, 28, 12, tzinfo=UTC)  # half past one is skipped on the 29th
    assert runs("cron(30 1 ? * * *)", 2, "Europe/London", spring) == [
        "2026-03-29 01:30",
        "2026-03-30 00:30",
    ]
    autumn = datetime(2026, 10, 24, 12, tzinfo=UTC)  # half past one comes twice on the 25th
    assert runs("cron(30 1 ? * * *)", 2, "Europe/London", autumn) == [
        "2026-10-25 00:30",
        "2026-10-26 01:30",
    ]


def test_start_and_end_bound_the_runs_and_a_rate_counts_from_its_start() -> None:
    start, end = NOON + timedelta(minutes=7), NOON + timedelta(minutes=20)
    schedule = Schedule.parse("rate(10 minutes)", None, start, end)
    assert schedule.next_after(NOON) == start
    assert schedule.next_after(start) == NOON + timedelta(minutes=17)
    assert schedule.next_after(NOON + timedelta(minutes=17)) is None


@pytest.mark.parametrize(
    ("expression", "timezone", "why"),
    [
        ("every day", None, "not at"),
        ("cron(0 7 * * MON *)", None, "must be"),
        ("cron(0 7 ? * ? *)", None, "must be"),
        ("cron(99 99 ? * * *)", None, "minutes '99'"),
        ("cron(0 0 32 * ? *)", None, "day-of-month"),
        ("cron(0 0 ? * 8 *)", None, "day-of-week"),
        ("cron(0 0 ? * MON#6 *)", None, "day-of-week"),
        ("cron(0/0 0 ? * * *)", None, "step"),
        ("cron(* * * * ?)", None, "six"),
        ("cron(0 7 ? * MON-FRI *)", "Europe/Londn", "Time zone"),
        ("cron(0 7 ? * MON-FRI *)", "../etc/passwd", "Time zone"),
        ("rate(1 minutes)", None, "rate"),
        ("rate(0 hours)", None, "rate"),
        ("at(2026-13-01T00:00:00)", None, "yyyy-mm-dd"),
    ],
)
def test_what_aws_refuses_is_refused_with_the_reason(
    expression: str, timezone: str | None, why: str
) -> None:
    with pytest.raises(InvalidScheduleError, match=why):
        Schedule.parse(expression, timezone)


@given(
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    days=st.sets(st.integers(0, 6), min_size=1),
    zone=st.sampled_from(["UTC", "Asia/Tokyo", "Asia/Kolkata"]),
    after=MOMENTS,
)
def test_days_of_the_week_are_as_croniter_has_them(
    minute: int, hour: int, days: set[int], zone: str, after: datetime
) -> None:
    """croniter counts Sunday as 0 and AWS as 1. The zones are some whose clocks do not change."""
    theirs = f"{minute} {hour} * * {','.join(map(str, sorted(days)))}"
    ours = f"cron({minute} {hour} ? * {','.join(str(day + 1) for day in sorted(days))} *)"
    local = after.astimezone(ZoneInfo(zone))
    assert Schedule.parse(ours, zone).next_after(after) == by_croniter(theirs, local)


@given(
    minute=st.sampled_from(["*", "*/15", "5-10", "0,30"]),
    hour=st.sampled_from(["*", "7", "8-17", "0/6"]),
    day=st.integers(1, 31),
    after=MOMENTS,
)
def test_days_of_the_month_are_as_croniter_has_them(
    minute: str, hour: str, day: int, after: datetime
) -> None:
    theirs = f"{minute} {hour.replace('0/6', '*/6')} {day} * *"
    ours = Schedule.parse(f"cron({minute} {hour} {day} * ? *)")
    assert ours.next_after(after) == by_croniter(theirs, after)

"""Dagster accepts every cron expression that the schema accepts, and faults are named."""

from __future__ import annotations

import pytest
from dagster._utils.schedules import is_valid_cron_string
from hypothesis import given
from hypothesis import strategies as st

from tenantry.workloads.cron import cron_fault


@pytest.mark.parametrize(
    "expression",
    [
        "15 2 * * *",
        "*/15 * * * *",
        "0 7 * * 1-5",
        "0 7 * * MON-FRI",
        "0 22-2 * * fri-mon",
        "0,30 8-18/2 1,15 jan-jun *",
        "5/10 * * * 7",
        "0 0 L * *",
        "0 0 * * 5#2",
        "0 0 * * L5",
        "0 0 ? * 1",
        "0 0 29 2 *",
    ],
)
def test_what_cron_and_dagster_know_is_taken(expression: str) -> None:
    assert cron_fault(expression) is None
    assert is_valid_cron_string(expression)


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("at seven", "needs five fields"),
        ("@daily", "needs five fields"),
        ("0 0 * * * *", "needs five fields"),
        ("0  0 * * *", "needs five fields"),
        ("60 0 * * *", "has the minute '60': it takes 0 to 59"),
        ("0 26 * * *", "has the hour '26': it takes 0 to 23"),
        ("0 0 0 * *", "has the day of the month '0': it takes 1 to 31"),
        ("0 0 * 13 *", "has the month '13': it takes 1 to 12, or jan, feb"),
        ("0 0 * * 8", "has the day of the week '8': it takes 0 to 7, or sun, mon"),
        ("0 0 * * funday", "has the day of the week 'funday'"),
        ("*/0 * * * *", "its steps are of 1 to 59"),
        ("5-5 * * * *", "is a range of one; write 5"),
        ("1,,2 * * * *", "write numbers, ranges as 1-5"),
        ("? * * * *", "write numbers"),
        ("0 0 30 feb *", "never comes: no month 'feb' has a day '30'"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("0 0 31 2 1", "never comes"),
    ],
)
def test_what_is_wrong_is_said(expression: str, fault: str) -> None:
    assert fault in (cron_fault(expression) or "")


WORDS = ["*", "?", "l", "L5", "5#2", "5#6", "mon", "FRI", "jan", "dec", "x"]
ITEMS = st.sampled_from([*map(str, (0, 1, 5, 7, 12, 23, 28, 30, 31, 59, 60)), *WORDS])
PARTS = st.one_of(
    ITEMS,
    st.tuples(ITEMS, ITEMS).map("-".join),
    st.tuples(ITEMS, st.integers(0, 70).map(str)).map("/".join),
    st.tuples(st.tuples(ITEMS, ITEMS).map("-".join), st.integers(0, 70).map(str)).map("/".join),
)
FIELDS = st.lists(PARTS, min_size=1, max_size=3).map(",".join)


@given(st.lists(FIELDS, min_size=5, max_size=5).map(" ".join) | st.text(max_size=20))
def test_dagster_takes_whatever_is_taken(expression: str) -> None:
    assert cron_fault(expression) is not None or is_valid_cron_string(expression)


@given(st.integers(0, 59), st.integers(0, 23), st.integers(1, 28), st.integers(1, 12))
def test_every_moment_that_comes_each_year_is_taken(
    minute: int, hour: int, day: int, month: int
) -> None:
    assert cron_fault(f"{minute} {hour} {day} {month} *") is None

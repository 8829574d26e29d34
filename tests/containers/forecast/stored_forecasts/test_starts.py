"""The start of a forecast: the requested start on the customer's clock, and the model's reach."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containers.forecast.stored_forecasts.starts import (
    DATA_END,
    InvalidStartError,
    check,
    instant,
    resolve,
)

# already the next day in Berlin, whose clock jumps ahead at 01:00 UTC
NOW = datetime(2026, 3, 28, 23, 20, tzinfo=UTC)


def card(
    frequency: str = "h", timezone: str = "Europe/Berlin", end: str = "2026-03-01T00:00:00Z"
) -> dict[str, Any]:
    return {
        "frequency": frequency,
        "timezone": timezone,
        "data": {"end": end},
        "horizon_points": 336,
    }


def start(value: str | None, described: dict[str, Any], now: datetime = NOW) -> str:
    request = {"period": 7} if value is None else {"period": 7, "start": value}
    resolved = resolve(request, described, now)
    assert resolved == {"period": 7, "start": resolved["start"]}
    return str(resolved["start"])


@pytest.mark.parametrize(
    ("asked", "frequency", "expected"),
    [
        (None, "h", "2026-03-29T00:00:00Z"),  # the next full hour
        (None, "D", "2026-03-30"),  # the day that begins next
        ("2026-03-29", "h", "2026-03-28T23:00:00Z"),
        ("2026-03-29", "D", "2026-03-29"),
        ("2026-03-30", "h", "2026-03-29T22:00:00Z"),
        ("2026-03-29T00:00", "h", "2026-03-28T23:00:00Z"),
        ("2026-03-29 00:00:00", "D", "2026-03-29"),
        ("2026-03-29T00:01", "D", "2026-03-30"),
        (
            "2026-03-29T02:30",
            "h",
            "2026-03-29T02:00:00Z",
        ),  # skipped: 03:30 of summer time, in the hour from 01:00Z
        ("2026-10-25T02:00", "h", "2026-10-25T00:00:00Z"),  # shown twice: the first
        ("2026-10-25T02:00+01:00", "h", "2026-10-25T01:00:00Z"),
        ("2026-03-29T12:00:00Z", "h", "2026-03-29T12:00:00Z"),
        ("2026-03-29T12:00:00.1Z", "h", "2026-03-29T13:00:00Z"),
        (
            "2026-03-29t12:00:00,0000001z",
            "h",
            "2026-03-29T12:00:00Z",
        ),  # finer than the resolution of Python's clock
        ("2026-03-29T23:30:00-05", "D", "2026-03-31"),
    ],
)
def test_a_start_is_told_by_the_customers_clock_and_never_lies_before_what_is_asked(
    asked: str | None, frequency: str, expected: str
) -> None:
    assert start(asked, card(frequency)) == expected


def test_the_present_is_a_start_where_an_hour_or_a_day_begins() -> None:
    midnight = datetime(2026, 3, 28, 23, tzinfo=UTC)
    assert start(None, card(), midnight) == "2026-03-28T23:00:00Z"
    assert start(None, card("D"), midnight) == "2026-03-29"


def test_midnights_that_a_clock_skips_or_shows_twice_begin_their_day() -> None:
    assert start("2017-10-15", card(timezone="America/Sao_Paulo")) == "2017-10-15T03:00:00Z"
    assert start("2017-10-15", card("D", "America/Sao_Paulo")) == "2017-10-15"
    assert start("2025-11-02", card(timezone="America/Havana")) == "2025-11-02T04:00:00Z"
    assert start("2025-11-02", card("D", "America/Havana")) == "2025-11-02"


def test_hours_begin_at_the_minute_at_which_those_of_the_data_do() -> None:
    half_past = card(timezone="Asia/Kolkata", end="2026-02-28T18:30:00Z")
    assert start("2026-03-29", half_past) == "2026-03-28T18:30:00Z"
    assert start(None, half_past) == "2026-03-28T23:30:00Z"
    assert start("2026-03-29", card(timezone="Asia/Kolkata")) == "2026-03-28T19:00:00Z"


def test_a_card_without_clock_or_data_is_one_of_utc() -> None:
    assert start("2026-03-29", {}) == "2026-03-29T00:00:00Z"
    assert (
        start("2026-03-29", {"timezone": "Mars/Crater", "frequency": "h"}) == "2026-03-29T00:00:00Z"
    )


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        7,
        True,
        [],
        {},
        "",
        "today",
        "2026-3-1",
        "20260301",
        "2026-03",
        "2026-W10-1",
        "2026-02-30",
        "1969-12-31",
        "9999-12-31",
        "2026-03-29T24:00",
        "2026-03-29T12",
        "2026-03-29T12:00+25:00",
        "2026-03-29T12:00 Z",
        "２026-03-29",
        "2026-03-29\n",
        "2026-03-29T12:60",
        "2026-03-29T12:00" + "0" * 60,
    ],
)
def test_a_malformed_start_is_refused_in_words_and_never_quoted(malformed: Any) -> None:
    with pytest.raises(InvalidStartError) as caught:
        resolve({"start": malformed}, card(), NOW)
    assert (caught.value.code, caught.value.field) == ("start_malformed", "start")


@settings(max_examples=50, deadline=None)
@given(
    # The zone is drawn beside it.
    moment=st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)),  # noqa: DTZ001
    zone=st.sampled_from(
        [
            "UTC",
            "Europe/London",
            "America/St_Johns",
            "Asia/Kathmandu",
            "Australia/Lord_Howe",
            "Africa/Cairo",
        ]
    ),
    frequency=st.sampled_from(["h", "D"]),
    form=st.sampled_from(["now", "date", "local", "instant"]),
)
def test_resolving_twice_changes_nothing_and_no_start_lies_before_or_far_from_what_is_asked(
    moment: datetime, zone: str, frequency: str, form: str
) -> None:
    described, here = card(frequency, zone), moment.replace(tzinfo=UTC)
    asked: dict[str, dict[str, Any]] = {
        "now": {},
        "date": {"start": moment.date().isoformat()},
        "local": {"start": moment.isoformat()},
        "instant": {"start": moment.isoformat() + "+00:00"},
    }
    resolved = resolve(asked[form], described, here)
    assert resolve(resolved, described, NOW) == resolved
    if frequency == "h":
        wanted = here
        if form in ("date", "local"):
            local = (
                moment
                if form == "local"
                else moment.replace(hour=0, minute=0, second=0, microsecond=0)
            )
            wanted = local.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
        assert timedelta() <= instant(resolved["start"]) - wanted < timedelta(hours=1)


def test_a_start_beyond_reach_is_told_with_the_date_the_data_end_and_a_code() -> None:
    new = {**card(), "usable_from": "2026-02-22T00:00:00Z", "usable_until": "2026-05-03T00:00:00Z"}
    for within in ("2026-02-22T00:00:00Z", "2026-05-02T23:00:00Z"):
        check({"start": within}, new)
    for beyond, described in (("2026-05-03T00:00:00Z", new), ("2026-03-15T00:00:00Z", card())):
        with pytest.raises(
            InvalidStartError, match="its data end at 2026-03-01T00:00:00Z"
        ) as caught:
            check({"start": beyond}, described)
        assert caught.value.code == "start_beyond_reach"
    for before, described in (("2026-02-21T23:00:00Z", new), ("2026-02-28T23:00:00Z", card())):
        with pytest.raises(
            InvalidStartError, match="its data end at 2026-03-01T00:00:00Z"
        ) as caught:
            check({"start": before}, described)
        assert caught.value.code == "start_before_reach"


@pytest.mark.parametrize("frequency", ["h", "D"])
def test_a_smoke_request_is_within_reach_however_old_the_data_are(frequency: str) -> None:
    old = card(frequency, end="2019-03-01T00:00:00Z")
    asked = resolve({"period": 1, "start": DATA_END}, old, NOW)
    assert asked == {
        "period": 1,
        "start": "2019-03-01T00:00:00Z" if frequency == "h" else "2019-03-01",
    }
    assert resolve(asked, old, NOW) == asked
    check(asked, old)
    with pytest.raises(InvalidStartError, match="does not tell"):
        resolve({"period": 1, "start": DATA_END}, {"frequency": frequency}, NOW)

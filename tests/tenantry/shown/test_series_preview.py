"""A predicted series for people: its days follow the customer's clock, and malformed series are not
shown."""

from __future__ import annotations

import io
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tenantry.shown.series_preview import Series, series_of

LONDON = ZoneInfo("Europe/London")
HOURS = [f"2026-06-{day:02}T{hour:02}:00:00Z" for day in (1, 2) for hour in range(24)]


def answer(**changed: Any) -> dict[str, Any]:
    mean = [1.0 + (hour == 6) for _ in (1, 2) for hour in range(24)]
    ends = {"0.1": [0.5] * 48, "0.5": mean, "0.9": [3.0] * 48}
    whole = {"unit": "kWh", "timestamps": HOURS, "mean": mean, "quantiles": ends}
    return {**whole, **changed}


def series(**changed: Any) -> Series:
    found = series_of(answer(**changed), LONDON)
    assert found is not None
    return found


def test_a_line_a_day_is_told_by_the_clock_of_the_zone() -> None:
    first, second, third = series().days().rows
    assert first == {
        "day": "Mon 01 Jun 2026",
        "points": 23,  # London is an hour ahead, so the 24th point is in the next day
        "total, kWh": 24.0,
        "highest, kWh": 2.0,
        "highest at": "07:00",
    }
    assert (second["points"], third["points"], third["total, kWh"]) == (24, 1, 1.0)


def test_days_without_an_offset_stay_as_they_are() -> None:
    days = series(timestamps=["2026-06-01", "2026-06-02"], mean=[1.0, 2.0], quantiles={})
    assert [row["day"] for row in days.days().rows] == ["Mon 01 Jun 2026", "Tue 02 Jun 2026"]


def test_the_plot_is_a_picture_with_or_without_an_interval_and_a_point_has_none() -> None:
    for found in (series(), series(quantiles=None)):
        drawn = found.plot("acme")
        assert drawn is not None
        assert Image.open(io.BytesIO(drawn)).size == (560, 210)
    assert series(timestamps=HOURS[:1], mean=[1.0], quantiles={}).plot("acme") is None


@pytest.mark.parametrize(
    "changed",
    [
        {"timestamps": HOURS[:-1]},
        {"timestamps": [*HOURS[1:], HOURS[0]]},
        {"timestamps": [*HOURS[:-1], "2026-06-03T00:00:00"]},
        {"timestamps": [5] * 48},
        {"mean": "1" * 48},
        {"mean": [float("nan")] * 48},
        {"mean": [1e16] * 48},
        {"quantiles": {"0.1": [1.0]}},
        {"quantiles": 5},
        {"mean": []},
    ],
)
def test_what_is_malformed_is_not_shown(changed: dict[str, Any]) -> None:
    assert series_of(answer(**changed), LONDON) is None


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_no_document_breaks_the_view(value: Any) -> None:
    for name in ("timestamps", "mean", "quantiles", "unit"):
        series_of(answer(**{name: value}), LONDON)
    series_of(value, LONDON)

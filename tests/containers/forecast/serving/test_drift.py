"""A served forecast against later readings: the request to the model, and the answer's score."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.forecast.consumption.preparation import prepare
from containers.forecast.consumption.series import UnusableSeriesError
from containers.forecast.serving.drift import FEWEST_DAYS, Scored, question, score

LONDON = {"timezone": "Europe/London", "country": "GB"}
END = datetime(2026, 3, 26, tzinfo=UTC)  # of the model's data; three days before the clock changes
WEEKS = 8
Fresh = Callable[..., Path]


def card(
    end: datetime = END, frequency: Literal["h", "D"] = "h", horizon: int = 336
) -> dict[str, Any]:
    return {
        "frequency": frequency,
        "horizon_points": horizon,
        "data": {"end": end.strftime("%Y-%m-%dT%H:%M:%SZ")},
    }


def consumption(hours: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    hour = np.arange(hours)
    return (
        10
        + 3 * np.sin(2 * np.pi * hour / 24)
        + (hour % 168) / 40
        + np.random.default_rng(5).normal(0, 0.3, hours)
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Fresh:
    """Prepared data that end this many days after the model's; ``without`` leaves out readings."""

    def make(
        days: float, *, without: slice | None = None, weeks: int = WEEKS, parameters: Any = LONDON
    ) -> Path:
        start = END - timedelta(weeks=weeks)
        count = weeks * 168 + round(days * 24)
        frame = pd.DataFrame(
            {
                "timestamp": pd.date_range(start, periods=count, freq="h"),
                "consumption": consumption(count).round(4),
            }
        )
        if without is not None:
            new = weeks * 168
            frame = frame.drop(frame.index[new:][without])
        raw, folder = tmp_path / "raw.csv", tmp_path / "prepared"
        frame.to_csv(raw, index=False)
        prepare([raw], folder, parameters)
        return folder

    return make


def answer(
    mean: np.ndarray[Any, Any], start: datetime = END, frequency: str = "h", width: float = 1.0
) -> dict[str, Any]:
    step = timedelta(hours=1) if frequency == "h" else timedelta(days=1)
    stamps = [(start + step * number).strftime("%Y-%m-%dT%H:%M:%SZ") for number in range(len(mean))]
    return {
        "frequency": frequency,
        "timestamps": stamps,
        "mean": mean.tolist(),
        "quantiles": {
            "0.1": (mean - width).tolist(),
            "0.5": mean.tolist(),
            "0.9": (mean + width).tolist(),
        },
    }


def truth(days: int) -> np.ndarray[Any, Any]:
    return consumption(WEEKS * 168 + days * 24).round(4)[WEEKS * 168 :]


def scored(found: Scored | None) -> Scored:
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("days", "asked"),
    [(0, None), (2, None), (3, {"hours": 72}), (10, {"hours": 240}), (20, {"hours": 336})],
)
def test_the_served_model_is_asked_for_the_days_that_are_newer_than_it_and_within_its_horizon(
    fresh: Fresh, days: int, asked: dict[str, Any] | None
) -> None:
    assert question(fresh(days), card()) == (asked and {**asked, "start": "data_end"})


def test_of_days_with_too_few_readings_nothing_is_asked(fresh: Fresh) -> None:
    folder = fresh(5, without=slice(0, 60))
    assert question(folder, card()) is None
    assert question(folder, card(end=END - timedelta(days=30), horizon=336)) is not None
    assert question(folder, card(end=END - timedelta(days=200), horizon=336)) is None, (
        "its horizon ended long ago"
    )


def test_a_daily_model_is_asked_for_days_of_hourly_readings(fresh: Fresh) -> None:
    folder = fresh(14)
    # With readings until midnight of UTC, the last local date in summer time lacks only one hour,
    # and is kept.
    assert question(folder, card(frequency="D", horizon=28)) == {"period": 14, "start": "data_end"}
    told = np.full(14, truth(14).reshape(14, 24).sum(axis=1).mean())
    found = scored(score(answer(told, frequency="D", width=30), folder))
    assert 0 < found.metrics["wape"] < 0.2
    assert question(folder, card(frequency="D", horizon=5)) is None, (
        f"{FEWEST_DAYS['D']} days at least"
    )


def test_hours_are_not_made_of_days(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    stamps = pd.date_range(END - timedelta(days=90), periods=100, freq="D")
    pd.DataFrame({"timestamp": stamps, "consumption": consumption(100)}).to_csv(raw, index=False)
    prepare([raw], tmp_path / "prepared", LONDON)
    with pytest.raises(UnusableSeriesError, match="frequency D"):
        question(tmp_path / "prepared", card())


def test_what_came_as_it_was_said_has_no_error_and_is_drawn(fresh: Fresh) -> None:
    found = scored(score(answer(truth(7)), fresh(7)))
    assert (found.metrics["mase"], found.metrics["wape"], found.metrics["coverage80"]) == (0, 0, 1)
    assert found.metrics["baseline_mase"] > 0.5
    assert found.facts == {
        "fresh_from": "2026-03-26T00:00:00Z",
        "fresh_to": "2026-04-02T00:00:00Z",
        "readings": 168,
    }
    assert found.preview["local_start"] == "2026-03-26T00:00:00"
    assert len(found.preview["truth"]) == len(found.preview["mean"]) == 168
    json.dumps(found.preview, allow_nan=False)


def test_missing_readings_are_neither_scored_nor_drawn(fresh: Fresh) -> None:
    told = truth(7)
    told[:48] += 1000  # for hours without readings
    found = scored(score(answer(told), fresh(7, without=slice(0, 48))))
    assert (found.metrics["mase"], found.facts["readings"]) == (0, 120)
    assert found.preview["truth"][:48] == [None] * 48


def test_the_seasonal_naive_answer_scores_as_the_baseline_also_where_the_clock_changes(
    fresh: Fresh,
) -> None:
    folder = fresh(7)
    history = consumption(WEEKS * 168 + 168).round(4)[: WEEKS * 168]
    naive = history[-168:].copy()
    change = 73  # hours until 01:00 UTC of 29 March, when London's clock goes on by an hour
    naive[change:] = np.roll(history[-168:], -1)[change:]
    found = scored(score(answer(naive), folder))
    assert found.metrics["mase"] == pytest.approx(found.metrics["baseline_mase"], abs=1e-4)


def test_without_two_weeks_before_it_a_forecast_cannot_be_measured(fresh: Fresh) -> None:
    folder = fresh(21, weeks=1)
    assert score(answer(truth(7)), folder) is None
    assert score(answer(truth(7), start=END - timedelta(days=90)), folder) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told.pop("timestamps"),
        lambda told: told.update(timestamps=[]),
        lambda told: told.update(timestamps=["yesterday"]),
        lambda told: told["quantiles"].pop("0.9"),
        lambda told: told.update(mean=told["mean"][:-1]),
        lambda told: told["mean"].__setitem__(0, math.nan),
        lambda told: told.update(frequency="W"),
    ],
)
def test_an_answer_the_server_does_not_give_is_an_error_and_no_score(
    fresh: Fresh, spoil: Callable[[dict[str, Any]], object]
) -> None:
    told = answer(truth(7))
    spoil(told)
    with pytest.raises((KeyError, ValueError, LookupError)):
        score(told, fresh(7))


@given(factor=st.floats(1.1, 3.0))
def test_the_farther_the_readings_are_from_what_was_said_the_worse_the_score(
    factor: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = _prepared_once(tmp_path_factory)
    near, far = (
        scored(score(answer(truth(7) * by), folder)).metrics["mase"]
        for by in (1 + (factor - 1) / 2, factor)
    )
    assert 0 < near < far


_FOLDERS: list[Path] = []


def _prepared_once(factory: pytest.TempPathFactory) -> Path:
    if not _FOLDERS:
        base = factory.mktemp("drift")
        count = WEEKS * 168 + 168
        stamps = pd.date_range(END - timedelta(weeks=WEEKS), periods=count, freq="h")
        pd.DataFrame({"timestamp": stamps, "consumption": consumption(count).round(4)}).to_csv(
            base / "r.csv", index=False
        )
        prepare([base / "r.csv"], base / "prepared", LONDON)
        _FOLDERS.append(base / "prepared")
    return _FOLDERS[0]

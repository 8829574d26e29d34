"""Compares a served forecast with the readings that came after it.

A model forecasts from where its training data end. Newer readings show how good that forecast was.
It is scored like the held-out week at training, on every reading within its horizon, beside the
seasonal naive forecast from the same origin.
"""

import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from containers.forecast.consumption.series import (
    PER_DAY,
    STEP,
    Series,
    UnusableSeriesError,
    daily,
    future_points,
    read_series,
    weeks_of,
)
from containers.forecast.models import scores
from containers.forecast.models.candidates import SeasonalNaive
from containers.forecast.models.scores import SCORED_LEVELS, naive_error
from containers.forecast.stored_forecasts import starts

FEWEST_DAYS: Final = {"h": 3, "D": 7}
"""The least number of days of readings for a score; with fewer it is mostly chance."""

FEWEST_WEEKS: Final = 2
"""Weeks needed before the forecast; the naive forecast's error is measured from one to the next."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """The scores of a served forecast.

    `metrics` have the names and meanings of those of training. `facts` are for people; `preview`
    asks for a plot.
    """

    metrics: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict)
    preview: Mapping[str, Any] = field(default_factory=dict)


def question(prepared: Path, card: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request to the served model whose answer covers the readings newer than the model.

    `prepared` is the folder of the fresh data, as preparation wrote it, and `card` that of the
    served model. None when too few readings lie within the model's horizon.

    Raises `UnusableSeriesError`, and KeyError, TypeError or ValueError for a card that training did
    not write.
    """
    series = _like(_read(prepared), str(card["frequency"]))
    end = datetime.strptime(str(card["data"]["end"]), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    count = min(_points_after(series, int(end.timestamp())), int(card["horizon_points"]))
    if not _enough(series, int(end.timestamp()), count):
        return None
    return {
        ("hours" if series.frequency == "h" else "period"): count,
        starts.FIELD: starts.DATA_END,
    }


def score(answer: Mapping[str, Any], prepared: Path) -> Scored | None:
    """Score the served model's answer to `question`.

    None when the answer cannot be compared: the fresh data do not reach two weeks before it, or
    have too few of its hours.

    Raises `UnusableSeriesError`, and KeyError, TypeError or ValueError for an answer that the
    server did not give.
    """
    series = _like(_read(prepared), str(answer["frequency"]))
    start = int(datetime.fromisoformat(str(answer["timestamps"][0])).timestamp())
    mean = np.array(answer["mean"], np.float64)
    told = np.column_stack(
        [
            mean,
            *(np.array(answer["quantiles"][f"{level:g}"], np.float64) for level in SCORED_LEVELS),
        ]
    )
    if not np.isfinite(told).all():
        raise ValueError("the answer holds a value that is no number")
    truth = _window(series, start, len(told))
    before = _before(series, start)
    if before is None or not _enough(series, start, len(told)):
        return None
    weeks = weeks_of(before)
    if np.isfinite(weeks.values).any(axis=1).sum() < FEWEST_WEEKS:
        return None
    scale = naive_error(weeks.values)
    last_week = SeasonalNaive().forecast(weeks, [len(weeks.values)], 1, SCORED_LEVELS)[0, 0]
    baseline = last_week[future_points(before, len(told)) % weeks.season]
    found = scores.score(truth, told, scale, SCORED_LEVELS)
    plain = scores.score(truth, baseline, scale, SCORED_LEVELS)
    return Scored(
        metrics={
            "mase": round(found.mase, 4),
            "baseline_mase": round(plain.mase, 4),
            "wape": round(found.wape, 4),
            "baseline_wape": round(plain.wape, 4),
            "pinball": round(found.pinball, 4),
            "baseline_pinball": round(plain.pinball, 4),
            "coverage80": round(found.coverage80, 4),
        },
        facts={
            "fresh_from": _stamp(start),
            "fresh_to": _stamp(start + len(told) * STEP[series.frequency]),
            "readings": int(np.isfinite(truth).sum()),
        },
        preview=_preview(series, start, truth, told),
    )


def _read(prepared: Path) -> Series:
    return read_series(prepared, {}, prepared)


def _like(series: Series, frequency: str) -> Series:
    """The series at the frequency of the model."""
    if frequency == "D" and series.frequency == "h":
        return daily(series)
    if frequency != series.frequency:
        raise UnusableSeriesError(
            f"The fresh data are of frequency {series.frequency}, the served model of {frequency}."
        )
    return series


def _points_after(series: Series, start: int) -> int:
    return max(0, (series.end - start) // STEP[series.frequency])


def _window(series: Series, start: int, count: int) -> _Floats:
    """The readings of `count` points from `start` on, NaN where there are none."""
    window = np.full(count, np.nan)
    offset = (start - series.start) // STEP[series.frequency]
    first, last = max(0, offset), min(len(series.values), offset + count)
    if first < last:
        window[first - offset : last - offset] = series.values[first:last]
    return window


def _enough(series: Series, start: int, count: int) -> bool:
    known = np.isfinite(_window(series, start, count)).sum()
    return bool(known >= FEWEST_DAYS[series.frequency] * PER_DAY[series.frequency])


def _before(series: Series, start: int) -> Series | None:
    """The part of the series before the forecast; None where there is none, or where the series
    ends earlier."""
    count = (start - series.start) // STEP[series.frequency]
    if not 0 < count <= len(series.values):
        return None
    return Series(
        series.start, series.values[:count], series.frequency, series.timezone, series.country
    )


def _preview(series: Series, start: int, truth: _Floats, told: _Floats) -> dict[str, Any]:
    """Truth beside forecast, for a plot of the kind `forecast`, with the local clock's offset at
    the beginning."""
    clock = UTC if series.frequency == "D" else zoneinfo.ZoneInfo(series.timezone)
    local_start = datetime.fromtimestamp(start, clock).replace(tzinfo=None)
    columns = [_rounded(column) for column in told.T]
    return {
        "kind": "forecast",
        "local_start": local_start.isoformat(),
        "frequency": series.frequency,
        "timezone": series.timezone,
        "unit": "kWh",
        "truth": [value if np.isfinite(value) else None for value in _rounded(truth)],
        "mean": columns[0],
        "q10": columns[1 + SCORED_LEVELS.index(0.1)],
        "q90": columns[1 + SCORED_LEVELS.index(0.9)],
    }


def _rounded(values: _Floats) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


def _stamp(seconds: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )

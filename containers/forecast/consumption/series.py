"""A prepared series, and its rearrangement into weeks of the customer's own clock, which the models
use.

People live by the local clock: on real households, features in local time take MASE from 0.909 to
0.857 in the week of a clock change and lose nothing elsewhere. UTC instants are therefore placed on
a wall-clock grid once. The hour that a clock skips is missing; the hour that it shows twice is
averaged. Models see weeks, and forecasts are mapped back to instants.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from containers.forecast.consumption.preparation import (
    DATA_FILE,
    DAY,
    HOUR,
    SERIES_FILE,
    Frequency,
    prepare,
)
from containers.runtime.errors import ContainerError

SEASON: Final[Mapping[Frequency, int]] = {"h": 168, "D": 7}
"""Points in a week."""

PER_DAY: Final[Mapping[Frequency, int]] = {"h": 24, "D": 1}

STEP: Final[Mapping[Frequency, int]] = {"h": HOUR, "D": DAY}
"""Seconds from one point to the next."""

_SERIES_BYTES: Final = 64 << 10
_DATA_BYTES: Final = 32 << 20

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class UnusableSeriesError(ContainerError, ValueError):
    """Preparation did not write these files, or they do not support the hyperparameters."""


@dataclass(frozen=True)
class Series:
    """A regular series: `values` in kWh (NaN where missing) from `start`, in seconds of UTC since
    1970."""

    start: int
    values: Floats
    frequency: Frequency
    timezone: str
    country: str | None

    @property
    def end(self) -> int:
        """The first instant after the series, where forecasts start, in seconds of UTC since
        1970."""
        return self.start + len(self.values) * STEP[self.frequency]


def read_series(folder: Path, parameters: Mapping[str, Any], workspace: Path) -> Series:
    """The series in `folder`. Raw files (without `series.json`) are first prepared into
    `workspace`.

    Raises `UnusableSeriesError`, or `RefusedDataError` where raw files are refused.
    """
    if not (folder / SERIES_FILE).is_file():
        raw = sorted(
            path
            for path in folder.iterdir()
            if path.suffix in (".csv", ".parquet") and path.is_file()
        )
        prepare(raw, workspace, parameters)
        folder = workspace
    described = _described(folder / SERIES_FILE)
    values = _values(folder / DATA_FILE)
    start = int(
        datetime.strptime(described["start"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    )
    if len(values) != described["rows"] or not np.isfinite(values).any():
        raise UnusableSeriesError(
            f"{DATA_FILE} does not have the {described['rows']} rows that {SERIES_FILE} promises."
        )
    with np.errstate(invalid="ignore"):
        if (values < 0).any() or np.isinf(values).any():
            raise UnusableSeriesError(f"{DATA_FILE} has negative or infinite consumption.")
    return Series(
        start, values, described["frequency"], described["timezone"], described["country"]
    )


def _described(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _SERIES_BYTES:
            raise UnusableSeriesError(f"{path.name} is larger than {_SERIES_BYTES} bytes.")
        described = json.loads(path.read_bytes())
        valid = (
            described["format"] == 1
            and described["frequency"] in SEASON
            and isinstance(described["timezone"], str)
            and (described["country"] is None or isinstance(described["country"], str))
            and type(described["rows"]) is int
            and isinstance(described["start"], str)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnusableSeriesError(
            f"{path.name} is not what preparation writes: {error!r}."
        ) from error
    if not valid:
        raise UnusableSeriesError(f"{path.name} is not what preparation writes.")
    return dict(described)


def _values(path: Path) -> Floats:
    import pyarrow as pa
    from pyarrow import csv

    try:
        if path.stat().st_size > _DATA_BYTES:
            raise UnusableSeriesError(f"{path.name} is larger than {_DATA_BYTES} bytes.")
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False),
            convert_options=csv.ConvertOptions(
                include_columns=["consumption"], column_types={"consumption": pa.float64()}
            ),
        )
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UnusableSeriesError(
            f"{path.name} is not what preparation writes: {error}."
        ) from error
    return np.array(table["consumption"].to_numpy(), dtype=np.float64)


def daily(series: Series) -> Series:
    """Sums of an hourly series by local date; a day that lacks up to two hours is scaled up, one
    that lacks more is missing.

    Incomplete days at both ends are left out.
    """
    local = local_hours(series.timezone, series.start, len(series.values))
    dates = local // 24
    first = int(dates[0])
    index = dates - first
    known = np.isfinite(series.values)
    hours = np.bincount(index)
    present = np.bincount(index, weights=known)
    sums = np.bincount(index, weights=np.where(known, series.values, 0.0))
    enough = (present >= hours - 2) & (hours >= 22)
    values = np.where(enough, sums * hours / np.maximum(present, 1), np.nan)
    whole = np.flatnonzero(hours >= 23)
    if len(whole) == 0:
        raise UnusableSeriesError("The hourly series has no whole day to sum.")
    low, high = int(whole[0]), int(whole[-1]) + 1
    return Series((first + low) * DAY, values[low:high], "D", series.timezone, series.country)


@lru_cache(maxsize=64)
def local_hours(timezone: str, start: int, count: int) -> Integers:
    """Hours of the wall clock since its 1970 for `count` hours of UTC from `start` (seconds): one
    number per hour.

    The result is cached, because a product's customers mostly share clock and window.
    """
    instants = start + HOUR * np.arange(count, dtype=np.int64)
    if timezone == "UTC":
        return instants // HOUR
    import pandas as pd

    wall = (
        pd.DatetimeIndex(instants.astype("datetime64[s]"), tz="UTC")
        .tz_convert(timezone)
        .tz_localize(None)
    )
    hours: Integers = wall.to_numpy().astype("datetime64[s]").astype(np.int64) // HOUR
    hours.setflags(write=False)
    return hours


@dataclass(frozen=True)
class Weeks:
    """A series as weeks of the local clock, the last of which ends where the series ends.

    `values` has the shape (weeks, points of a week), with NaN before the series. Because weeks end
    with the series, the first column is the point of the week that follows the end, not Monday.
    `end` is the local point (hour or day since 1970) after the last.
    """

    values: Floats
    end: int
    frequency: Frequency
    country: str | None

    @property
    def season(self) -> int:
        """Points in a week."""
        return int(self.values.shape[1])

    @property
    def per_day(self) -> int:
        """Points in a day."""
        return PER_DAY[self.frequency]

    def until(self, week: int) -> "Weeks":
        """The same without the weeks from `week` on."""
        left = len(self.values) - week
        return Weeks(
            self.values[:week], self.end - left * self.season, self.frequency, self.country
        )


def weeks_of(series: Series) -> Weeks:
    """Lay a series on the wall clock and cut it into weeks from its end."""
    season = SEASON[series.frequency]
    if series.frequency == "D":
        wall, end = series.values, series.end // DAY
    else:
        local = local_hours(series.timezone, series.start, len(series.values) + 1)
        first, end = int(local[0]), int(local[-1])
        index = local[:-1] - first
        wall = np.full(end - first, np.nan)
        wall[np.minimum(index, len(wall) - 1)] = series.values
        shown_twice = np.flatnonzero(np.diff(index) == 0)
        for hour in shown_twice.tolist():
            wall[index[hour]] = (series.values[hour] + series.values[hour + 1]) / 2
    count = -(-len(wall) // season)
    padded = np.full(count * season, np.nan)
    padded[count * season - len(wall) :] = wall
    return Weeks(padded.reshape(count, season), end, series.frequency, series.country)


def future_points(series: Series, count: int) -> Integers:
    """The position of each of the `count` points after the series in the following local weeks,
    from 0."""
    if series.frequency == "D":
        return np.arange(count, dtype=np.int64)
    local = local_hours(series.timezone, series.end, count)
    # The end may lie within the hour that the clock shows twice; its second showing is the first
    # point.
    points: Integers = np.maximum(local - local[0], 0)
    return points

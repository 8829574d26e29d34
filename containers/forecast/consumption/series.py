"""A prepared series, and its rearrangement into weeks of the customer's own clock, which the models
use.

People live by the local clock: on real households, features in local time take MASE from 0.909 to
0.857 in the week of a clock change and lose nothing elsewhere. UTC instants are therefore placed on
a wall-clock grid once. The hour that a clock skips is missing; the hour that it shows twice is
averaged. Models see weeks, and forecasts are mapped back to instants.
"""

import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from containers.forecast.consumption.prepared_files import (
    DAY,
    HOUR,
    SERIES_FILE,
    STEP,
    Floats,
    Frequency,
    Series,
    UnusableSeriesError,
    read_prepared,
)

__all__ = [
    "PER_DAY",
    "SEASON",
    "STEP",
    "Floats",
    "Integers",
    "Series",
    "UnusableSeriesError",
    "Weeks",
    "daily",
    "future_points",
    "read_series",
    "weeks_of",
]

Integers = NDArray[np.int64]

SEASON: Final[Mapping[Frequency, int]] = {"h": 168, "D": 7}
"""Points in a week."""

PER_DAY: Final[Mapping[Frequency, int]] = {"h": 24, "D": 1}


def read_series(folder: Path, parameters: Mapping[str, Any], workspace: Path) -> Series:
    """The series in `folder`. Raw files (without `series.json`) are first prepared into
    `workspace`.

    Raises `UnusableSeriesError`, or `RefusedDataError` where raw files are refused.
    """
    if not (folder / SERIES_FILE).is_file():
        # The server reads series too, without what reads strangers' files.
        from containers.forecast.consumption.preparation import prepare

        raw = sorted(
            path
            for path in folder.iterdir()
            if path.suffix in (".csv", ".parquet") and path.is_file()
        )
        prepare(raw, workspace, parameters)
        folder = workspace
    return read_prepared(folder)


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
    hours: Integers = (instants + _offsets(timezone, start, count)) // HOUR
    hours.setflags(write=False)
    return hours


def _offsets(timezone: str, start: int, count: int) -> Integers:
    """The clock's seconds ahead of UTC for `count` hours from `start` on.

    No clock is changed and changed back within a day, so that a day whose ends agree is asked
    twice only.
    """
    zone = zoneinfo.ZoneInfo(timezone)

    def offset(hour: int) -> int:
        moment = datetime.fromtimestamp(start + hour * HOUR, UTC).astimezone(zone)
        told = moment.utcoffset()
        return int(told.total_seconds()) if told else 0

    offsets = np.empty(count, dtype=np.int64)
    begin, at_begin = 0, offset(0) if count else 0
    while begin < count:
        end = min(begin + 24, count)
        at_end = offset(end)
        offsets[begin:end] = (
            at_begin if at_begin == at_end else [offset(hour) for hour in range(begin, end)]
        )
        begin, at_begin = end, at_end
    return offsets


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

    def latest(self, count: int) -> "Weeks":
        """The last `count` weeks, or all if there are fewer."""
        return Weeks(self.values[-count:], self.end, self.frequency, self.country)

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

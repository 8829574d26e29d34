"""Turns a customer's files into one regular series. Training and every other reader of history use
the same code.

It repairs these faults, and counts them in `Prepared.repairs`:

- rows out of order are sorted (`sorted_rows`);
- rows that repeat a timestamp and its value are merged (`merged_duplicates`);
- rows that repeat a timestamp with a different value are averaged, up to 1 % of the timestamps
  (`averaged_conflicts`);
- unordered rows of an hour that the clock showed twice are averaged (`averaged_clock_changes`);
- readings every 5 to 30 minutes are summed to hours, and an hour that lacks one is missing
  (`incomplete_hours`);
- missing readings stay missing, up to 30 % of the series (`missing`), because the models tolerate
  them.

It refuses any other fault with a reason, the column or parameter, and a cure.

Timestamps mark the beginning of the interval that a reading covers; those in its last minute
(13:59, 13:59:59) mean the same interval. With a UTC offset they are instants. Without one they are
wall-clock times in the parameter `timezone`; for an hour that the clock shows twice, `wall_clock`
decides between the two. The labels of a daily series are the file's local dates, written as
midnight with a `Z`.
"""

import contextlib
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from containers.forecast.consumption.checks import (
    at_beginnings,
    check_phase,
    check_range,
    check_values,
    interval_of,
    usual_level,
)
from containers.forecast.consumption.prepared_files import (
    DAY,
    HOUR,
    STEP,
    Frequency,
    Incomplete,
    Series,
    longest_readings,
    read_incomplete,
    read_prepared,
    write_prepared,
)
from containers.forecast.consumption.reading import CONSUMPTION, TIMESTAMP, Readings, read_files
from containers.forecast.consumption.wall_clock import dates, instants
from contracts.refused_data import RefusedDataError

__all__ = ["Frequency", "Prepared", "RefusedDataError", "extend", "prepare"]

SHORTEST_DAYS: Final[Mapping[Frequency, int]] = {"h": 3, "D": 3}
"""The shortest series, in days. With three days the last can be held out, and the other two still
differ."""

DECIMALS: Final = 9
"""Decimals of computed kWh: finer than any meter, and coarser than the rounding errors of sums."""

MAX_MISSING: Final = 0.30
MAX_CONFLICTS: Final = 0.01
LEVEL: Final = 20.0
"""New readings whose median is this many times the 99th percentile of the series have another unit,
or are a meter's totals."""

PRELOADED: Final = (
    "pyarrow.csv",
    "pyarrow.parquet",
    "pyarrow.compute",
    "pandas",
    "holidays.registry",
)
"""Modules that are imported where they are needed. A caller that prepares many files in child
processes imports them first."""

_ADVERB: Final[Mapping[Frequency, str]] = {"h": "hourly", "D": "daily"}
_COUNTRY: Final = re.compile(r"[A-Z]{2}")


@dataclass(frozen=True)
class Prepared:
    """The result of `prepare`: points on the grid, their first and last time, and figures for
    people."""

    rows: int
    first: datetime
    last: datetime
    frequency: Frequency
    repairs: Mapping[str, int]
    facts: Mapping[str, Any]
    fingerprint: str


def prepare(
    files: Sequence[Path],
    destination: Path,
    parameters: Mapping[str, Any],
    *,
    now: datetime | None = None,
) -> Prepared:
    """Check one customer's files and write them as a regular series into the folder `destination`.

    `files` are CSV or Parquet with the columns `timestamp` and `consumption` (kWh), and perhaps
    `customer_id` with one value. `now` is the present, for the check that no reading lies in the
    future. `parameters` are:

    - `timezone`: an IANA name; when it is absent or UTC, the zone that Parquet's timestamps name;
    - `country`: ISO 3166-1 alpha-2, for public holidays; absent for none.

    It writes two files, with equal bytes for equal content:

    - `data.csv`: `timestamp,consumption` on a regular grid, blank where missing;
    - `series.json`: frequency, timezone, country, unit, start, rows.

    Raises `RefusedDataError`.
    """
    timezone = _timezone(parameters, "UTC")
    country = _country(parameters)
    readings = read_files(files)
    if timezone == "UTC" and readings.zone is not None:
        timezone = readings.zone
    repairs: dict[str, int] = {}
    points = _points(readings, timezone, repairs, now)
    start, grid = _grid(points, repairs)
    series = Series(start, grid, points.frequency, timezone, country)
    facts = {"interval_minutes": points.interval // 60, "ignored_columns": readings.ignored_columns}
    return _written(destination, series, points.incomplete, repairs, facts)


def extend(
    prepared: Path,
    files: Sequence[Path],
    destination: Path,
    parameters: Mapping[str, Any],
    *,
    now: datetime | None = None,
) -> Prepared:
    """Continue a prepared series with newer readings, and write the longer one into `destination`.

    `prepared` is the folder that `prepare` or `extend` wrote. `files` are read as by `prepare`;
    they need not be long, vary or be without gaps. A point that the series knows stays as it is, so
    that uploads may repeat, overlap and come in any order. Readings from before the series are left
    out. The series keeps its time zone and country. The parameter `timezone` tells the clock of
    these files alone; absent, or `UTC` as in workloads' files, means the series' own.

    Raises `RefusedDataError`, and `UnusableSeriesError` where `prepared` is no prepared series.
    """
    known = read_prepared(prepared)
    timezone = _timezone(parameters, known.timezone)
    _country(parameters)
    readings = read_files(files)
    if timezone == "UTC" and readings.zone is not None:
        timezone = readings.zone
    repairs: dict[str, int] = {}
    points = _points(readings, timezone, repairs, now, known, read_incomplete(prepared))
    grid, new = _continued(known, points)
    missing = int((~np.isfinite(grid)).sum())
    if missing:
        repairs["missing"] = missing
    series = Series(known.start, grid, known.frequency, known.timezone, known.country)
    facts = {
        "interval_minutes": points.interval // 60,
        "ignored_columns": readings.ignored_columns,
        "new_readings": new,
        "known_readings": len(points.times) - new,
    }
    return _written(destination, series, points.incomplete, repairs, facts)


@dataclass(frozen=True)
class _Points:
    """Checked readings, hourly or daily, ascending and each once, their interval in the files
    (seconds), and those of hours that lack others."""

    times: NDArray[np.int64]
    values: NDArray[np.float64]
    frequency: Frequency
    interval: int
    incomplete: Incomplete


def _points(
    readings: Readings,
    timezone: str,
    repairs: dict[str, int],
    now: datetime | None,
    known: Series | None = None,
    waiting: Incomplete = MappingProxyType({}),
) -> _Points:
    """The points of a file's rows; `known` is the series that they continue, and `waiting` are the
    readings of its incomplete hours."""
    check_range(readings, now or datetime.now(UTC))
    present = np.isfinite(readings.values)
    if not present.any():
        raise RefusedDataError(
            "Every consumption cell is blank.",
            CONSUMPTION,
            "Upload a file with readings.",
            code="all_blank",
        )
    interval = interval_of(readings.times[present], known)
    frequency: Frequency = "D" if interval >= DAY else "h"
    if known is not None and known.frequency != frequency:
        raise RefusedDataError(
            f"These readings are {_ADVERB[frequency]}, and the series is "
            f"{_ADVERB[known.frequency]}.",
            TIMESTAMP,
            f"Upload {_ADVERB[known.frequency]} readings, or a whole history as training data.",
            code="frequency_differs",
        )
    if frequency == "D":
        times, values = dates(readings, timezone, present), readings.values
    else:
        times, values = instants(readings, timezone, repairs)
    check_values(readings, times, present, frequency == "D", known)
    if frequency == "h":
        times = at_beginnings(times, interval)
        check_phase(readings, times, interval)
    times, values = times[present], values[present]
    times, values = _without_duplicates(times, values, repairs)
    if interval < HOUR:
        times, values, waiting = _hourly(times, values, interval, repairs, waiting)
    return _Points(times, values, frequency, interval, waiting)


def _written(
    destination: Path,
    series: Series,
    incomplete: Incomplete,
    repairs: dict[str, int],
    facts: Mapping[str, Any],
) -> Prepared:
    fingerprint = write_prepared(destination, series, incomplete)
    step, grid = STEP[series.frequency], series.values
    present = grid[np.isfinite(grid)]
    first = datetime.fromtimestamp(series.start, UTC)
    last = datetime.fromtimestamp(series.end - step, UTC)
    return Prepared(
        rows=len(grid),
        first=first,
        last=last,
        frequency=series.frequency,
        repairs=repairs,
        facts={
            "first": first.isoformat(),
            "last": last.isoformat(),
            "days": round(len(grid) * step / DAY, 1),
            "timezone": series.timezone,
            "country": series.country,
            "missing_share": round(1 - len(present) / len(grid), 4),
            "longest_gap": _longest_gap(grid),
            "mean_kwh": round(float(present.mean()), 4),
            "largest_kwh": round(float(present.max()), 4),
            "total_kwh": round(float(present.sum()), 1),
            **facts,
        },
        fingerprint=fingerprint,
    )


def _timezone(parameters: Mapping[str, Any], default: str) -> str:
    """The parameter `timezone`; `default` where it is absent or UTC."""
    name = parameters.get("timezone") or "UTC"
    if name == "UTC":
        return default
    if isinstance(name, str):
        # A folder of the database (Europe) or a name outside it raises OSError or ValueError.
        with contextlib.suppress(zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            zoneinfo.ZoneInfo(name)
            return name
    raise RefusedDataError(
        "The parameter timezone names no time zone that is known.",
        "timezone",
        "Give an IANA name, such as Europe/London.",
        code="timezone_unknown",
    )


def _country(parameters: Mapping[str, Any]) -> str | None:
    code = parameters.get("country")
    if code is None or code == "":
        return None
    if isinstance(code, str) and _COUNTRY.fullmatch(code):
        from holidays.registry import EntityLoader

        # holidays.list_supported_countries imports every country's module, which takes longer than
        # the rest of the preparation.
        if code in EntityLoader.get_country_codes(include_aliases=False):
            return code
    raise RefusedDataError(
        "The parameter country names no country whose holidays are known.",
        "country",
        "Give two capitals as in ISO 3166-1, such as GB, or leave it out.",
        code="country_unknown",
    )


def _without_duplicates(
    times: NDArray[np.int64], values: NDArray[np.float64], repairs: dict[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    steps = np.diff(times)
    if (steps < 0).any():
        repairs["sorted_rows"] = int((steps < 0).sum())
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
        steps = np.diff(times)
    if (steps > 0).all():
        return times, values
    unique, inverse, counts = np.unique(times, return_inverse=True, return_counts=True)
    low, high = np.full(len(unique), np.inf), np.full(len(unique), -np.inf)
    np.minimum.at(low, inverse, values)
    np.maximum.at(high, inverse, values)
    conflicts = int((low != high).sum())
    if conflicts > MAX_CONFLICTS * len(unique):
        raise RefusedDataError(
            f"{conflicts} timestamps have two different values; up to {MAX_CONFLICTS:.0%} of "
            f"{len(unique)} are averaged.",
            TIMESTAMP,
            "Upload one row per timestamp; several meters are summed before.",
            code="conflicting_rows",
        )
    merged = len(times) - len(unique) - conflicts
    if merged > 0:
        repairs["merged_duplicates"] = merged
    if conflicts:
        repairs["averaged_conflicts"] = conflicts
    means = np.round(np.bincount(inverse, weights=values) / counts, DECIMALS)
    return unique, np.where(low == high, low, means)


def _hourly(
    times: NDArray[np.int64],
    values: NDArray[np.float64],
    interval: int,
    repairs: dict[str, int],
    waiting: Incomplete,
) -> tuple[NDArray[np.int64], NDArray[np.float64], Incomplete]:
    """Sums of whole hours of UTC, and the readings of others. Those that were `waiting` join."""
    present = set(times.tolist())
    joining = {
        moment: value
        for moment, (their, value) in waiting.items()
        if their == interval and moment not in present
    }
    if joining:
        times = np.concatenate([times, np.array(list(joining), dtype=np.int64)])
        values = np.concatenate([values, np.array(list(joining.values()))])
        order = np.argsort(times)
        times, values = times[order], values[order]
    hours, inverse, counts = np.unique(times // HOUR, return_inverse=True, return_counts=True)
    whole = counts == HOUR // interval
    if not whole.all():
        repairs["incomplete_hours"] = int((~whole).sum())
    if not whole.any():
        raise RefusedDataError(
            "No hour has all its readings.",
            TIMESTAMP,
            "Upload readings without gaps.",
            code="no_whole_hour",
        )
    sums = np.round(np.bincount(inverse, weights=values), DECIMALS)
    left = ~whole[inverse]
    waiting = {
        **{moment: one for moment, one in waiting.items() if one[0] != interval},
        **{
            moment: (interval, value)
            for moment, value in zip(times[left].tolist(), values[left].tolist(), strict=True)
        },
    }
    return hours[whole] * HOUR, sums[whole], waiting


def _grid(points: _Points, repairs: dict[str, int]) -> tuple[int, NDArray[np.float64]]:
    """The first time and the values on the regular grid, NaN where missing."""
    times, values, frequency = points.times, points.values, points.frequency
    step = STEP[frequency]
    index = (times - times[0]) // step
    count = int(index[-1]) + 1
    days = count * step / DAY
    if days < SHORTEST_DAYS[frequency]:
        raise RefusedDataError(
            f"The {_ADVERB[frequency]} series spans {days:.1f} days; at least "
            f"{SHORTEST_DAYS[frequency]} are needed.",
            TIMESTAMP,
            "Upload a longer history.",
            code="history_too_short",
        )
    missing = count - len(index)
    if missing > MAX_MISSING * count:
        raise RefusedDataError(
            f"{missing / count:.0%} of the readings are missing; at most {MAX_MISSING:.0%} may be.",
            CONSUMPTION,
            "Upload the missing readings, or a stretch with fewer gaps.",
            code="too_many_gaps",
        )
    if missing:
        repairs["missing"] = missing
    if values.min() == values.max():
        raise RefusedDataError(
            "Consumption is the same in every row.",
            CONSUMPTION,
            "Upload measured values; this meter stands still.",
            code="consumption_constant",
        )
    grid = np.full(count, np.nan)
    grid[index] = values
    return int(times[0]), grid


def _continued(known: Series, points: _Points) -> tuple[NDArray[np.float64], int]:
    """The values of a series that new points continue, and how many of them are new."""
    step = STEP[known.frequency]
    times, values = points.times, points.values
    off = (times - known.start) % step != 0
    if off.any():
        raise RefusedDataError(
            f"The readings' hours begin at minute {int(times[np.argmax(off)]) % HOUR // 60}, those "
            f"of the series at minute {known.start % HOUR // 60}.",
            TIMESTAMP,
            "Upload readings at the minutes of the history, or a whole history as training data.",
            code="phase_differs",
        )
    usual = usual_level(known.values)
    if usual is not None and np.median(values) > LEVEL * usual:
        raise RefusedDataError(
            f"Half of the new readings are more than {LEVEL:g} times what 99 % of the series stay "
            f"below.",
            CONSUMPTION,
            "Write kWh per interval, as in the history. If consumption has grown so much, upload "
            "the whole history as training data.",
            code="consumption_level",
        )
    index = (times - known.start) // step
    before = len(known.values)
    grid = np.full(max(before, int(index[-1]) + 1), np.nan)
    grid[:before] = known.values
    new = index >= 0
    new[new] = ~np.isfinite(grid[index[new]])
    if not new.any():
        raise RefusedDataError(
            f"All these readings are of a time for which the series has readings; it is known up "
            f"to {datetime.fromtimestamp(known.end, UTC):%Y-%m-%dT%H:%M:%SZ}.",
            TIMESTAMP,
            "Upload newer readings. To correct the history, upload it as training data.",
            code="period_closed",
        )
    grid[index[new]] = values[new]
    gap = _longest_gap(grid[before - 1 :])
    most = int(MAX_MISSING * longest_readings(known.frequency))
    share = float((~np.isfinite(grid)).mean())
    worse = share > max(MAX_MISSING, float((~np.isfinite(known.values)).mean()))
    if gap > most or worse:
        raise RefusedDataError(
            f"The new readings leave a gap of {gap * step / DAY:.1f} days after the series; at "
            f"most {most * step / DAY:.1f} days, and {MAX_MISSING:.0%} of the readings, may be "
            f"missing.",
            TIMESTAMP,
            "Upload the readings between, too; or a whole history as training data.",
            code="gap_too_large",
        )
    return grid, int(new.sum())


def _longest_gap(grid: NDArray[np.float64]) -> int:
    """The longest run of missing points."""
    known = np.flatnonzero(np.isfinite(grid))
    return int(np.diff(known).max(initial=1)) - 1

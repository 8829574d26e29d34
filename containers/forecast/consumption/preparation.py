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
import hashlib
import json
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from containers.forecast.consumption.meter_totals import is_total
from containers.forecast.consumption.reading import CONSUMPTION, TIMESTAMP, Readings, read_files
from containers.forecast.consumption.wall_clock import DAY_END, dates, instants
from contracts.refused_data import RefusedDataError

__all__ = ["DATA_FILE", "SERIES_FILE", "Frequency", "Prepared", "RefusedDataError", "prepare"]

Frequency = Literal["h", "D"]

DATA_FILE: Final = "data.csv"
SERIES_FILE: Final = "series.json"
UNIT: Final = "kWh"
HOUR: Final = 3600
DAY: Final = 86_400

SHORTEST_DAYS: Final[Mapping[Frequency, int]] = {"h": 3, "D": 3}
"""The shortest series, in days. With three days the last can be held out, and the other two still
differ."""

DECIMALS: Final = 9
"""Decimals of computed kWh: finer than any meter, and coarser than the rounding errors of sums."""

MAX_MISSING: Final = 0.30
MAX_CONFLICTS: Final = 0.01
EARLIEST: Final = datetime(1990, 1, 1, tzinfo=UTC)
LARGEST_READING: Final = 1e7
"""kWh in one interval; no customer uses ten gigawatts for an hour."""

SPIKE: Final = 1000.0
"""A reading this many times the 99th percentile of the others has another unit or is a meter's
total."""

PRELOADED: Final = (
    "pyarrow.csv",
    "pyarrow.parquet",
    "pyarrow.compute",
    "pandas",
    "holidays.registry",
)
"""Modules that are imported where they are needed. A caller that prepares many files in child
processes imports them first."""

_INTERVALS: Final = (300, 600, 900, 1200, 1800, HOUR)
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
    timezone = _timezone(parameters)
    country = _country(parameters)
    readings = read_files(files)
    if timezone == "UTC" and readings.zone is not None:
        timezone = readings.zone
    _check_range(readings, now or datetime.now(UTC))

    repairs: dict[str, int] = {}
    present = np.isfinite(readings.values)
    if not present.any():
        raise RefusedDataError(
            "Every consumption cell is blank.",
            CONSUMPTION,
            "Upload a file with readings.",
            code="all_blank",
        )
    interval = _interval(readings.times[present])
    frequency: Frequency = "D" if interval >= DAY else "h"
    if frequency == "D":
        times, values = dates(readings, timezone, present), readings.values
    else:
        times, values = instants(readings, timezone, repairs)
    _check_values(readings, times, present, daily=frequency == "D")
    if frequency == "h":
        times = _at_beginnings(times, interval)
        _check_phase(readings, times, interval)
    times, values = times[present], values[present]
    times, values = _without_duplicates(times, values, repairs)
    if interval < HOUR:
        times, values = _hourly(times, values, interval, repairs)
    start, grid = _grid(times, values, frequency, repairs)

    first = datetime.fromtimestamp(start, UTC)
    step = DAY if frequency == "D" else HOUR
    series = {
        "format": 1,
        "frequency": frequency,
        "timezone": timezone,
        "country": country,
        "unit": UNIT,
        "start": first.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "rows": len(grid),
    }
    data = _csv(start, grid, step).encode()
    described = (json.dumps(series, indent=1, sort_keys=True) + "\n").encode()
    destination.mkdir(parents=True, exist_ok=True)
    (destination / DATA_FILE).write_bytes(data)
    (destination / SERIES_FILE).write_bytes(described)
    known = grid[np.isfinite(grid)]
    last = first + timedelta(seconds=step * (len(grid) - 1))
    return Prepared(
        rows=len(grid),
        first=first,
        last=last,
        frequency=frequency,
        repairs=repairs,
        facts={
            "first": first.isoformat(),
            "last": last.isoformat(),
            "days": round(len(grid) * step / DAY, 1),
            "interval_minutes": interval // 60,
            "timezone": timezone,
            "country": country,
            "missing_share": round(1 - len(known) / len(grid), 4),
            "longest_gap": _longest_gap(grid),
            "mean_kwh": round(float(known.mean()), 4),
            "largest_kwh": round(float(known.max()), 4),
            "total_kwh": round(float(known.sum()), 1),
            "ignored_columns": readings.ignored_columns,
        },
        fingerprint=hashlib.sha256(data + b"\0" + described).hexdigest(),
    )


def _timezone(parameters: Mapping[str, Any]) -> str:
    name = parameters.get("timezone") or "UTC"
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


def _check_values(
    readings: Readings, times: NDArray[np.int64], present: NDArray[np.bool_], *, daily: bool
) -> None:
    values = readings.values
    if is_total(times[present], values[present], daily):
        raise RefusedDataError(
            "These are the meter's totals: they rise from row to row.",
            CONSUMPTION,
            "Send the differences of neighbouring totals, which is the consumption of each "
            "interval in kWh.",
            code="meter_totals",
        )
    with np.errstate(invalid="ignore"):
        negative, huge = values < 0, values > LARGEST_READING
    if negative.any():
        raise RefusedDataError(
            f"{readings.place(int(np.argmax(negative)))}: the consumption is negative "
            f"({int(negative.sum())} rows are).",
            CONSUMPTION,
            "Upload consumption alone; what is fed into the grid is a series of its own.",
            code="consumption_negative",
        )
    if huge.any():
        raise RefusedDataError(
            f"{readings.place(int(np.argmax(huge)))}: the consumption is more than "
            f"{LARGEST_READING:g} kWh.",
            CONSUMPTION,
            "Write kWh per interval, not Wh and not the meter's total.",
            code="consumption_too_large",
        )
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive) >= 100:
        usual = float(np.partition(positive, int(0.99 * len(positive)))[int(0.99 * len(positive))])
        row = int(np.nanargmax(values))
        if values[row] > SPIKE * usual:
            raise RefusedDataError(
                f"{readings.place(row)}: the consumption is more than {SPIKE:g} times what 99 % of "
                f"the rows stay below.",
                CONSUMPTION,
                "Write all rows in kWh per interval, and leave the cell blank where the meter "
                "failed.",
                code="consumption_spike",
            )


def _check_range(readings: Readings, now: datetime) -> None:
    times = readings.times
    latest = now + timedelta(days=1)
    for row, early in ((int(np.argmin(times)), True), (int(np.argmax(times)), False)):
        bound = EARLIEST if early else latest
        beyond = times[row] < bound.timestamp() if early else times[row] > bound.timestamp()
        if beyond:
            raise RefusedDataError(
                f"{readings.place(row)}: the timestamp lies "
                f"{'before 1990' if early else 'in the future'}.",
                TIMESTAMP,
                "Upload measured consumption; check the unit if timestamps were converted from "
                "numbers.",
                code="timestamp_before_1990" if early else "timestamp_in_future",
            )


def _interval(times: NDArray[np.int64]) -> int:
    """The usual distance of neighbouring timestamps in seconds: one of `_INTERVALS`, or `DAY`."""
    unique = np.unique(times)
    if len(unique) < 2:
        raise RefusedDataError(
            "There is one timestamp in all files.",
            TIMESTAMP,
            "Upload at least three days.",
            code="one_timestamp",
        )
    distances, counts = np.unique(np.diff(unique), return_counts=True)
    usual = int(distances[np.argmax(counts)])
    if usual in _INTERVALS:
        return usual
    # Midnights of a local clock are 23 or 25 hours apart where the clock changes.
    if abs(usual - DAY) <= HOUR:
        return DAY
    raise RefusedDataError(
        f"Readings are mostly {usual / HOUR:.4g} hours apart.",
        TIMESTAMP,
        "Upload readings every 5, 10, 15, 20, 30 or 60 minutes, or daily ones.",
        code="interval_unknown",
    )


def _at_beginnings(times: NDArray[np.int64], interval: int) -> NDArray[np.int64]:
    """The beginnings of intervals, if all rows mark an interval by its last minute or second;
    otherwise `times`."""
    phases = times % interval
    return times - phases if (phases >= interval - DAY_END).all() else times


def _check_phase(readings: Readings, times: NDArray[np.int64], interval: int) -> None:
    phases, counts = np.unique(times % interval, return_counts=True)
    if len(phases) > 1:
        off = times % interval != phases[np.argmax(counts)]
        row = int(np.argmax(off))
        raise RefusedDataError(
            f"{readings.place(row)}: the timestamp is off the grid of {interval // 60} minutes "
            f"that most rows keep "
            f"({int(off.sum())} rows are).",
            TIMESTAMP,
            "Write one reading per interval, at its beginning.",
            code="off_grid",
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
    return unique, np.round(np.bincount(inverse, weights=values) / counts, DECIMALS)


def _hourly(
    times: NDArray[np.int64], values: NDArray[np.float64], interval: int, repairs: dict[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sums of whole hours of UTC."""
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
    return hours[whole] * HOUR, sums[whole]


def _grid(
    times: NDArray[np.int64],
    values: NDArray[np.float64],
    frequency: Frequency,
    repairs: dict[str, int],
) -> tuple[int, NDArray[np.float64]]:
    """The first time and the values on the regular grid, NaN where missing."""
    step = DAY if frequency == "D" else HOUR
    index = (times - times[0]) // step
    count = int(index[-1]) + 1
    days = count * step / DAY
    if days < SHORTEST_DAYS[frequency]:
        raise RefusedDataError(
            f"The {'daily' if frequency == 'D' else 'hourly'} series spans {days:.1f} days; at "
            f"least "
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


def _longest_gap(grid: NDArray[np.float64]) -> int:
    """The longest run of missing points."""
    known = np.flatnonzero(np.isfinite(grid))
    return int(np.diff(known).max(initial=1)) - 1


def _csv(start: int, grid: NDArray[np.float64], step: int) -> str:
    """The series as text. Dates are formatted once per day, which takes a tenth of formatting each
    timestamp."""
    per_day = DAY // step
    midnight = start // DAY
    clock = [
        f"T{second // HOUR:02}:{second // 60 % 60:02}:{second % 60:02}Z,"
        for second in range(start % step, DAY, step)
    ]
    offset = (start - midnight * DAY) // step
    days = (offset + len(grid) + per_day - 1) // per_day
    dates = np.datetime_as_string(
        np.arange(midnight, midnight + days).astype("datetime64[D]")
    ).tolist()
    stamps = [date + time for date in dates for time in clock][offset : offset + len(grid)]
    # One call for all numbers takes half the time of one repr each, and writes them the same.
    cells = json.dumps(grid.tolist())[1:-1].replace("NaN", "").split(", ")
    return f"{TIMESTAMP},{CONSUMPTION}\n" + "\n".join(map(str.__add__, stamps, cells)) + "\n"

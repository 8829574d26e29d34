"""The files of a prepared series: `data.csv`, `series.json` and `readings.json`.

Equal series have equal bytes. `readings.json` holds the latest weeks alone, small enough for a
request: a model that learned from an earlier end predicts from it
(`containers.forecast.models.learned`). `incomplete.json` is there if readings of less than an hour
wait for others of their hour: days of a clock that is half an hour off cut one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from containers.runtime.errors import ContainerError

Frequency = Literal["h", "D"]
Floats = NDArray[np.float64]

DATA_FILE: Final = "data.csv"
SERIES_FILE: Final = "series.json"
READINGS_FILE: Final = "readings.json"
INCOMPLETE_FILE: Final = "incomplete.json"

MOST_INCOMPLETE: Final = 500
"""Readings of incomplete hours that wait, the newest ones."""

UNIT: Final = "kWh"
HOUR: Final = 3600
DAY: Final = 86_400

STEP: Final[Mapping[Frequency, int]] = {"h": HOUR, "D": DAY}
"""Seconds from one point to the next."""

READINGS_WEEKS: Final = 26
"""Weeks of `readings.json`, on which a model's final forecast rests."""

SPARE_DAYS: Final = 1
"""More days of `readings.json`, because a local week may have an hour more than a week of UTC."""

DIGITS: Final = 5
"""Significant digits in `readings.json`: one more than forecasts have."""

Incomplete = Mapping[int, tuple[int, float]]
"""Readings of incomplete hours: their time (seconds of UTC), interval (seconds) and value."""

_SERIES_BYTES: Final = 64 << 10
_DATA_BYTES: Final = 32 << 20
_STAMP: Final = "%Y-%m-%dT%H:%M:%SZ"


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


def longest_readings(frequency: Frequency) -> int:
    """The most points that `readings.json` has."""
    return (READINGS_WEEKS * 7 + SPARE_DAYS) * DAY // STEP[frequency]


def write_prepared(folder: Path, series: Series, incomplete: Incomplete) -> str:
    """Write a series into `folder`, with the readings whose hours it lacks, and return its
    fingerprint."""
    described = {
        "format": 1,
        "frequency": series.frequency,
        "timezone": series.timezone,
        "country": series.country,
        "unit": UNIT,
        "start": _stamp(series.start),
        "rows": len(series.values),
    }
    data = _csv(series.start, series.values, STEP[series.frequency]).encode()
    about = (json.dumps(described, indent=1, sort_keys=True) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DATA_FILE).write_bytes(data)
    (folder / SERIES_FILE).write_bytes(about)
    recent = json.dumps(readings_of(series), separators=(",", ":")) + "\n"
    (folder / READINGS_FILE).write_text(recent)
    waiting = [
        [moment, *incomplete[moment]]
        for moment in sorted(incomplete)
        if _lacks(series, moment // HOUR * HOUR)
    ]
    (folder / INCOMPLETE_FILE).unlink(missing_ok=True)
    if waiting:
        text = json.dumps(waiting[-MOST_INCOMPLETE:], separators=(",", ":")) + "\n"
        (folder / INCOMPLETE_FILE).write_text(text)
    return hashlib.sha256(data + b"\0" + about).hexdigest()


def _lacks(series: Series, hour: int) -> bool:
    """Whether a series has no reading of an hour, which is not from before it."""
    index = (hour - series.start) // HOUR
    return index >= len(series.values) or (index >= 0 and bool(np.isnan(series.values[index])))


def read_incomplete(folder: Path) -> Incomplete:
    """The readings of incomplete hours in `folder`. Raises `UnusableSeriesError`."""
    path = folder / INCOMPLETE_FILE
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _SERIES_BYTES:
            raise UnusableSeriesError(f"{path.name} is larger than {_SERIES_BYTES} bytes.")
        return {
            int(moment): (int(interval), float(value))
            for moment, interval, value in json.loads(path.read_bytes())
        }
    except (ValueError, TypeError, RecursionError) as error:
        raise UnusableSeriesError(
            f"{path.name} is not what preparation writes: {error!r}."
        ) from error


def readings_of(series: Series) -> dict[str, Any]:
    """The document `readings.json`: the latest points of a series, null where missing."""
    values = series.values[-longest_readings(series.frequency) :]
    return {
        "start": _stamp(series.end - len(values) * STEP[series.frequency]),
        "frequency": series.frequency,
        "values": [
            float(f"{value:.{DIGITS}g}") if value == value else None for value in values.tolist()
        ],
    }


def read_prepared(folder: Path) -> Series:
    """The series in `folder`. Raises `UnusableSeriesError`."""
    described = _described(folder / SERIES_FILE)
    values = _values(folder / DATA_FILE)
    start = int(datetime.strptime(described["start"], _STAMP).replace(tzinfo=UTC).timestamp())
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


def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(_STAMP)


def _described(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _SERIES_BYTES:
            raise UnusableSeriesError(f"{path.name} is larger than {_SERIES_BYTES} bytes.")
        described = json.loads(path.read_bytes())
        valid = (
            described["format"] == 1
            and described["frequency"] in tuple(STEP)
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


def _csv(start: int, grid: Floats, step: int) -> str:
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
    return "timestamp,consumption\n" + "\n".join(map(str.__add__, stamps, cells)) + "\n"

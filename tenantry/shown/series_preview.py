"""An answer that is a series of values in time, in its form for people: a plot, and a line a
day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import groupby
from typing import Any, Final

from tenantry.shown.plots import plot_of_series
from tenantry.shown.report import Table

_MAX_POINTS: Final = 2000
_LARGEST: Final = 1e15  # the largest value that an axis can be drawn for


@dataclass(frozen=True)
class Series:
    """Values in time order. ``low`` and ``high`` are the ends of the 80 % interval; both are empty
    where the answer has none."""

    times: tuple[datetime, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    unit: str

    def plot(self, title: str) -> bytes | None:
        """Mean and interval as PNG; None for a single point."""
        if len(self.times) < 2:
            return None
        return plot_of_series(self.times, self.mean, self.low, self.high, self.unit, title)

    def days(self) -> Table:
        """A line a day: its points, their total, and the highest of them with its time."""
        total, highest = (f"{name}, {self.unit}".rstrip(", ") for name in ("total", "highest"))
        rows: list[Mapping[str, str | int | float]] = []
        points = zip(self.times, self.mean, strict=True)
        for day, of_day in groupby(points, key=lambda point: point[0].date()):
            together = list(of_day)
            at, peak = max(together, key=lambda point: point[1])
            rows.append(
                {
                    "day": f"{day:%a %d %b %Y}",
                    "points": len(together),
                    total: _short(sum(value for _, value in together)),
                    highest: _short(peak),
                    "highest at": f"{at:%H:%M}",
                }
            )
        return Table(tuple(rows))


def series_of(document: Any, zone: tzinfo) -> Series | None:
    """The series in an answer's JSON; None for any other document.

    Args:
        document: has ``timestamps`` (ISO 8601, ascending) and ``mean``, of one length; perhaps
            ``quantiles`` by level, and ``unit``.
        zone: the time zone of the days. Timestamps without an offset stay as they are.
    """
    try:
        times = tuple(_moment(text, zone) for text in document["timestamps"])
        mean = _numbers(document["mean"])
        quantiles = document.get("quantiles") or {}
        low, high = (_numbers(quantiles.get(level) or ()) for level in ("0.1", "0.9"))
        unit = str(document.get("unit") or "")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    of_one_length = 0 < len(times) == len(mean) <= _MAX_POINTS
    if not of_one_length or not all(len(end) in {0, len(mean)} for end in (low, high)):
        return None
    if len({time.tzinfo is None for time in times}) > 1 or list(times) != sorted(times):
        return None
    if not (low and high):
        low = high = ()
    return Series(times, mean, low, high, unit[:20])


def _moment(text: Any, zone: tzinfo) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is None else moment.astimezone(zone)


def _numbers(values: Any) -> tuple[float, ...]:
    if isinstance(values, str | Mapping):
        raise TypeError("numbers come in a list")
    numbers = tuple(float(value) for value in values)
    if not all(abs(number) <= _LARGEST for number in numbers):
        raise ValueError("a value is no number, or too large to draw")
    return numbers


def _short(value: float) -> float:
    return float(f"{value:.4g}")

"""The schedules of scheduled actions: `at(…)`, `rate(…)` and `cron(…)`, in a time zone.

Syntax: docs.aws.amazon.com/autoscaling/application/APIReference/API_PutScheduledAction.html. The
fields of `cron`: docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html.
"""

import calendar
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_UNITS: Final = {"minute": 60, "hour": 3600, "day": 86_400}
_MONTHS: Final = (
    "JAN",
    "FEB",
    "MAR",
    "APR",
    "MAY",
    "JUN",
    "JUL",
    "AUG",
    "SEP",
    "OCT",
    "NOV",
    "DEC",
)
_DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_LAST_YEAR: Final = 2199


class InvalidScheduleError(ValueError):
    """An expression or a time zone that Application Auto Scaling refuses; the message says why."""


@dataclass(frozen=True)
class Schedule:
    """When an action runs: `next_after` gives the first moment after another one; None when there
    is none any more."""

    expression: str
    next_after: Callable[[datetime], datetime | None]

    @classmethod
    def parse(
        cls,
        expression: str,
        timezone: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> "Schedule":
        """Read an expression.

        Args:
            expression: `at(2026-11-30T07:00:00)`, `rate(5 minutes)` or `cron(0 7 ? * MON-FRI *)`.
            timezone: of `at` and `cron`, by its IANA name; UTC by default.
            start: no run before it; a rate is counted from it, else from the epoch.
            end: no run after it.

        Raises:
            InvalidScheduleError: the expression or the zone cannot be used.
        """
        zone = _zone(timezone)
        found = re.fullmatch(r"(at|rate|cron)\((.*)\)", expression.strip())
        if found is None:
            raise InvalidScheduleError(
                f"Schedule expression {expression!r} is not at(…), rate(…) or cron(…)"
            )
        kind, text = found[1], found[2].strip()
        if kind == "at":
            following = _at(text, zone)
        elif kind == "rate":
            following = _rate(text, start)
        else:
            following = _Cron.parse(text).following(zone)

        def next_after(moment: datetime) -> datetime | None:
            if start is not None and moment < start:
                moment = start - timedelta(microseconds=1)
            found = following(moment)
            return None if found is None or (end is not None and found > end) else found

        return cls(expression, next_after)


def _zone(name: str | None) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidScheduleError(f"Time zone {name!r} is not known") from error


def _at(text: str, zone: ZoneInfo) -> Callable[[datetime], datetime | None]:
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidScheduleError(f"at({text}) is not at(yyyy-mm-ddThh:mm:ss)") from error
    return lambda after: moment if moment > after else None


def _rate(text: str, start: datetime | None) -> Callable[[datetime], datetime | None]:
    found = re.fullmatch(r"([1-9]\d{0,8}) (minute|hour|day)(s?)", text)
    if found is None or (found[1] == "1") != (found[3] == ""):
        raise InvalidScheduleError(
            f"rate({text}) is not rate(value unit): 1 minute, hour or day, or several minutes, "
            f"hours or days"
        )
    step = timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    origin = start or datetime.fromtimestamp(0, UTC)

    def following(after: datetime) -> datetime | None:
        if after < origin:
            return origin
        try:
            return origin + ((after - origin) // step + 1) * step
        except OverflowError:
            return None

    return following


@dataclass(frozen=True)
class _Cron:
    """The six fields of `cron`, as the values that they allow."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days_of_month: str
    months: tuple[int, ...]
    days_of_week: str
    years: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "_Cron":
        """Raises InvalidScheduleError."""
        fields = text.upper().split()
        if len(fields) != 6:
            raise InvalidScheduleError(
                f"cron({text}) has {len(fields)} fields; it takes six: minutes, hours, "
                f"day-of-month, month, day-of-week, year"
            )
        minutes, hours, of_month, months, of_week, years = fields
        if (of_month == "?") == (of_week == "?"):
            raise InvalidScheduleError(
                f"cron({text}): one of day-of-month and day-of-week must be ?, and not both"
            )
        cron = cls(
            _values("minutes", minutes, 0, 59),
            _values("hours", hours, 0, 23),
            of_month,
            _values("month", months, 1, 12, _MONTHS),
            of_week,
            _values("year", years, 1970, _LAST_YEAR),
        )
        cron._days(2000, 1)  # checks both fields of days
        return cron

    def following(self, zone: ZoneInfo) -> Callable[[datetime], datetime | None]:
        """The first moment after another one, by the clocks of a zone. A time that a zone's clocks
        skip runs as much later; of a time that comes twice the first counts."""

        def found(after: datetime) -> datetime | None:
            local = after.astimezone(zone)
            for day in self._dates(local.date() - timedelta(days=1)):
                for hour in self.hours:
                    for minute in self.minutes:
                        moment = datetime(
                            day.year, day.month, day.day, hour, minute, tzinfo=zone
                        ).astimezone(UTC)
                        if moment > after:
                            return moment
            return None

        return found

    def _dates(self, first: date) -> Iterator[date]:
        for year in self.years:
            if year < first.year:
                continue
            for month in self.months:
                if (year, month) < (first.year, first.month):
                    continue
                for day in self._days(year, month):
                    if (found := date(year, month, day)) >= first:
                        yield found

    def _days(self, year: int, month: int) -> list[int]:
        weekday_of_first, length = calendar.monthrange(year, month)
        if self.days_of_week == "?":
            return _days_of_month(self.days_of_month, year, month, length)
        # calendar's Monday is 0, and cron's Sunday is 1.
        first = (weekday_of_first + 1) % 7 + 1
        return _days_of_week(self.days_of_week, first, length)


def _days_of_month(field: str, year: int, month: int, length: int) -> list[int]:
    if field == "L":
        return [length]
    if field == "LW":
        return [_nearest_weekday(length, year, month, length)]
    if found := re.fullmatch(r"(\d{1,2})W", field):
        (day,) = _values("day-of-month", found[1], 1, 31)
        return [_nearest_weekday(min(day, length), year, month, length)]
    return [day for day in _values("day-of-month", field, 1, 31) if day <= length]


def _nearest_weekday(day: int, year: int, month: int, length: int) -> int:
    """The weekday that is nearest to a day, within its month."""
    weekday = calendar.weekday(year, month, day)
    if weekday == 5:
        return day - 1 if day > 1 else day + 2
    if weekday == 6:
        return day + 1 if day < length else day - 2
    return day


def _days_of_week(field: str, first: int, length: int) -> list[int]:
    """The days of a month that are on given days of the week; its first day is on `first` (Sunday
    is 1)."""
    if found := re.fullmatch(r"([1-7]|[A-Z]{3})L", field):
        (wanted,) = _values("day-of-week", found[1], 1, 7, _DAYS)
        return [day for day in range(length - 6, length + 1) if _weekday(day, first) == wanted]
    if found := re.fullmatch(r"([1-7]|[A-Z]{3})#([1-5])", field):
        (wanted,) = _values("day-of-week", found[1], 1, 7, _DAYS)
        all_of_them = [day for day in range(1, length + 1) if _weekday(day, first) == wanted]
        nth = int(found[2]) - 1
        return all_of_them[nth : nth + 1]
    wanted_days = set(_values("day-of-week", "7" if field == "L" else field, 1, 7, _DAYS))
    return [day for day in range(1, length + 1) if _weekday(day, first) in wanted_days]


def _weekday(day: int, first: int) -> int:
    return (first - 1 + day - 1) % 7 + 1


def _values(
    name: str, field: str, least: int, most: int, names: tuple[str, ...] = ()
) -> tuple[int, ...]:
    """The numbers that a field allows, in order."""

    def number(text: str) -> int:
        if text in names:
            return names.index(text) + 1
        if not re.fullmatch(r"\d{1,4}", text) or not least <= int(text) <= most:
            raise InvalidScheduleError(
                f"{name} {field!r}: {text!r} is not from {least} to {most}"
                + (f", or {names[0]} to {names[-1]}" if names else "")
            )
        return int(text)

    found: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        if slash and not re.fullmatch(r"[1-9]\d{0,3}", step):
            raise InvalidScheduleError(f"{name} {field!r}: the step {step!r} is no number above 0")
        low, dash, high = span.partition("-")
        if span == "*":
            begin, last = least, most
        elif dash:
            begin, last = number(low), number(high)
        else:
            begin = number(low)
            last = most if slash else begin
        values = (
            range(begin, last + 1)
            if begin <= last
            else [*range(begin, most + 1), *range(least, last + 1)]  # as FRI-MON
        )
        found.update(list(values)[:: int(step) if slash else 1])
    return tuple(sorted(found))

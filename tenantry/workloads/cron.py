"""Checks cron expressions as a workload's file is read, without Dagster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import Final, NamedTuple

_MONTHS: Final = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MOST_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_PART: Final = re.compile(r"(?P<first>[a-z0-9]+|\*)(?:-(?P<last>[a-z0-9]+))?(?:/(?P<step>[0-9]+))?")


class _Field(NamedTuple):
    """One of the five fields: its name, its range, and the names that stand for numbers."""

    called: str
    low: int
    high: int
    names: Mapping[str, int]


_FIELDS: Final = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of the month", 1, 31, {}),
    _Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    _Field("day of the week", 0, 7, {name: number for number, name in enumerate(_DAYS)}),
)
_ANY: Final = ("*", "?")
_YEAR_DAYS: Final = 367
_MONTHLY: Final = _FIELDS[2]
_WEEKLY: Final = _FIELDS[4]


def cron_fault(expression: str) -> str | None:
    """The fault in a cron expression, and the right form, as a sentence; None where there is no
    fault."""
    try:
        _parsed(expression)
    except ValueError as error:
        return str(error)
    return None


def _parsed(expression: str) -> list[set[int]]:
    """The numbers of each field. Raises ``ValueError`` with the fault."""
    texts = expression.lower().split(" ")
    if len(texts) != 5 or not all(texts):
        raise ValueError(
            "needs five fields with a space between them, as in '15 2 * * *': minute, hour, day of "
            "the month, month, day of the week"
        )
    found = []
    for field, text in zip(_FIELDS, texts, strict=True):
        try:
            found.append(_numbers(field, text))
        except ValueError as error:
            raise ValueError(f"has the {field.called} {text!r}: {error}") from error
    _, _, days, months, _ = found
    if not any(min(days) <= _MOST_DAYS[month - 1] for month in months):
        raise ValueError(
            f"names a day that never comes: no month {texts[3]!r} has a day {texts[2]!r}"
        )
    return found


def on_aws_fault(expression: str) -> str | None:
    """Why AWS's cron expressions cannot say a (faultless) one, and the cure; None where they can.

    https://docs.aws.amazon.com/autoscaling/application/userguide/scheduled-scaling-using-cron-expressions.html
    """
    _, _, days, _, weekdays = expression.lower().split(" ")
    if days not in _ANY and weekdays not in _ANY:
        return (
            "names days of the month and days of the week; AWS takes one of the two: write two "
            "changes"
        )
    if days == "l" or re.search(r"[l#]", weekdays.replace("jul", "")):
        return "has L or #, which capacity's timetable does not take: write numbers or names"
    return None


def as_aws(expression: str) -> str:
    """A (faultless) expression as AWS writes it: six fields, ``?`` for one kind of day, and the
    week's days by their names."""
    minutes, hours, days, months, weekdays = _parsed(expression)
    texts = expression.lower().split(" ")
    week = "?"
    month_days = _listed(days, _MONTHLY)
    if texts[4] not in _ANY:
        week = ",".join(_DAYS[day].upper() for day in sorted({day % 7 for day in weekdays}))
        month_days = "?"
    fields = (
        _listed(minutes, _FIELDS[0]),
        _listed(hours, _FIELDS[1]),
        month_days,
        _listed(months, _FIELDS[3]),
        week,
    )
    return f"cron({' '.join(fields)} *)"


def _listed(numbers: set[int], field: _Field) -> str:
    if len(numbers) == field.high - field.low + 1:
        return "*"
    return ",".join(str(number) for number in sorted(numbers))


def latest_before(expression: str, moment: datetime) -> datetime | None:
    """The latest time of a (faultless) expression at or before a moment, by the clocks of the
    moment's zone; None where that is more than a year ago."""
    minutes, hours, days, months, weekdays = _parsed(expression)
    week = {day % 7 for day in weekdays}
    for ago in range(_YEAR_DAYS):
        date = moment.date() - timedelta(days=ago)
        if date.month not in months or date.day not in days or date.isoweekday() % 7 not in week:
            continue
        for hour in sorted(hours, reverse=True):
            for minute in sorted(minutes, reverse=True):
                found = datetime.combine(date, time(hour, minute), tzinfo=moment.tzinfo)
                if found <= moment:
                    return found
    return None


def _numbers(field: _Field, text: str) -> set[int]:
    """All numbers that a field names. Raises ``ValueError`` with the fault."""
    if text == "?" and field in (_MONTHLY, _WEEKLY):
        text = "*"
    return {number for part in text.split(",") for number in _of_part(field, part)}


def _of_part(field: _Field, part: str) -> set[int]:
    if field is _MONTHLY and part == "l":
        return {28}  # the last day, which is one of every month
    if field is _WEEKLY and (special := re.fullmatch(r"(?:([a-z0-9]+)#[1-5]|l([0-7]))", part)):
        return {_number(field, special[1] or special[2])}
    found = _PART.fullmatch(part)
    if found is None or (found["first"] == "*" and found["last"]):
        raise ValueError("write numbers, ranges as 1-5, steps as */15, and commas between them")
    first = field.low if found["first"] == "*" else _number(field, found["first"])
    ends = found["first"] == "*" or found["step"]
    last = _number(field, found["last"]) if found["last"] else field.high if ends else first
    if found["last"] and first == last:
        raise ValueError(f"{part!r} is a range of one; write {found['first']}")
    step = int(found["step"] or 1)
    if not 1 <= step <= field.high:
        raise ValueError(f"its steps are of 1 to {field.high}")
    numbers = range(field.low, field.high + 1)
    within = numbers if first > last else range(first, last + 1)  # over the end: 22-2, fri-mon
    if first > last:
        return {number for number in within if number >= first or number <= last}
    return set(within[::step])


def _number(field: _Field, text: str) -> int:
    if text in field.names:
        return field.names[text]
    if not re.fullmatch(r"[0-9]{1,4}", text) or not field.low <= int(text) <= field.high:
        names = f", or {', '.join(field.names)}" if field.names else ""
        raise ValueError(f"it takes {field.low} to {field.high}{names}")
    return int(text)

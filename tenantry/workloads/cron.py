"""Checks cron expressions as a workload's file is read, without Dagster."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
_MONTHLY: Final = _FIELDS[2]
_WEEKLY: Final = _FIELDS[4]


def cron_fault(expression: str) -> str | None:
    """The fault in a cron expression, and the right form, as a sentence; None where there is no
    fault."""
    texts = expression.lower().split(" ")
    if len(texts) != 5 or not all(texts):
        return (
            "needs five fields with a space between them, as in '15 2 * * *': minute, hour, day of "
            "the month, month, day of the week"
        )
    found = []
    for field, text in zip(_FIELDS, texts, strict=True):
        try:
            found.append(_numbers(field, text))
        except ValueError as error:
            return f"has the {field.called} {text!r}: {error}"
    _, _, days, months, _ = found
    if not any(min(days) <= _MOST_DAYS[month - 1] for month in months):
        return f"names a day that never comes: no month {texts[3]!r} has a day {texts[2]!r}"
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

"""The bounds that a timetable gives at a moment, and its changes as scheduled actions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from tenantry.workloads.capacity import Change, EndpointCapacity
from tenantry.workloads.cron import as_aws, latest_before
from tenantry.workloads.holidays import holidays_of

_MOST_HOLIDAY_ACTIONS: Final = 100
"""Of the 200 scheduled actions that a scalable target may have
(docs.aws.amazon.com/autoscaling/application/userguide/application-auto-scaling-limits.html)."""
_AHEAD: Final = timedelta(days=366)
_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class Bounds:
    """The least and the most instances."""

    minimum: int
    maximum: int


@dataclass(frozen=True)
class ScheduledAction:
    """A change of the bounds at a time, as Application Auto Scaling takes it."""

    name: str
    schedule: str
    timezone: str
    bounds: Bounds


def bounds_at(section: EndpointCapacity, moment: datetime, most: int) -> Bounds:
    """The bounds at a moment: those of the change that came last, else the section's.

    Args:
        section: bounds, timetable and holidays.
        moment: with a time zone.
        most: the largest maximum that the budget allows.
    """
    latest: tuple[datetime, Change] | None = None
    for change in section.timetable:
        came = latest_before(change.cron, moment.astimezone(ZoneInfo(change.timezone)))
        if came is not None and (latest is None or came >= latest[0]):
            latest = (came, change)
    if latest is None:
        return _within(section.minimum, section.maximum, most)
    came, change = latest
    if section.holidays is not None and came.date() in holidays_of(
        section.holidays.country, came.year
    ):
        change = _change_named(section, section.holidays.change)
    return bounds_of(section, change, most)


def bounds_of(section: EndpointCapacity, change: Change, most: int) -> Bounds:
    """The bounds that a change gives."""
    return _within(change.minimum, change.maximum or section.maximum, most)


def actions_of(section: EndpointCapacity, now: datetime, most: int) -> list[ScheduledAction]:
    """The timetable as scheduled actions.

    On a public holiday of the next year, an action a minute after each other change gives the
    bounds of ``holidays.change``.
    """
    actions = [
        ScheduledAction(
            f"tenantry-{change.name}",
            as_aws(change.cron),
            change.timezone,
            bounds_of(section, change, most),
        )
        for change in section.timetable
    ]
    return [*actions, *_on_holidays(section, now, most)[:_MOST_HOLIDAY_ACTIONS]]


def _on_holidays(section: EndpointCapacity, now: datetime, most: int) -> list[ScheduledAction]:
    if section.holidays is None:
        return []
    instead = _change_named(section, section.holidays.change)
    found = []
    for day in holidays_of(section.holidays.country, now.year, now.year + 1):
        for change in section.timetable:
            came = _last_on(change, day)
            if change is instead or came is None or not now < came <= now + _AHEAD:
                continue
            after = came + _MINUTE
            found.append(
                ScheduledAction(
                    f"tenantry-holiday-{day.isoformat()}-{change.name}",
                    f"at({after:%Y-%m-%dT%H:%M:%S})",
                    change.timezone,
                    bounds_of(section, instead, most),
                )
            )
    return found


def _last_on(change: Change, day: date) -> datetime | None:
    """The last time of a change on a day, by the clocks of its zone."""
    evening = datetime.combine(day, time(23, 59), tzinfo=ZoneInfo(change.timezone))
    came = latest_before(change.cron, evening)
    return came if came is not None and came.date() == day else None


def _change_named(section: EndpointCapacity, name: str) -> Change:
    return next(change for change in section.timetable if change.name == name)


def _within(minimum: int, maximum: int, most: int) -> Bounds:
    """Bounds within what the budget allows."""
    return Bounds(min(minimum, most), min(maximum, most))

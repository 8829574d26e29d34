"""Stamps, steps and zones, which starts and fresh readings share; the standard library alone."""

import zoneinfo
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

STAMP: Final = "%Y-%m-%dT%H:%M:%SZ"
"""The form of instants of UTC in cards, answers and readings."""

STEP: Final = {"h": timedelta(hours=1), "D": timedelta(days=1)}

FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2199
"""Bounds of years: those of a model's stamps, far from the limits of Python's dates."""


def instant(told: str) -> datetime:
    """A resolved start, or a stamp of a card, in UTC; a date becomes its midnight of UTC, the label
    of daily series."""
    return datetime.fromisoformat(told.replace("Z", "+00:00")).replace(tzinfo=UTC)


def stamp(moment: datetime) -> str:
    """An instant of UTC in the form of cards and answers."""
    return moment.strftime(STAMP)


@lru_cache(maxsize=256)
def zone(name: str | None) -> zoneinfo.ZoneInfo:
    """The zone of that name; UTC for None, and for a name that this machine does not know."""
    try:
        return zoneinfo.ZoneInfo(str(name or "UTC"))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return zoneinfo.ZoneInfo("UTC")

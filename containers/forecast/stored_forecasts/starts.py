"""When a forecast starts: the same rule in the server and in the product's client, with the
standard library alone.

A request's `start` is a day (`2026-11-30`: its midnight on the customer's clock), a time of the
customer's clock (`2026-11-30T06:00`), an instant with an offset (`2026-11-30T06:00+01:00`), or
`data_end`. Without one, the present is meant. A forecast never begins before the start that is
asked for: within an hour, or for a daily model within a day, the next one is meant. Of a time that
the clock shows twice, the first is meant; of one that it skips, the time as the clock stood before.

A resolved start is an instant of UTC (`2026-11-30T05:00:00Z`), and for a daily model a local date
(`2026-11-30`).
"""

import re
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, Final

from containers.runtime.errors import ContainerError

FIELD: Final = "start"

DATA_END: Final = "data_end"
"""The start that every model can answer, however old its data are: what a smoke request asks
for."""

FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2199
"""Years of a start: what stamps of a model may be, and far from where dates of Python end."""

STEP: Final = {"h": timedelta(hours=1), "D": timedelta(days=1)}

_START: Final = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:[Tt "
    r"](?P<time>\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?)(?P<offset>[Zz]|[+-]\d{2}(?::?\d{2})?)?)?",
    re.ASCII,
)
_STAMP: Final = "%Y-%m-%dT%H:%M:%SZ"


class InvalidStartError(ContainerError, ValueError):
    """A start cannot be taken. `code` is `start_malformed`, `start_before_reach` or
    `start_beyond_reach`."""

    def __init__(self, message: str, code: str = "start_malformed") -> None:
        super().__init__(message)
        self.message = message
        self.field = FIELD
        self.code = code


def resolve(request: Mapping[str, Any], card: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The request with its start resolved, for the model whose card is given; resolving again
    changes nothing.

    Of the card, `timezone`, `frequency` and `data.end` count (hours of a model begin at the minute
    where its data end). `now` is an instant with a time zone. Whether the model reaches that start
    is another question: `check`.

    Raises `InvalidStartError` for a malformed one.
    """
    if request.get(FIELD) == DATA_END:
        end = _data_end(card)
        if end is None:
            raise InvalidStartError(
                f"start is {DATA_END}, and the model's card does not tell where its data end."
            )
        return {
            **request,
            FIELD: end.date().isoformat() if card.get("frequency") == "D" else end.strftime(_STAMP),
        }
    clock = zone(card.get("timezone"))
    moment = _moment(request[FIELD], clock) if FIELD in request else now.astimezone(clock)
    if card.get("frequency") == "D":
        return {**request, FIELD: _next_day(moment).isoformat()}
    return {
        **request,
        FIELD: _next_hour(moment.astimezone(UTC), _minute_of_hour(card)).strftime(_STAMP),
    }


def check(request: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Raise `InvalidStartError` where the model does not reach the start of a resolved request.

    Of the card, `usable_from` and `usable_until` count. Cards from before there were any have
    `data.end` and `horizon_points`: those models reach as far as their horizon.
    """
    start = instant(request[FIELD])
    end = instant(card["data"]["end"])
    step = STEP[card["frequency"]]
    first = instant(card["usable_from"]) if "usable_from" in card else end
    until = (
        instant(card["usable_until"])
        if "usable_until" in card
        else end + int(card["horizon_points"]) * step
    )
    if start >= until:
        raise InvalidStartError(
            f"The model does not reach {request[FIELD]}: its data end at {end:{_STAMP}}, and it "
            f"forecasts from starts "
            f"before {until:{_STAMP}}. Upload newer data.",
            "start_beyond_reach",
        )
    if start < first:
        raise InvalidStartError(
            f"The model does not go back to {request[FIELD]}: its data end at {end:{_STAMP}}, and "
            f"it forecasts from "
            f"{first:{_STAMP}} on. Ask for a later start.",
            "start_before_reach",
        )


def instant(told: str) -> datetime:
    """A resolved start, or a stamp of a card, in UTC; a date is its midnight there, as daily series
    are labelled."""
    return datetime.fromisoformat(told.replace("Z", "+00:00")).replace(tzinfo=UTC)


def begins(start: str, card: Mapping[str, Any]) -> datetime:
    """When a resolved start comes: a date of a daily model begins at midnight of the customer's
    clock."""
    if card.get("frequency") == "D":
        return _moment(start, zone(card.get("timezone")))
    return instant(start)


def stamp(moment: datetime) -> str:
    """An instant of UTC as cards and answers write it."""
    return moment.strftime(_STAMP)


@lru_cache(maxsize=256)
def zone(name: str | None) -> zoneinfo.ZoneInfo:
    """The zone; UTC for none, and for a name that this machine does not know."""
    try:
        return zoneinfo.ZoneInfo(str(name or "UTC"))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return zoneinfo.ZoneInfo("UTC")


def _moment(value: Any, clock: zoneinfo.ZoneInfo) -> datetime:
    """A start as it is asked for, on the customer's clock."""
    found = _START.fullmatch(value) if isinstance(value, str) and len(value) <= 40 else None
    if found is None:
        raise InvalidStartError(
            "start must be a day such as 2026-11-30, a local time such as 2026-11-30T06:00, or an "
            "instant such as "
            "2026-11-30T06:00:00Z."
        )
    try:
        day = date.fromisoformat(found["date"])
        hour = time.fromisoformat((found["time"] or "00:00").replace(",", "."))
        offset = time.fromisoformat(f"00:00{(found['offset'] or 'Z').upper()}").tzinfo
    except ValueError as error:
        raise InvalidStartError("start names a day or a time that does not exist.") from error
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise InvalidStartError(f"start must lie within the years {FIRST_YEAR} to {LAST_YEAR}.")
    if found["offset"]:
        return datetime.combine(day, hour, offset).astimezone(clock)
    # Through UTC and back: a time that the clock skips becomes the one that it shows then.
    return datetime.combine(day, hour, clock).astimezone(UTC).astimezone(clock)


def _next_day(moment: datetime) -> date:
    """The date of a moment that begins one, else the date after it."""
    before = moment.astimezone(UTC) - timedelta(microseconds=1)
    begins = before.astimezone(moment.tzinfo).date() != moment.date()
    return moment.date() if begins else moment.date() + timedelta(days=1)


def _next_hour(moment: datetime, minute: timedelta) -> datetime:
    """The moment, or the first one after it, whose part of the hour is `minute`."""
    past = (moment - minute).replace(minute=0, second=0, microsecond=0) + minute
    return past if past == moment else past + timedelta(hours=1)


def _minute_of_hour(card: Mapping[str, Any]) -> timedelta:
    """How far into an hour the model's hours begin: not at all, but for meters that are read at
    half past."""
    end = _data_end(card)
    return timedelta(minutes=end.minute, seconds=end.second) if end else timedelta()


def _data_end(card: Mapping[str, Any]) -> datetime | None:
    data = card.get("data")
    return instant(str(data["end"])) if isinstance(data, Mapping) and "end" in data else None

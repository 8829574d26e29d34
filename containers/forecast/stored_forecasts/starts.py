"""The start of a forecast. The server and the product's client share this rule, which needs the
standard library alone.

A request's `start` is one of these; by default it is the present:

- a day (`2026-11-30`), which means its midnight on the customer's clock;
- a time of the customer's clock (`2026-11-30T06:00`);
- an instant with an offset (`2026-11-30T06:00+01:00`);
- `data_end`.

A forecast never begins before the requested start. A start within an hour, or for a daily model
within a day, means the next one. For a time that the clock shows twice, the first counts. For a
time that it skips, the offset before the change counts.

A resolved start is an instant of UTC (`2026-11-30T05:00:00Z`), and for a daily model a local date
(`2026-11-30`).

A request may carry fresh readings (`containers.forecast.stored_forecasts.fresh_readings`). Their
end then stands for the end of the model's data.
"""

import re
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from containers.forecast.stored_forecasts import fresh_readings
from containers.forecast.stored_forecasts.clock import (
    FIRST_YEAR,
    LAST_YEAR,
    STAMP,
    STEP,
    instant,
    stamp,
    zone,
)
from containers.runtime.errors import ContainerError

__all__ = [
    "DATA_END",
    "FIELD",
    "STEP",
    "InvalidStartError",
    "begins",
    "check",
    "instant",
    "resolve",
    "stamp",
    "zone",
]

FIELD: Final = "start"

DATA_END: Final = "data_end"
"""The start that every model can answer, however old its data are; smoke requests use it."""

_START: Final = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:[Tt "
    r"](?P<time>\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?)(?P<offset>[Zz]|[+-]\d{2}(?::?\d{2})?)?)?",
    re.ASCII,
)


class InvalidStartError(ContainerError, ValueError):
    """A start is unusable. `code` is `start_malformed`, `start_before_reach` or
    `start_beyond_reach`."""

    def __init__(self, message: str, code: str = "start_malformed") -> None:
        super().__init__(message)
        self.message = message
        self.field = FIELD
        self.code = code


def resolve(request: Mapping[str, Any], card: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The request with its start resolved, for the model whose card is given; resolving again
    changes nothing.

    It reads `timezone`, `frequency` and `data.end` of the card; a model's hours begin at the minute
    of its data's end. `now` is an instant with a time zone. `check` decides whether the model
    reaches that start.

    Raises `InvalidStartError` for a malformed start, and `InvalidReadingsError` for readings that
    the model cannot forecast from.
    """
    card = _with_readings(request, card)
    if request.get(FIELD) == DATA_END:
        end = _data_end(card)
        if end is None:
            raise InvalidStartError(
                f"start is {DATA_END}, and the model's card does not tell where its data end."
            )
        return {
            **request,
            FIELD: end.date().isoformat() if card.get("frequency") == "D" else end.strftime(STAMP),
        }
    clock = zone(card.get("timezone"))
    moment = _moment(request[FIELD], clock) if FIELD in request else now.astimezone(clock)
    if card.get("frequency") == "D":
        return {**request, FIELD: _next_day(moment).isoformat()}
    return {
        **request,
        FIELD: _next_hour(moment.astimezone(UTC), _minute_of_hour(card)).strftime(STAMP),
    }


def check(request: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Raise `InvalidStartError` where the model does not reach the start of a resolved request, and
    `InvalidReadingsError` for readings that it cannot forecast from.

    It reads `usable_from` and `usable_until` of the card. Old cards have only `data.end` and
    `horizon_points`; their models reach to the end of their horizon.
    """
    card = _with_readings(request, card)
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
            f"The model does not reach {request[FIELD]}: its data end at {end:{STAMP}}, and it "
            f"forecasts from starts "
            f"before {until:{STAMP}}. Upload newer data.",
            "start_beyond_reach",
        )
    if start < first:
        raise InvalidStartError(
            f"The model does not go back to {request[FIELD]}: its data end at {end:{STAMP}}, and "
            f"it forecasts from "
            f"{first:{STAMP}} on. Ask for a later start.",
            "start_before_reach",
        )


def _with_readings(request: Mapping[str, Any], card: Mapping[str, Any]) -> Mapping[str, Any]:
    """The card with the end and reach that a request's readings give the model."""
    if fresh_readings.FIELD not in request:
        return card
    return fresh_readings.card_of(fresh_readings.parse(request[fresh_readings.FIELD]), card)


def begins(start: str, card: Mapping[str, Any]) -> datetime:
    """The moment of a resolved start; a date of a daily model begins at midnight of the customer's
    clock."""
    if card.get("frequency") == "D":
        return _moment(start, zone(card.get("timezone")))
    return instant(start)


def _moment(value: Any, clock: zoneinfo.ZoneInfo) -> datetime:
    """The requested start, on the customer's clock."""
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
    # Convert to UTC and back, so that a time that the clock skips becomes the time that it shows at
    # that instant.
    return datetime.combine(day, hour, clock).astimezone(UTC).astimezone(clock)


def _next_day(moment: datetime) -> date:
    """The date of a moment at midnight, otherwise the next date."""
    before = moment.astimezone(UTC) - timedelta(microseconds=1)
    begins = before.astimezone(moment.tzinfo).date() != moment.date()
    return moment.date() if begins else moment.date() + timedelta(days=1)


def _next_hour(moment: datetime, minute: timedelta) -> datetime:
    """The moment, or the first one after it, whose part of the hour is `minute`."""
    past = (moment - minute).replace(minute=0, second=0, microsecond=0) + minute
    return past if past == moment else past + timedelta(hours=1)


def _minute_of_hour(card: Mapping[str, Any]) -> timedelta:
    """The offset of the model's hours from full hours: zero except for meters that are read at half
    past."""
    end = _data_end(card)
    return timedelta(minutes=end.minute, seconds=end.second) if end else timedelta()


def _data_end(card: Mapping[str, Any]) -> datetime | None:
    data = card.get("data")
    return instant(str(data["end"])) if isinstance(data, Mapping) and "end" in data else None

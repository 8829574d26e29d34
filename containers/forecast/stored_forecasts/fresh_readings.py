"""Fresh readings in a request: the document `readings.json` that preparation writes.

A model that takes them forecasts from their end by what it learned. The server and the product's
client share this rule, which needs the standard library alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from operator import ne
from typing import Any, Final

from containers.forecast.stored_forecasts.clock import (
    FIRST_YEAR,
    LAST_YEAR,
    STAMP,
    STEP,
    instant,
    stamp,
    zone,
)
from containers.forecast.stored_forecasts.learned import CALENDAR_PROFILE
from containers.runtime.errors import ContainerError

FIELD: Final = "readings"

TAKEN_BY: Final = "fresh_readings"
"""The field of a card that names the model that forecasts from fresh readings, or is null."""

MOST_DAYS: Final = 371
"""Most days of readings in a request: 53 weeks."""

FEWEST_DAYS: Final = 56
"""Fewest days of readings, as of the shortest history that the chosen models learn from."""

FEWEST_PROFILE_DAYS: Final = 3
"""Fewest days for the profile of short histories."""

LEAST_KNOWN: Final = 0.5
"""The share of the fewest readings that must be known."""

LARGEST: Final = 1e9
"""kWh of one reading."""

WHOLE_DAY: Final = 23
"""Hours from which on a day counts as whole: those of the shortest."""


class InvalidReadingsError(ContainerError, ValueError):
    """Readings are unusable. `code` is `readings_malformed`, `readings_frequency`,
    `readings_too_few`, `readings_too_many`, `readings_older` or `readings_not_taken`."""

    def __init__(self, message: str, code: str = "readings_malformed") -> None:
        super().__init__(message)
        self.message = message
        self.field = FIELD
        self.code = code


@dataclass(frozen=True, slots=True)
class FreshReadings:
    """Readings in kWh (None where missing) from `start` (UTC), `h` or `D` apart."""

    start: datetime
    frequency: str
    values: Sequence[float | None]

    @property
    def end(self) -> datetime:
        """The first instant after the readings."""
        return self.start + len(self.values) * STEP[self.frequency]

    def until(self, moment: datetime) -> "FreshReadings":
        """Those that end at or before a moment."""
        count = max((moment - self.start) // STEP[self.frequency], 0)
        return self if count >= len(self.values) else replace(self, values=self.values[:count])


def takes(card: Mapping[str, Any]) -> bool:
    """Whether the model of a card forecasts from fresh readings."""
    return isinstance(card.get(TAKEN_BY), str)


def parse(document: Any) -> FreshReadings:
    """The readings of a request; raises `InvalidReadingsError`."""
    if not isinstance(document, dict) or set(document) != {"start", "frequency", "values"}:
        raise InvalidReadingsError("readings must be an object of start, frequency and values.")
    frequency, values = document["frequency"], document["values"]
    if frequency not in tuple(STEP):
        raise InvalidReadingsError("readings.frequency must be h or D.")
    try:
        start = datetime.strptime(str(document["start"]), STAMP).replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidReadingsError(
            "readings.start must be an instant such as 2026-11-30T06:00:00Z."
        ) from error
    if not FIRST_YEAR <= start.year < LAST_YEAR:
        raise InvalidReadingsError(
            f"readings.start must lie within the years {FIRST_YEAR} to {LAST_YEAR - 1}."
        )
    if frequency == "D" and start.time() != time():
        raise InvalidReadingsError("readings.start of daily readings must be a midnight.")
    if not isinstance(values, list):
        raise InvalidReadingsError("readings.values must be a list.")
    most = timedelta(days=MOST_DAYS) // STEP[frequency]
    if len(values) > most:
        raise InvalidReadingsError(
            f"readings.values has {len(values)} values; at most {most} are read.",
            "readings_too_many",
        )
    known = [value for value in values if value is not None]
    # Without a loop of its own, because every request passes here. NaN differs from itself.
    if (
        not set(map(type, known)) <= {float, int}
        or any(map(ne, known, known))
        or (known and not 0 <= min(known) <= max(known) <= LARGEST)
    ):
        raise InvalidReadingsError(
            f"readings.values must be numbers of kWh from 0 to {LARGEST:g}, or null."
        )
    if not values or values[-1] is None:
        raise InvalidReadingsError("readings.values must end with a reading.")
    return FreshReadings(start, frequency, values)


def card_of(readings: FreshReadings, card: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a model that forecasts from the end of these readings.

    It reaches as far from there as before from the end of its own data. It also answers starts
    from that end on, from the readings before the start. Raises `InvalidReadingsError`.
    """
    if not takes(card):
        raise InvalidReadingsError(
            "This model cannot forecast from fresh readings; ask without them, or train again.",
            "readings_not_taken",
        )
    if readings.frequency == "D" and card["frequency"] == "h":
        raise InvalidReadingsError(
            "This model forecasts hours, and the readings are daily.", "readings_frequency"
        )
    learned_until = instant(card["data"]["end"])
    end = end_of(readings, card)
    if end < learned_until:
        raise InvalidReadingsError(
            f"The readings end at {stamp(end)}, and the model's data at {stamp(learned_until)}; "
            f"ask without them.",
            "readings_older",
        )
    check_enough(readings, card)
    reach = instant(card["usable_until"]) - learned_until
    return {
        **card,
        "data": {**card["data"], "end": stamp(end)},
        "usable_from": stamp(learned_until),
        "usable_until": stamp(end + reach),
    }


def check_enough(readings: FreshReadings, card: Mapping[str, Any]) -> None:
    """Raise `InvalidReadingsError` where the model needs more readings."""
    fewest = FEWEST_PROFILE_DAYS if card[TAKEN_BY] == CALENDAR_PROFILE else FEWEST_DAYS
    count = timedelta(days=fewest) // STEP[readings.frequency]
    known = len(readings.values) - readings.values.count(None)
    if len(readings.values) < count or known < math.ceil(LEAST_KNOWN * count):
        raise InvalidReadingsError(
            f"This model needs the last {fewest} days of readings, at least half of them known.",
            "readings_too_few",
        )


def end_of(readings: FreshReadings, card: Mapping[str, Any]) -> datetime:
    """The end of the readings as the model sees them: for a daily model the label of the first
    local date that hourly readings do not fill."""
    if readings.frequency == card["frequency"]:
        return readings.end
    clock = zone(card.get("timezone"))
    last = (readings.end - STEP["h"]).astimezone(clock).date()
    begins = datetime.combine(last, time(), clock).astimezone(UTC)
    whole = readings.end - begins >= WHOLE_DAY * STEP["h"]
    label = last + timedelta(days=1) if whole else last
    return datetime.combine(label, time(), UTC)

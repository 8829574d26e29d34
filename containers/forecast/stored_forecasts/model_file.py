"""`model.json`: the forecasts of one customer's model, written by training and read by the server.

The file stores mean and quantiles for weeks on the customer's clock, point by point from the data's
end:

- `before`: the held-out week, as the model forecast it;
- `first`: the first week after the data;
- `later`: every week from the second on, whose intervals grow with the distance by the factors of
  `spread`.

Since format 3 it also stores what the model learned, which forecasts from the end of fresh readings
(`containers.forecast.stored_forecasts.learned`).

Values have four significant digits. Two months ahead take a few kilobytes. The standard library
alone reads the file in well under a millisecond, and the file cannot run code.

Files of format 1, in which a request has no start, hold the points of one horizon after the data's
end. The reader accepts them.
"""

import json
import math
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from containers.forecast.stored_forecasts import learned as learning
from containers.forecast.stored_forecasts.learned import Learned
from containers.runtime.errors import ContainerError

MODEL_FILE: Final = "model.json"
CARD_FILE: Final = "card.json"

LARGEST_FILE: Final = 1 << 20
LARGEST_HORIZON: Final = {"h": 14 * 24, "D": 28}
"""Most points of one request: 14 days of hours, or 28 days."""

LARGEST_REACH: Final = 366
"""Most days from the data's end to a start."""

WEEK: Final = {"h": 168, "D": 7}
"""Points in a week."""

LARGEST_SPREAD: Final = 100.0

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME = re.compile(r"[a-z0-9_]{1,64}")


class MalformedModelError(ContainerError, ValueError):
    """The files are not a forecast model; the message names file and field."""


@dataclass(frozen=True)
class Points:
    """Forecasts in kWh of consecutive points; `quantiles` maps a level to its values, one per
    point."""

    mean: Sequence[float]
    quantiles: Mapping[float, Sequence[float]]


@dataclass(frozen=True)
class StoredForecast:
    """A model.

    `end` is the end of its data (UTC); for daily models, the midnight label of the next local date.
    A request may start up to `reach` days after it, and ask for `horizon` points. `before` are the
    last points before the end, `first` those of the week after it, and `later` those of each week
    from the second on. In week `w` (1 is the second) the distance of each quantile from the median
    is that in `later`, times `spread[w - 1]`. `learned` is None for a model that forecasts from no
    other end.
    """

    model: str
    frequency: str
    unit: str
    timezone: str
    end: datetime
    reach: int
    horizon: int
    before: Points
    first: Points
    later: Points
    spread: Sequence[float]
    learned: Learned | None = None


@dataclass(frozen=True)
class StoredHorizon:
    """A model of format 1: forecasts of the points from `start` (UTC), the end of its data."""

    model: str
    frequency: str
    unit: str
    start: datetime
    points: Points


def write_model(folder: Path, stored: StoredForecast) -> None:
    """Write `model.json` into `folder`; equal forecasts give equal bytes."""
    document = {
        "format": 3,
        "model": stored.model,
        "frequency": stored.frequency,
        "unit": stored.unit,
        "timezone": stored.timezone,
        "end": stored.end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "reach": stored.reach,
        "horizon": stored.horizon,
        "spread": list(stored.spread),
        "learned": learning.document_of(stored.learned) if stored.learned else None,
    }
    for name in ("before", "first", "later"):
        points: Points = getattr(stored, name)
        quantiles = {
            f"{level:g}": list(values) for level, values in sorted(points.quantiles.items())
        }
        document[name] = {"mean": list(points.mean), "quantiles": quantiles}
    (folder / MODEL_FILE).write_text(json.dumps(document, separators=(",", ":"), allow_nan=False))


def read_model(folder: Path) -> StoredForecast | StoredHorizon:
    """Read `model.json`. Raises `MalformedModelError` for files that no version of training
    writes."""
    document = _object(folder / MODEL_FILE)
    if document.get("format") not in (1, 2, 3):
        raise MalformedModelError(f"{MODEL_FILE}: format must be 1, 2 or 3")
    frequency = document.get("frequency")
    if frequency not in tuple(LARGEST_HORIZON):
        raise MalformedModelError(f"{MODEL_FILE}: frequency must be h or D")
    model = document.get("model")
    if not isinstance(model, str) or not _NAME.fullmatch(model):
        raise MalformedModelError(f"{MODEL_FILE}: model must be a short name")
    if document.get("unit") != "kWh":
        raise MalformedModelError(f"{MODEL_FILE}: unit must be kWh")
    if document["format"] == 1:
        points = _points(document, "", 1, LARGEST_HORIZON[frequency])
        return StoredHorizon(model, frequency, "kWh", _stamp(document, "start"), points)
    week = WEEK[frequency]
    parts = {name: document.get(name) for name in ("before", "first", "later")}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise MalformedModelError(f"{MODEL_FILE}: {name} must be an object")
    first, later = (_points(document[name], f"{name}.", week, week) for name in ("first", "later"))
    before = _points(document["before"], "before.", 0, week)
    if (
        not set(before.quantiles) == set(first.quantiles) == set(later.quantiles)
        or 0.5 not in first.quantiles
    ):
        raise MalformedModelError(
            f"{MODEL_FILE}: quantiles must be of the same levels in all weeks, 0.5 among them"
        )
    spread = _values(document.get("spread"), "spread", None)
    if not 0 < len(spread) <= LARGEST_REACH // 7 or not all(
        1.0 <= factor <= LARGEST_SPREAD for factor in spread
    ):
        raise MalformedModelError(
            f"{MODEL_FILE}: spread must be factors from 1 to {LARGEST_SPREAD:g}"
        )
    return StoredForecast(
        model=model,
        frequency=frequency,
        unit="kWh",
        timezone=_timezone(document.get("timezone")),
        end=_stamp(document, "end"),
        reach=_whole(document, "reach", LARGEST_REACH),
        horizon=_whole(document, "horizon", LARGEST_HORIZON[frequency]),
        before=before,
        first=first,
        later=later,
        spread=spread,
        learned=_learned(document.get("learned"), frequency, len(first.quantiles)),
    )


def _learned(document: Any, frequency: str, levels: int) -> Learned | None:
    if document is None:
        return None
    try:
        return learning.parse(document, frequency, levels)
    except learning.MalformedLearnedError as error:
        raise MalformedModelError(f"{MODEL_FILE}: {error}") from error


def _points(document: Mapping[str, Any], prefix: str, least: int, most: int) -> Points:
    mean = _values(document.get("mean"), f"{prefix}mean", None)
    if not least <= len(mean) <= most:
        raise MalformedModelError(f"{MODEL_FILE}: {prefix}mean must have {least} to {most} values")
    return Points(mean, _quantiles(document.get("quantiles"), f"{prefix}quantiles", len(mean)))


def _stamp(document: Mapping[str, Any], field: str) -> datetime:
    try:
        stamp = datetime.strptime(str(document.get(field)), "%Y-%m-%dT%H:%M:%SZ").replace(
            tzinfo=UTC
        )
    except ValueError as error:
        raise MalformedModelError(
            f"{MODEL_FILE}: {field} must be a timestamp such as 2026-01-01T00:00:00Z"
        ) from error
    if not 1970 <= stamp.year < 2200:
        raise MalformedModelError(f"{MODEL_FILE}: {field} lies outside 1970 to 2200")
    return stamp


def _timezone(value: Any) -> str:
    try:
        return zoneinfo.ZoneInfo(str(value)).key
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise MalformedModelError(
            f"{MODEL_FILE}: timezone must be an IANA name that this machine knows"
        ) from error


def _whole(document: Mapping[str, Any], field: str, most: int) -> int:
    value = document.get(field)
    if type(value) is not int or not 1 <= value <= most:
        raise MalformedModelError(f"{MODEL_FILE}: {field} must be a whole number from 1 to {most}")
    return value


def read_card(folder: Path) -> dict[str, Any]:
    """The archive's `card.json`, whose `version` is a name; raises `MalformedModelError`."""
    card = _object(folder / CARD_FILE)
    version = card.get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise MalformedModelError(f"{CARD_FILE}: version must be a short name")
    return card


def _object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise MalformedModelError(f"{path.name} is larger than {LARGEST_FILE} bytes")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise MalformedModelError(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, MalformedModelError):
            raise
        raise MalformedModelError(f"{path.name} is not JSON") from error
    if not isinstance(document, dict):
        raise MalformedModelError(f"{path.name} must be a JSON object")
    return document


def _values(value: Any, field: str, length: int | None) -> list[float]:
    if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
        raise MalformedModelError(f"{MODEL_FILE}: {field} must be a list of numbers")
    if length is not None and len(value) != length:
        raise MalformedModelError(f"{MODEL_FILE}: {field} must have as many values as mean")
    try:
        numbers = [float(item) for item in value]
    except OverflowError as error:
        raise MalformedModelError(f"{MODEL_FILE}: {field} must be finite") from error
    if not all(0.0 <= number < 1e15 for number in numbers):
        raise MalformedModelError(f"{MODEL_FILE}: {field} must be finite and not negative")
    return numbers


def _quantiles(value: Any, field: str, length: int) -> dict[float, list[float]]:
    if not isinstance(value, dict) or not 0 < len(value) <= 32:
        raise MalformedModelError(f"{MODEL_FILE}: {field} must be an object of 1 to 32 levels")
    levels: dict[float, list[float]] = {}
    for name, values in value.items():
        try:
            level = float(name)
        except ValueError as error:
            raise MalformedModelError(
                f"{MODEL_FILE}: {name[:20]!r} is no quantile level"
            ) from error
        if not 0.0 < level < 1.0 or not math.isfinite(level) or f"{level:g}" != name:
            raise MalformedModelError(f"{MODEL_FILE}: {name[:20]!r} is no quantile level")
        levels[level] = _values(values, f"{field}.{name}", length)
    ascending = [levels[level] for level in sorted(levels)]
    for lower, upper in pairwise(ascending):
        if any(low > high for low, high in zip(lower, upper, strict=True)):
            raise MalformedModelError(f"{MODEL_FILE}: {field} cross")
    return levels

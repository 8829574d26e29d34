"""`model.json`: the forecasts of one customer's model, written by training and read by the server.

A model is stored as what it says: mean and quantiles for each point of its horizon, at four significant digits. That is a
few kilobytes, is read with the standard library alone in well under a millisecond, and cannot run anything.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

MODEL_FILE: Final = "model.json"
CARD_FILE: Final = "card.json"

LARGEST_FILE: Final = 1 << 20
LARGEST_HORIZON: Final = {"h": 14 * 24, "D": 28}
"""Most points a model may hold: 14 days of hours, 28 days."""

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME = re.compile(r"[a-z0-9_]{1,64}")


class MalformedModel(ValueError):  # noqa: N818 - the sentence says it
    """The files are not a forecast model; names file and field."""


@dataclass(frozen=True)
class StoredForecast:
    """Forecasts in kWh from `start` (UTC) on, one value per point; `quantiles` maps a level to its values."""

    model: str
    frequency: str
    unit: str
    start: datetime
    mean: Sequence[float]
    quantiles: Mapping[float, Sequence[float]]


def write_model(folder: Path, stored: StoredForecast) -> None:
    """Write `model.json` into `folder`; equal forecasts give equal bytes."""
    document = {
        "format": 1,
        "model": stored.model,
        "frequency": stored.frequency,
        "unit": stored.unit,
        "start": stored.start.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "mean": list(stored.mean),
        "quantiles": {f"{level:g}": list(values) for level, values in sorted(stored.quantiles.items())},
    }
    (folder / MODEL_FILE).write_text(json.dumps(document, separators=(",", ":"), allow_nan=False))


def read_model(folder: Path) -> StoredForecast:
    """Read `model.json`; raises `MalformedModel` for anything that training does not write."""
    document = _object(folder / MODEL_FILE)
    if document.get("format") != 1:
        raise MalformedModel(f"{MODEL_FILE}: format must be 1")
    frequency = document.get("frequency")
    if frequency not in tuple(LARGEST_HORIZON):
        raise MalformedModel(f"{MODEL_FILE}: frequency must be h or D")
    model = document.get("model")
    if not isinstance(model, str) or not _NAME.fullmatch(model):
        raise MalformedModel(f"{MODEL_FILE}: model must be a short name")
    if document.get("unit") != "kWh":
        raise MalformedModel(f"{MODEL_FILE}: unit must be kWh")
    try:
        start = datetime.strptime(str(document.get("start")), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise MalformedModel(f"{MODEL_FILE}: start must be a timestamp such as 2026-01-01T00:00:00Z") from error
    if not 1970 <= start.year < 2200:
        raise MalformedModel(f"{MODEL_FILE}: start lies outside 1970 to 2200")
    mean = _values(document.get("mean"), "mean", None)
    if not 0 < len(mean) <= LARGEST_HORIZON[frequency]:
        raise MalformedModel(f"{MODEL_FILE}: mean must have 1 to {LARGEST_HORIZON[frequency]} values")
    return StoredForecast(model, frequency, "kWh", start, mean, _quantiles(document.get("quantiles"), len(mean)))


def read_version(folder: Path) -> str:
    """The version that the archive's `card.json` names; raises `MalformedModel`."""
    version = _object(folder / CARD_FILE).get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise MalformedModel(f"{CARD_FILE}: version must be a short name")
    return version


def _object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise MalformedModel(f"{path.name} is larger than {LARGEST_FILE} bytes")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise MalformedModel(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, MalformedModel):
            raise
        raise MalformedModel(f"{path.name} is not JSON") from error
    if not isinstance(document, dict):
        raise MalformedModel(f"{path.name} must be a JSON object")
    return document


def _values(value: Any, field: str, length: int | None) -> list[float]:
    if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
        raise MalformedModel(f"{MODEL_FILE}: {field} must be a list of numbers")
    if length is not None and len(value) != length:
        raise MalformedModel(f"{MODEL_FILE}: {field} must have as many values as mean")
    try:
        numbers = [float(item) for item in value]
    except OverflowError as error:
        raise MalformedModel(f"{MODEL_FILE}: {field} must be finite") from error
    if not all(0.0 <= number < 1e15 for number in numbers):
        raise MalformedModel(f"{MODEL_FILE}: {field} must be finite and not negative")
    return numbers


def _quantiles(value: Any, length: int) -> dict[float, list[float]]:
    if not isinstance(value, dict) or not 0 < len(value) <= 32:
        raise MalformedModel(f"{MODEL_FILE}: quantiles must be an object of 1 to 32 levels")
    levels: dict[float, list[float]] = {}
    for name, values in value.items():
        try:
            level = float(name)
        except ValueError as error:
            raise MalformedModel(f"{MODEL_FILE}: {name[:20]!r} is no quantile level") from error
        if not 0.0 < level < 1.0 or not math.isfinite(level) or f"{level:g}" != name:
            raise MalformedModel(f"{MODEL_FILE}: {name[:20]!r} is no quantile level")
        levels[level] = _values(values, f"quantiles.{name}", length)
    ascending = [levels[level] for level in sorted(levels)]
    for lower, upper in pairwise(ascending):
        if any(low > high for low, high in zip(lower, upper, strict=True)):
            raise MalformedModel(f"{MODEL_FILE}: quantiles cross")
    return levels

"""What a model learned: the part of it that stays true when its data end later.

A stored forecast belongs to one end of the data. What is here is applied to readings that end later
(`containers.forecast.models.learned`), and then gives the forecast from their end:

- `coefficients` of the regression `ridge`: a row for the mean and for each level, a column for each
  of `inputs`;
- `shifts` of the quantiles by the errors of the backtest, for the first week ahead and for later
  ones, and for each level: hourly one for each hour of the local clock, daily two;
- `towards_profile`: whether later weeks are drawn towards the weekly profile.

The models `weekly_median` and `seasonal_naive` have shifts alone. `calendar_profile` computes all
of itself from the readings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from containers.runtime.errors import ContainerError

RIDGE: Final = "ridge"
CALENDAR_PROFILE: Final = "calendar_profile"
MODELS: Final = (RIDGE, "weekly_median", "seasonal_naive", CALENDAR_PROFILE)
"""Models that can be applied to fresh readings, by name."""

SHIFTS: Final[Mapping[str, int]] = {"h": 24, "D": 2}
"""Shifts of a level, by frequency: one for each hour of the local clock, or one for the quantile
and one for the median (`containers.forecast.models.calibration`)."""

AHEAD: Final = 2
"""Weeks ahead that are told apart: the first, and all later ones."""

MOST_INPUTS: Final = 64
LARGEST: Final = 1e9
"""Bound of coefficients and shifts."""

_DIGITS: Final = 7

Rows = Sequence[Sequence[float]]


class MalformedLearnedError(ContainerError, ValueError):
    """The document holds nothing that a model learned; the message names the field."""


@dataclass(frozen=True)
class Learned:
    """What a model learned; the module describes the fields."""

    model: str
    inputs: Sequence[str] = ()
    coefficients: Rows = ()
    towards_profile: bool = False
    shifts: Sequence[Rows] = ()


def rounded(rows: Sequence[Any]) -> list[Any]:
    """Nested lists of numbers with seven significant digits, as the file has them."""
    return [
        float(f"{item:.{_DIGITS}g}") if isinstance(item, float) else rounded(item) for item in rows
    ]


def document_of(learned: Learned) -> dict[str, Any]:
    """The document of `model.json`'s field `learned`."""
    return {
        "model": learned.model,
        "inputs": list(learned.inputs),
        "coefficients": [list(row) for row in learned.coefficients],
        "towards_profile": learned.towards_profile,
        "shifts": [[list(row) for row in week] for week in learned.shifts],
    }


def parse(document: Any, frequency: str, levels: int) -> Learned:
    """What a document says for a model of `frequency` with so many levels; raises
    `MalformedLearnedError`."""
    if not isinstance(document, dict):
        raise MalformedLearnedError("learned must be an object")
    model = document.get("model")
    if model not in MODELS:
        raise MalformedLearnedError(f"learned.model must be one of {', '.join(MODELS)}")
    towards_profile = document.get("towards_profile")
    if type(towards_profile) is not bool:
        raise MalformedLearnedError("learned.towards_profile must be true or false")
    inputs = _list(document.get("inputs"), "learned.inputs")
    if len(inputs) > MOST_INPUTS or not all(
        isinstance(name, str) and len(name) <= MOST_INPUTS for name in inputs
    ):
        raise MalformedLearnedError(f"learned.inputs must be up to {MOST_INPUTS} short names")
    if bool(inputs) != (model == RIDGE):
        raise MalformedLearnedError(f"learned.inputs must be those of {RIDGE}, which alone has any")
    coefficients = _rows(
        document.get("coefficients"),
        "learned.coefficients",
        1 + levels if inputs else 0,
        len(inputs),
    )
    weeks = _list(document.get("shifts"), "learned.shifts")
    if len(weeks) != (0 if model == CALENDAR_PROFILE else AHEAD):
        raise MalformedLearnedError(f"learned.shifts must be of {AHEAD} weeks, or none")
    shifts = [_rows(week, "learned.shifts", levels, SHIFTS[frequency]) for week in weeks]
    return Learned(model, tuple(inputs), coefficients, towards_profile, shifts)


def _rows(value: Any, field: str, rows: int, columns: int) -> list[list[float]]:
    found = [_list(row, field) for row in _list(value, field)]
    if len(found) != rows or any(len(row) != columns for row in found):
        raise MalformedLearnedError(f"{field} must be {rows} rows of {columns} numbers")
    return [[_number(item, field) for item in row] for row in found]


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedLearnedError(f"{field} must be a list")
    return value


def _number(value: Any, field: str) -> float:
    # Comparing before converting, because a whole number may be too large for a float.
    if type(value) not in (int, float) or not -LARGEST <= value <= LARGEST:
        raise MalformedLearnedError(f"{field} must be numbers of at most {LARGEST:g}")
    number = float(value)
    if not math.isfinite(number):
        raise MalformedLearnedError(f"{field} must be finite")
    return number

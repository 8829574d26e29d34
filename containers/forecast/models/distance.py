"""How a forecast's error grows with the distance from the data's end.

From the second week on, models forecast the same for every week, and only their error grows. The
growth was measured on a third of the customers of London households and Cambridge buildings. The
error's 80 % quantile grows roughly as a power of the weeks. The exponent is 0.10 for hourly and
0.13 for daily series (medians over customers; the quartiles are 0.02 and 0.21). A customer's own
history is the more reliable the longer it is. Its exponent is therefore drawn towards the usual
one.
"""

import math
from typing import Final

import numpy as np

from containers.forecast.consumption.series import Floats, Weeks
from containers.forecast.models.candidates import carried_forward
from containers.forecast.models.features import recent_ordered, recent_quantile

REACH_DAYS: Final = 63
"""Days after the data's end within which a forecast must start: nine weeks, which include 60
days."""

WEEKS: Final = 13
"""The number of weeks with a growth factor, from the second week on: enough for a start at the end
of the reach with the longest horizon."""

USUAL: Final = {24: 0.10, 1: 0.13}
"""The usual exponent, by points in a day."""

LEAD: Final = {24: 0.05, 1: 0.0}
"""An addition to the profile's exponent, by points in a day.

The exponent is measured on the profile's errors. In the second week an hourly model is better than
the profile, and it loses that lead later. On a third of the customers its 80 % intervals held 0.745
of the readings eight weeks ahead without this addition, and 0.78 with it; daily 0.80.
"""

LARGEST: Final = 0.5
"""The exponent of a random walk, whose spread grows as the square root of time. No customer's
intervals grow faster."""

WEIGHT: Final = 20.0
"""The weight of the usual exponent: about that of ten months of a customer's own history."""

LONGEST: Final = 26
"""Weeks of history that the exponent is measured on: half a year."""

_SHARE: Final = 0.8
_AHEAD: Final = (2, 4, 8)


def spread(weeks: Weeks) -> list[float]:
    """The width of intervals in each week from the second on, relative to the second: first 1, then
    more."""
    return _factors(min(_exponent(weeks) + LEAD[weeks.per_day], LARGEST))


def usual_spread(per_day: int) -> list[float]:
    """The usual factors, for a history that is too short to measure."""
    return _factors(USUAL[per_day])


def _factors(exponent: float) -> list[float]:
    return [round(week**exponent, 3) for week in range(1, WEEKS + 1)]


def _exponent(weeks: Weeks) -> float:
    """The exponent by which the profile's errors grew in the customer's own history, drawn towards
    the usual one.

    A least-squares fit through the logarithms of weeks and errors, each weighted by the spans of
    history that do not overlap.
    """
    usual = USUAL[weeks.per_day]
    values = weeks.values
    count = len(values)
    first = int(np.argmax(np.isfinite(values).any(axis=1)))
    origins = np.arange(max(first + 4, count - LONGEST), count)
    if len(origins) < 4:
        return usual
    profile = recent_quantile(recent_ordered(carried_forward(values), origins.tolist()), 0.5)
    near = _error(values, profile, origins, 1)
    above, below = WEIGHT * usual, WEIGHT
    for ahead in _AHEAD:
        spans = (len(origins) - ahead) / ahead
        far = _error(values, profile, origins, ahead)
        if spans >= 1 and near > 0 and far > 0:
            above += spans * math.log(ahead) * math.log(far / near)
            below += spans * math.log(ahead) ** 2
    return max(above / below, 0.0)


def _error(
    values: Floats, profile: Floats, origins: "np.typing.NDArray[np.int64]", ahead: int
) -> float:
    """The 80 % quantile of the profile's errors, `ahead` weeks after the first forecast week; 0 if
    unknown."""
    reached = len(origins) - ahead
    if reached <= 0:
        return 0.0
    errors = np.abs(values[origins[:reached] + ahead] - profile[:reached]).ravel()
    errors = errors[np.isfinite(errors)]
    if len(errors) == 0:
        return 0.0
    place = min(int(_SHARE * len(errors)), len(errors) - 1)
    return float(np.partition(errors, place)[place])

"""How a forecast's error grows with the distance from the data's end.

From the second week on, models say the same of every week, and only how far they are off grows: on
London households and Cambridge buildings, a third of whose customers were looked at, the error that
four in five stay below grows about as a power of the weeks, hourly to the power of 0.10 and daily
of 0.13 (medians over customers; the quartiles lie at 0.02 and 0.21). A customer's own history says
more the longer it is, so its exponent is drawn towards that of the others.
"""

import math
from typing import Final

import numpy as np

from containers.forecast.consumption.series import Floats, Weeks
from containers.forecast.models.candidates import carried_forward
from containers.forecast.models.features import recent_ordered, recent_quantile

REACH_DAYS: Final = 63
"""Days after the data's end before which a forecast may start: nine weeks, so that 60 days are
reached."""

WEEKS: Final = 13
"""Weeks that growth is told for, the second being the first: a start at the reach's end and the
longest horizon."""

USUAL: Final = {24: 0.10, 1: 0.13}
"""The usual exponent, by points in a day."""

LEAD: Final = {24: 0.05, 1: 0.0}
"""What is added to the exponent of the profile, by points in a day.

An hourly model is nearer to the second week than the profile, whose errors are looked at, and loses
that lead later: on a third of the customers its 80 % intervals held 0.745 of what came eight weeks
ahead without this, and 0.78 with it; daily 0.80.
"""

LARGEST: Final = 0.5
"""The exponent of a random walk, whose spread grows as the root of time: no customer's doubt grows
faster."""

WEIGHT: Final = 20.0
"""How much the usual exponent counts: about as much as ten months of a customer's own history."""

LONGEST: Final = 26
"""Weeks that are looked back from: half a year."""

_SHARE: Final = 0.8
_AHEAD: Final = (2, 4, 8)


def spread(weeks: Weeks) -> list[float]:
    """How much wider than in the second week intervals are in each week from the second on: 1
    first, then more."""
    return _factors(min(_exponent(weeks) + LEAD[weeks.per_day], LARGEST))


def usual_spread(per_day: int) -> list[float]:
    """The same where the history is too short to tell."""
    return _factors(USUAL[per_day])


def _factors(exponent: float) -> list[float]:
    return [round(week**exponent, 3) for week in range(1, WEEKS + 1)]


def _exponent(weeks: Weeks) -> float:
    """How errors of the weekly profile grew in the customer's own history, drawn towards what is
    usual.

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
    """What four in five errors of the profile stay below, `ahead` weeks after the first week
    forecast; 0 if unknown."""
    reached = len(origins) - ahead
    if reached <= 0:
        return 0.0
    errors = np.abs(values[origins[:reached] + ahead] - profile[:reached]).ravel()
    errors = errors[np.isfinite(errors)]
    if len(errors) == 0:
        return 0.0
    place = min(int(_SHARE * len(errors)), len(errors) - 1)
    return float(np.partition(errors, place)[place])

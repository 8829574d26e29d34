"""Forecasts by what a model learned, from any end of the readings.

Training makes its final forecast here, and so does the server when a request brings fresh readings.
Both see the same latest weeks, so that equal readings give equal forecasts.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from containers.forecast.consumption.prepared_files import READINGS_WEEKS
from containers.forecast.consumption.series import Floats, Weeks
from containers.forecast.models import ridge
from containers.forecast.models.calibration import calibrated
from containers.forecast.models.candidates import SeasonalNaive, WeeklyMedian
from containers.forecast.models.features import NAMES
from containers.forecast.models.short_history import profile_of
from containers.forecast.stored_forecasts.learned import (
    AHEAD,
    CALENDAR_PROFILE,
    RIDGE,
    Learned,
    rounded,
)
from containers.forecast.stored_forecasts.model_file import Points

FORECAST_DIGITS: Final = 4
"""Significant digits of forecasts: finer than any meter's error, and a third of the bytes."""

TOWARDS_PROFILE: Final = 0.5
"""The weekly median's share of the forecast from the second week on, if it is a candidate.

By then the last days say little about the week. With this share the error eight weeks ahead was 1
to 4 % smaller.
"""


def learn(
    model: str, weeks: Weeks, shifts: Floats, drawn: bool, levels: Sequence[float]
) -> Learned:
    """What a model learns from all `weeks`.

    `shifts` are those of its backtest; `drawn` says whether its later weeks move towards the
    profile.
    """
    coefficients = rounded(ridge.fit(weeks, levels).tolist()) if model == RIDGE else []
    return Learned(
        model=model,
        inputs=NAMES if model == RIDGE else (),
        coefficients=coefficients,
        towards_profile=drawn,
        shifts=rounded(shifts.tolist()),
    )


def applies(learned: Learned) -> bool:
    """Whether this release computes the inputs that the model learned with."""
    return learned.model != RIDGE or tuple(learned.inputs) == NAMES


def forecast(learned: Learned, weeks: Weeks, levels: Sequence[float]) -> Floats:
    """The first week after `weeks` and any later one, (2, points, 1 + levels), calibrated."""
    if learned.model == CALENDAR_PROFILE:
        return profile_of(weeks, levels)
    recent = weeks.latest(READINGS_WEEKS)
    origin = [len(recent.values)]
    profile = WeeklyMedian()
    if learned.model == RIDGE:
        told = ridge.predict(np.array(learned.coefficients), recent, AHEAD, levels)
    else:
        candidate = profile if learned.model == profile.name else SeasonalNaive()
        told = candidate.forecast(recent, origin, AHEAD, levels)[0]
    if learned.towards_profile:
        told = towards_profile(told, profile.forecast(recent, origin, AHEAD, levels)[0])
    first_hour = weeks.end % weeks.per_day
    return calibrated(told, np.array(learned.shifts), weeks.per_day, first_hour, levels)


def towards_profile(told: Floats, profile: Floats) -> Floats:
    """Forecasts, (…, weeks ahead, points, 1 + levels); from the second week on they move towards
    the weekly profile's."""
    drawn = told.copy()
    drawn[..., 1:, :, :] += TOWARDS_PROFILE * (profile[..., 1:, :, :] - told[..., 1:, :, :])
    return drawn


def points_of(told: Floats, levels: Sequence[float]) -> Points:
    """Forecasts, (points, 1 + levels), as models store and answer them."""
    columns = [short(column) for column in told.T]
    return Points(columns[0], dict(zip(levels, columns[1:], strict=True)))


def short(values: Floats) -> list[float]:
    """Numbers with the digits of forecasts."""
    return [float(f"{value:.{FORECAST_DIGITS}g}") for value in values.tolist()]

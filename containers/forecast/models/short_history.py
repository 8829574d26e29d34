"""The first model of a customer whose history is shorter than eight weeks: a calendar profile.

It forecasts the median of all readings so far for each hour of the day, or for each day. It draws
each day of the week towards earlier same days of the week, if there are any. Leaving out each day
in turn measures its errors. Its intervals are wide, because they rest on a small sample of days.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

from containers.forecast.consumption.series import Floats, UnusableSeriesError, Weeks
from containers.forecast.models.candidates import carried_forward
from containers.forecast.models.distance import usual_spread
from containers.forecast.models.scores import Chosen, score
from containers.forecast.stored_forecasts.learned import CALENDAR_PROFILE, Learned

SHORT_DAYS: Final = 56
"""Histories of fewer days get this model, because they are too short for a backtest to choose and
calibrate others."""

RECENT_DAYS: Final = 28
"""Days that the profile is computed from."""

FEWEST_DAYS: Final = 3
"""With this many days the last can be held out, and the other two still differ."""

SAME_DAYS: Final = 2.0
"""The weight of n same days of the week is n / (n + SAME_DAYS)."""

_DAYS_OF_WEEK: Final = 7


def is_short(weeks: Weeks) -> bool:
    """Whether a history is too short for the models that are chosen by backtest."""
    return len(_days(weeks)) < SHORT_DAYS


def first_model(weeks: Weeks, levels: Sequence[float]) -> Chosen:
    """The calendar profile of a short history, scored on its last day or days.

    A third of the days is held out, at most a week. The baseline is the seasonal naive forecast:
    the same day of the previous week, or the previous day if the history has no earlier week. MASE
    is relative to the baseline's error within the history. Raises `UnusableSeriesError` below three
    days, and if the held-out days or all others have no reading.
    """
    days = _days(weeks)
    if len(days) < FEWEST_DAYS:
        raise UnusableSeriesError(
            f"The series has fewer than {FEWEST_DAYS} whole days of readings."
        )
    held = max(1, min(_DAYS_OF_WEEK, len(days) // 3))
    before, actual = days[:-held], days[-held:]
    if not np.isfinite(actual).any() or not np.isfinite(before).any():
        raise UnusableSeriesError(
            "The series has no readings on the days that would be held out, or on all others."
        )
    season = _DAYS_OF_WEEK if len(before) > _DAYS_OF_WEEK else 1
    differences = np.abs(before[season:] - before[:-season])
    scale = float(np.nanmean(differences)) if np.isfinite(differences).any() else 0.0
    scale = max(scale, 1e-9)
    held_out = _forecast(before, levels)[:held]
    naive = _naive(before, season, levels)[:held]
    flat = held_out.reshape(-1, 1 + len(levels))
    found = score(actual.reshape(1, -1), flat[None], scale, levels)
    plain = score(actual.reshape(1, -1), naive.reshape(1, -1, 1 + len(levels)), scale, levels)
    return Chosen(
        name=CALENDAR_PROFILE,
        errors={CALENDAR_PROFILE: found.mase * scale, "seasonal_naive": plain.mase * scale},
        score=found,
        baseline=plain,
        held_out=flat,
        final=profile_of(weeks, levels),
        spread=usual_spread(weeks.per_day),
        learned=Learned(CALENDAR_PROFILE),
    )


def profile_of(weeks: Weeks, levels: Sequence[float]) -> Floats:
    """The first week after `weeks` and any later one, which are the same, (2, points, 1 +
    levels)."""
    told = _forecast(_days(weeks), levels).reshape(weeks.season, -1)
    return np.stack([told, told])


def _days(weeks: Weeks) -> Floats:
    """The whole days of a series, counted back from its end: (days, points of a day)."""
    values = weeks.values.ravel()
    first = int(np.argmax(np.isfinite(values)))
    count = (len(values) - first) // weeks.per_day
    return values[len(values) - count * weeks.per_day :].reshape(count, weeks.per_day)


def _profile(filled: Floats, ages: Sequence[int], ahead: int) -> Floats:
    """Mean and median of the day `ahead` days after the end (0 is the next day), from days that are
    `ages` old.

    Both of shape (points of a day,), stacked; the newest day is 0 days old.
    """
    same = [number for number, age in enumerate(ages) if (age + 1 + ahead) % _DAYS_OF_WEEK == 0]
    profile = np.stack([filled.mean(axis=0), np.median(filled, axis=0)])
    if same:
        own = filled[same]
        share = len(same) / (len(same) + SAME_DAYS)
        profile += share * (np.stack([own.mean(axis=0), np.median(own, axis=0)]) - profile)
    return profile


def _told_by_others(filled: Floats) -> Floats:
    """For each day in turn, its median by the profile of all other days: (days, points of a
    day)."""
    told = _medians_of_others(filled)
    for first in range(min(_DAYS_OF_WEEK, len(filled))):
        same = filled[first::_DAYS_OF_WEEK]
        others = len(same) - 1
        if others:
            share = others / (others + SAME_DAYS)
            told[first::_DAYS_OF_WEEK] += share * (
                _medians_of_others(same) - told[first::_DAYS_OF_WEEK]
            )
    return told


def _medians_of_others(values: Floats) -> Floats:
    """For each row the median of all other rows, by column; both of shape (rows, columns), with two
    rows or more."""
    order = np.argsort(values, axis=0)
    ranks = np.argsort(order, axis=0)
    ordered = np.take_along_axis(values, order, axis=0)
    others = len(values) - 1
    low, high = (others - 1) // 2, others // 2
    below = np.where(ranks > low, ordered[low], ordered[low + 1])
    above = np.where(ranks > high, ordered[high], ordered[high + 1])
    medians: Floats = (below + above) / 2
    return medians


def _forecast(days: Floats, levels: Sequence[float]) -> Floats:
    """The coming seven days: (days, points of a day, 1 + levels)."""
    filled = carried_forward(days)[-RECENT_DAYS:]
    count = len(filled)
    ages = list(range(count - 1, -1, -1))
    told = np.stack([_profile(filled, ages, ahead) for ahead in range(_DAYS_OF_WEEK)])
    # The left-out day takes the place of the coming day, although days follow it.
    missed = filled - _told_by_others(filled)
    result = np.empty((*told.shape[::2], 1 + len(levels)))
    result[..., 0] = told[:, 0]
    for column, shift in enumerate(_shifts(missed, levels), start=1):
        result[..., column] = told[:, 1] + shift
    result[..., 1:] = np.sort(result[..., 1:], axis=-1)
    not_negative: Floats = np.maximum(result, 0.0)
    return not_negative


def _naive(days: Floats, season: int, levels: Sequence[float]) -> Floats:
    """The seasonal naive forecast of seven days, with quantiles from its errors within the
    history."""
    filled = carried_forward(days)
    told = np.stack([filled[-season + ahead % season] for ahead in range(_DAYS_OF_WEEK)])
    shifts = _shifts(filled[season:] - filled[:-season], levels)
    result = np.stack([told, *(told + shift for shift in shifts)], axis=-1)
    result[..., 1:] = np.sort(result[..., 1:], axis=-1)
    not_negative: Floats = np.maximum(result, 0.0)
    return not_negative


def _shifts(missed: Floats, levels: Sequence[float]) -> list[Floats]:
    """For each level, how far its quantile lies from the median, by point of the day, from errors
    of shape (days, points).

    Errors of one day are related, so that the sample size is the number of days. The quantile is
    the mean of two: that of the point with its neighbours, and that of all points. Each shift is
    this quantile times the ratio of Student's t to the normal distribution.
    """
    points = missed.shape[1]
    around = (
        np.concatenate([np.roll(missed, 1, axis=1), missed, np.roll(missed, -1, axis=1)])
        if points > 1
        else missed
    )
    at_points = np.quantile(around, levels, axis=0)
    overall = np.quantile(missed, levels)
    shifts = []
    for level, quantile in zip(levels, (at_points + overall[:, None]) / 2, strict=True):
        outwards = np.maximum(quantile, 0.0) if level > 0.5 else np.minimum(quantile, 0.0)
        wider = 0.0 if level == 0.5 else _wider(level, len(missed) - 1)
        shifts.append(outwards * wider)
    return shifts


def _wider(level: float, freedom: int) -> float:
    """The quantile of Student's t over the normal distribution's (Abramowitz, Stegun 1964,
    26.7.5)."""
    z = NormalDist().inv_cdf(level)
    degrees = max(freedom, 1)
    t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return t / z

"""The inputs of the regressions: the facts about a point of the coming week that are known when the
week begins."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from containers.forecast.consumption.series import Floats, Weeks

RECENT_WEEKS: Final = 8

NAMES: Final = (
    # over the last eight same points of the week: the profile that the regressions shrink towards
    "median_8",
    "quartile_1_8",
    "quartile_3_8",
    "mean_8",
    "mean_fast",  # exponentially weighted, 0.7 from week to week
    "mean_slow",  # 0.9 from week to week
    "last_week",
    "median_8_smooth",  # with the two neighbours on each side
    "mean_fast_smooth",
    "last_week_smooth",
    "hour_of_last_7_days",
    "hour_of_median_8",
    "level_of_median_8",
    "level_of_last_week",  # above the profile
    "last_day_by_hour",  # above the profile, fading over the coming days
    "last_day",
    "last_3_days",
)

FADING: Final = tuple(NAMES.index(name) for name in ("last_day_by_hour", "last_day", "last_3_days"))
"""Inputs that have no effect from the second week ahead on."""


def features(filled: Floats, weeks: Weeks, latest: int | None = None) -> Floats:
    """Inputs of shape (origins, points of a week, inputs), in kWh; number `o - 1` is origin `o`,
    which sees weeks before it. `latest` asks for so many of the last origins alone.

    `filled` are the values of `weeks` without gaps. A week ends where the series ends, so its last
    day is the day before the forecast.
    """
    total, season = filled.shape
    count = total if latest is None else latest
    days = season // weeks.per_day
    ordered = recent_ordered(filled, range(total - count + 1, total + 1))
    median = (ordered[..., 3] + ordered[..., 4]) / 2
    fast, slow = _exponential(filled, 0.7)[-count:], _exponential(filled, 0.9)[-count:]
    filled = filled[-count:]
    by_day = filled.reshape(count, days, -1)
    above = by_day - median.reshape(count, days, -1)
    coming = np.repeat(np.arange(days), weeks.per_day)

    def each_day(values: Floats) -> Floats:
        return np.tile(values, (1, days))

    def level(values: Floats) -> Floats:
        return np.broadcast_to(values[:, None], filled.shape)

    result = np.empty((count, season, len(NAMES)))
    for column, values in enumerate(
        (
            median,
            (ordered[..., 1] + ordered[..., 2]) / 2,
            (ordered[..., 5] + ordered[..., 6]) / 2,
            ordered.mean(axis=-1),
            fast,
            slow,
            filled,
            _smooth(median),
            _smooth(fast),
            _smooth(filled),
            each_day(by_day.mean(axis=1)),
            each_day(median.reshape(count, days, -1).mean(axis=1)),
            level(median.mean(axis=1)),
            level((filled - median).mean(axis=1)),
            each_day(above[:, -1]) * np.exp(-coming / 1.5),
            level(above[:, -1].mean(axis=1)) * np.exp(-coming / 1.5),
            level(above[:, -3:].mean(axis=(1, 2))) * np.exp(-coming / 4.0),
        )
    ):
        result[..., column] = values
    return result


def recent_ordered(filled: Floats, origins: Sequence[int]) -> Floats:
    """The last eight values of each point of the week before each origin, ascending: (origins,
    points, 8).

    If fewer weeks exist, the first one replaces the missing ones.
    """
    padded = np.concatenate([np.repeat(filled[:1], RECENT_WEEKS - 1, axis=0), filled])
    windows = np.lib.stride_tricks.sliding_window_view(padded, RECENT_WEEKS, axis=0)
    return np.sort(windows[np.asarray(origins) - 1], axis=-1)


def recent_quantile(ordered: Floats, level: float) -> Floats:
    """A quantile of ordered values along the last axis, interpolated as numpy does by default."""
    place = level * (ordered.shape[-1] - 1)
    below = min(int(place), ordered.shape[-1] - 2)
    share = place - below
    quantile: Floats = ordered[..., below] * (1 - share) + ordered[..., below + 1] * share
    return quantile


def _exponential(filled: Floats, memory: float) -> Floats:
    result = np.empty_like(filled)
    result[0] = filled[0]
    for week in range(1, len(filled)):
        result[week] = memory * result[week - 1] + (1 - memory) * filled[week]
    return result


def _smooth(values: Floats) -> Floats:
    """A weighted mean with neighbours; the week's end and beginning are neighbours."""
    one = np.roll(values, 1, axis=1) + np.roll(values, -1, axis=1)
    two = np.roll(values, 2, axis=1) + np.roll(values, -2, axis=1)
    smoothed: Floats = 0.4 * values + 0.2 * one + 0.1 * two
    return smoothed

"""Forecasts how many requests an endpoint will get, as the model of short histories forecasts
consumption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from containers.forecast.consumption.series import UnusableSeriesError, Weeks
from containers.forecast.models.short_history import FEWEST_DAYS, SHORT_DAYS, first_model

_DAY = 24
_WEEK = 7 * _DAY


def quantiles(rates: Sequence[float], levels: Sequence[float]) -> list[list[float]] | None:
    """The demand of the hours of the seven days after a history.

    Args:
        rates: requests a second of each hour so far, the oldest first; NaN where it is not known.
            Whole days are used, the latest first.
        levels: which quantiles, ascending between 0 and 1.

    Returns:
        For each of 168 hours a value per level, ascending and not negative; None for a history too
        short to learn from.
    """
    days = min(len(rates) // _DAY, SHORT_DAYS - 1)
    if days < FEWEST_DAYS:
        return None
    used = np.asarray(rates[len(rates) - days * _DAY :], dtype=float)
    padded = np.full(-(-len(used) // _WEEK) * _WEEK, np.nan)
    padded[len(padded) - len(used) :] = used
    try:
        chosen = first_model(Weeks(padded.reshape(-1, _WEEK), len(used), "h", None), levels)
    except UnusableSeriesError:
        return None
    found = np.maximum.accumulate(np.maximum(chosen.final[0][:, 1:], 0.0), axis=1)
    return [[float(value) for value in hour] for hour in found]

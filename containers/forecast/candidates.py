"""Candidate models fitted on one customer's data alone.

Each takes weeks of the local clock and origins, and says mean and quantiles of the weeks that follow each origin. What is
estimated is estimated from the weeks before the first origin; what is only looked up may come from any week before the
origin in question. Nothing else is seen, so a backtest is honest, and a customer's model depends on that customer alone.
"""

import warnings
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from containers.forecast.series import Floats, Weeks

RECENT_WEEKS: Final = 8


class Candidate(Protocol):
    """One way to forecast a series."""

    name: str
    shortest: int
    """Weeks that must lie before an origin."""

    def forecast(self, weeks: Weeks, origins: Sequence[int], ahead: int, levels: Sequence[float]) -> Floats:
        """Forecasts of shape (origins, weeks ahead, points of a week, 1 + levels): the mean, then the quantiles.

        `origins` ascend; an origin is the number of the first week that is forecast from it. Quantiles need not be
        calibrated, and need not be ordered.
        """
        ...


class SeasonalNaive:
    """The same point of last week; of the last week that has it, where it is missing."""

    name = "seasonal_naive"
    shortest = 1

    def forecast(self, weeks: Weeks, origins: Sequence[int], ahead: int, levels: Sequence[float]) -> Floats:
        """All quantiles are the point itself: calibration gives them their width."""
        filled = carried_forward(weeks.values)
        last = filled[np.asarray(origins) - 1]
        return np.broadcast_to(last[:, None, :, None], (len(origins), ahead, weeks.season, 1 + len(levels))).copy()


class WeeklyMedian:
    """The distribution of the last eight same points of the week."""

    name = "weekly_median"
    shortest = 2

    def forecast(self, weeks: Weeks, origins: Sequence[int], ahead: int, levels: Sequence[float]) -> Floats:
        """Mean and quantiles of up to eight values each."""
        filled = carried_forward(weeks.values)
        result = np.empty((len(origins), ahead, weeks.season, 1 + len(levels)))
        for number, origin in enumerate(origins):
            recent = weeks.values[max(0, origin - RECENT_WEEKS) : origin]
            recent = np.where(np.isfinite(recent), recent, filled[origin - 1])
            result[number, :, :, 0] = recent.mean(axis=0)
            result[number, :, :, 1:] = np.quantile(recent, levels, axis=0).T
        return result


def carried_forward(values: Floats) -> Floats:
    """Weeks with each missing point taken from the last week that has it.

    What no earlier week has is the median of that point's later weeks, or of the whole series where it has none.
    """
    filled = values.copy()
    missing = ~np.isfinite(filled)
    if not missing.any():
        return filled
    for week in range(1, len(filled)):
        gaps = missing[week]
        if gaps.any():
            filled[week, gaps] = filled[week - 1, gaps]
    still = ~np.isfinite(filled)
    if still.any():
        overall = float(np.nanmedian(values))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a point that no week has: its median is the overall one
            usual = np.nanmedian(values, axis=0)
        usual = np.where(np.isfinite(usual), usual, overall)
        filled = np.where(still, usual, filled)
    return filled

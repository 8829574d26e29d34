"""Candidate models fitted on one customer's data alone.

Each candidate takes weeks of the local clock and origins, and forecasts mean and quantiles of the
weeks after each origin. It estimates parameters only from the weeks before the first origin. It may
look up values in any week before the origin of the forecast. It sees nothing else. A backtest is
therefore honest, and a customer's model depends only on that customer.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from containers.forecast.consumption.series import Floats, Weeks
from containers.forecast.models.features import recent_ordered, recent_quantile


class Candidate(Protocol):
    """One way to forecast a series."""

    name: str
    shortest: int
    """Weeks that an origin needs before it."""

    def forecast(
        self, weeks: Weeks, origins: Sequence[int], ahead: int, levels: Sequence[float]
    ) -> Floats:
        """Forecasts of shape (origins, weeks ahead, points of a week, 1 + levels): the mean, then
        the quantiles.

        `origins` ascend; an origin is the number of its first forecast week. Quantiles need not be
        calibrated, and need not be ordered.
        """
        ...


class SeasonalNaive:
    """The same point of last week, or of the last week that has it."""

    name = "seasonal_naive"
    shortest = 1

    def forecast(
        self, weeks: Weeks, origins: Sequence[int], ahead: int, levels: Sequence[float]
    ) -> Floats:
        """All quantiles equal the point itself; calibration gives them their width."""
        filled = carried_forward(weeks.values)
        last = filled[np.asarray(origins) - 1]
        return np.broadcast_to(
            last[:, None, :, None], (len(origins), ahead, weeks.season, 1 + len(levels))
        ).copy()


class WeeklyMedian:
    """The distribution of the last eight same points of the week."""

    name = "weekly_median"
    shortest = 2

    def forecast(
        self, weeks: Weeks, origins: Sequence[int], ahead: int, levels: Sequence[float]
    ) -> Floats:
        """Mean and quantiles of eight values each."""
        filled = carried_forward(weeks.values)
        ordered = recent_ordered(filled, origins)
        result = np.empty((len(origins), ahead, weeks.season, 1 + len(levels)))
        result[..., 0] = ordered.mean(axis=-1)[:, None]
        for column, level in enumerate(levels, start=1):
            result[..., column] = recent_quantile(ordered, level)[:, None]
        return result


class Average:
    """The mean of other candidates' forecasts, which is usually better than each; it has no
    forecast of its own."""

    def __init__(self, *members: str) -> None:
        self.members = members
        self.name = "_and_".join(members)


def carried_forward(values: Floats) -> Floats:
    """Weeks with each missing point taken from the last week that has it.

    A point that no earlier week has is the mean of that point's later weeks, or else of the whole
    series.
    """
    filled = values.copy()
    missing = ~np.isfinite(filled)
    if not missing.any():
        return filled
    for week in np.flatnonzero(missing.any(axis=1)).tolist():
        if week > 0:
            filled[week] = np.where(missing[week], filled[week - 1], filled[week])
    still = ~np.isfinite(filled)
    if still.any():
        known = np.where(missing, 0.0, values)
        counts = (~missing).sum(axis=0)
        overall = known.sum() / max(int(counts.sum()), 1)
        usual = np.where(counts > 0, known.sum(axis=0) / np.maximum(counts, 1), overall)
        filled = np.where(still, usual, filled)
    return filled

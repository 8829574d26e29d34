"""How near forecasts came to the truth, and what a choice among models results in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from containers.forecast.consumption.series import Floats
from containers.forecast.stored_forecasts.learned import Learned

SCORED_LEVELS: Final = (0.1, 0.5, 0.9)
"""The quantiles from which every model's pinball loss and 80 % coverage are computed."""


@dataclass(frozen=True)
class Score:
    """The scores of forecasts of a window.

    `mase`: mean absolute error of the median over that of the seasonal naive forecast within the
    history before the window (Hyndman, Koehler 2006). `wape`: summed absolute error of the median
    over summed consumption. `pinball`: twice the pinball loss over summed consumption, mean of the
    levels 0.1, 0.5 and 0.9 (the weighted quantile loss). `coverage80`: share of the truth between
    the quantiles 0.1 and 0.9.
    """

    mase: float
    wape: float
    pinball: float
    coverage80: float


@dataclass(frozen=True)
class Chosen:
    """A customer's champion.

    `final` are its forecasts of the first week after the series and of any later one, (2, points, 1
    + levels); `spread` is the growth of intervals in each week from the second on. `held_out` are
    the forecasts of the held-out last points, (points, 1 + levels). All are calibrated. `errors`
    are the candidates' mean absolute errors in the backtest, best first. `learned` forecasts from
    fresh readings; None if no candidate can.
    """

    name: str
    errors: Mapping[str, float]
    score: Score
    baseline: Score
    held_out: Floats
    final: Floats
    spread: Sequence[float]
    learned: Learned | None


def naive_error(values: Floats) -> float:
    """Mean absolute difference of points one week apart: the scale of MASE."""
    differences = np.abs(np.diff(values, axis=0))
    scale = float(np.nanmean(differences)) if np.isfinite(differences).any() else 0.0
    return max(scale, 1e-9)


def score(truth: Floats, told: Floats, scale: float, levels: Sequence[float]) -> Score:
    """Score forecasts of shape (weeks, points, 1 + levels) where the truth, (weeks, points), is
    known."""
    known = np.isfinite(truth)
    actual = truth[known]
    quantiles = {level: told[..., 1 + list(levels).index(level)][known] for level in SCORED_LEVELS}
    total = max(float(np.abs(actual).sum()), 1e-9)
    error = np.abs(actual - quantiles[0.5])
    losses = [
        np.maximum(level * (actual - value), (level - 1) * (actual - value)).sum()
        for level, value in quantiles.items()
    ]
    return Score(
        mase=float(error.mean()) / scale,
        wape=float(error.sum()) / total,
        pinball=2 * float(np.mean(losses)) / total,
        coverage80=float(((actual >= quantiles[0.1]) & (actual <= quantiles[0.9])).mean()),
    )

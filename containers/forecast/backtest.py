"""Choosing a customer's champion by rolling backtest, calibrating its intervals, and scoring it on a week it never saw.

The last week is held out: from fitting, from the choice and from calibration. Before it, each candidate forecasts up to
eight weeks, week by week, from what lay before them. The one with the smallest absolute error of its median is the champion.
Its quantiles are shifted, per hour of the day and week ahead, by the quantiles of what it missed in the backtest
(split-conformal calibration of quantile forecasts: Romano, Patterson, Candès 2019, arXiv:1905.03222; one side at a time).
Then the champion is fitted once more, on everything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from containers.forecast.candidates import Candidate, SeasonalNaive
from containers.forecast.series import Floats, UnusableSeries, Weeks

BACKTEST_WEEKS: Final = 8
SCORED_LEVELS: Final = (0.1, 0.5, 0.9)
"""The quantiles of which every model's pinball loss and 80 % coverage are told."""


@dataclass(frozen=True)
class Score:
    """How good forecasts of a window were.

    `mase`: mean absolute error of the median over that of the seasonal naive forecast within the history before the window
    (Hyndman, Koehler 2006). `wape`: summed absolute error of the median over summed consumption. `pinball`: twice the
    pinball loss over summed consumption, mean of the levels 0.1, 0.5 and 0.9 (the weighted quantile loss). `coverage80`:
    share of the truth between the quantiles 0.1 and 0.9.
    """

    mase: float
    wape: float
    pinball: float
    coverage80: float


@dataclass(frozen=True)
class Chosen:
    """A customer's champion.

    `final` are its forecasts of the weeks after the series, `held_out` those of the last week, both calibrated, of shape
    (weeks, points, 1 + levels); `errors` are the candidates' mean absolute errors in the backtest, best first.
    """

    name: str
    errors: Mapping[str, float]
    score: Score
    baseline: Score
    held_out: Floats
    final: Floats


def choose(weeks: Weeks, candidates: Sequence[Candidate], ahead: int, levels: Sequence[float]) -> Chosen:
    """Choose among `candidates` and forecast `ahead` weeks; raises `UnusableSeries` where the history is too short."""
    count = len(weeks.values)
    held_out = count - 1
    truth_known = np.isfinite(weeks.values)
    complete = int(np.argmax(truth_known.any(axis=1)))
    history = held_out - complete
    if history < 3 or not truth_known[held_out].any():
        raise UnusableSeries("The series has too few weeks with readings to hold one out and backtest on others.")
    rounds = min(BACKTEST_WEEKS, history // 2)
    origins = list(range(held_out - rounds, held_out))
    fitting = [candidate for candidate in candidates if origins[0] - complete >= candidate.shortest]
    truth = _truth(weeks.values[:held_out], origins, ahead)
    backtests = {
        candidate.name: candidate.forecast(weeks.until(held_out), origins, ahead, levels) for candidate in fitting
    }
    median = 1 + list(levels).index(0.5)
    errors = {name: _mean_absolute(truth[:, 0], told[:, 0, :, median]) for name, told in backtests.items()}
    champion = min(fitting, key=lambda candidate: (errors[candidate.name], candidate.name))

    def calibrated(candidate: Candidate) -> Floats:
        told = candidate.forecast(weeks.until(held_out), [held_out], ahead, levels)[0]
        return calibrate(told, truth, backtests[candidate.name], weeks.per_day, levels)[:1]

    scale = naive_error(weeks.values[:held_out])
    actual = weeks.values[held_out:]
    held_out_forecast = calibrated(champion)
    naive = SeasonalNaive()
    if naive.name not in backtests:
        backtests[naive.name] = naive.forecast(weeks.until(held_out), origins, ahead, levels)
    told = champion.forecast(weeks, [count], ahead, levels)[0]
    every_origin = [*origins, held_out]
    everything = np.concatenate([backtests[champion.name], _padded(held_out_forecast, ahead)[None]])
    final = calibrate(told, _truth(weeks.values, every_origin, ahead), everything, weeks.per_day, levels)
    return Chosen(
        name=champion.name,
        errors=dict(sorted(errors.items(), key=lambda item: item[1])),
        score=score(actual, held_out_forecast, scale, levels),
        baseline=score(actual, calibrated(naive), scale, levels),
        held_out=held_out_forecast,
        final=final,
    )


def naive_error(values: Floats) -> float:
    """Mean absolute difference of points one week apart: the scale of MASE."""
    differences = np.abs(np.diff(values, axis=0))
    scale = float(np.nanmean(differences)) if np.isfinite(differences).any() else 0.0
    return max(scale, 1e-9)


def score(truth: Floats, told: Floats, scale: float, levels: Sequence[float]) -> Score:
    """Score forecasts of shape (weeks, points, 1 + levels) where the truth, (weeks, points), is known."""
    known = np.isfinite(truth)
    actual = truth[known]
    quantiles = {level: told[..., 1 + list(levels).index(level)][known] for level in SCORED_LEVELS}
    total = max(float(np.abs(actual).sum()), 1e-9)
    error = np.abs(actual - quantiles[0.5])
    losses = [
        np.maximum(level * (actual - value), (level - 1) * (actual - value)).sum() for level, value in quantiles.items()
    ]
    return Score(
        mase=float(error.mean()) / scale,
        wape=float(error.sum()) / total,
        pinball=2 * float(np.mean(losses)) / total,
        coverage80=float(((actual >= quantiles[0.1]) & (actual <= quantiles[0.9])).mean()),
    )


def calibrate(told: Floats, truth: Floats, backtest: Floats, per_day: int, levels: Sequence[float]) -> Floats:
    """Shift quantiles by what the backtest missed; order them and keep them from falling below zero.

    `told` has the shape (weeks ahead, points, 1 + levels), `backtest` (origins, weeks ahead, points, 1 + levels), and
    `truth` (origins, weeks ahead, points), NaN where unknown.
    """
    result = told.copy()
    ahead, season, _ = told.shape
    days = season // per_day
    for week in range(ahead):
        # Late weeks ahead have few origins in the backtest; they borrow the shifts of the week before.
        source = week if np.isfinite(truth[:, week]).sum() >= season * 2 else 0
        for column, level in enumerate(levels, start=1):
            missed = truth[:, source] - backtest[:, source, :, column]
            by_hour = missed.reshape(-1, days, per_day).transpose(2, 0, 1).reshape(per_day, -1)
            shift = np.nanquantile(by_hour, level, axis=1)
            result[week, :, column] += np.tile(shift, days)
        off = truth[:, source] - backtest[:, source, :, 0]
        result[week, :, 0] += np.nanmean(off)
    result[..., 1:] = np.sort(result[..., 1:], axis=-1)
    return np.maximum(result, 0.0)


def _truth(values: Floats, origins: Sequence[int], ahead: int) -> Floats:
    """The weeks that follow each origin, NaN where the series has ended: (origins, ahead, points)."""
    beyond = np.full((ahead, values.shape[1]), np.nan)
    extended = np.concatenate([values, beyond])
    return np.stack([extended[origin : origin + ahead] for origin in origins])


def _padded(forecast: Floats, ahead: int) -> Floats:
    return np.concatenate([forecast, np.repeat(forecast[-1:], ahead - len(forecast), axis=0)])


def _mean_absolute(truth: Floats, told: Floats) -> float:
    error = np.abs(truth - told)
    return float(np.nanmean(error)) if np.isfinite(error).any() else float("inf")

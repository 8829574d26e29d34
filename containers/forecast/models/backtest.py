"""Chooses a customer's champion by rolling backtest, calibrates its intervals, and scores it on a
week that it never saw.

1. The last week is held out from fitting, choice and calibration. Each candidate is fitted once on
   the weeks before the backtest. It forecasts up to eight weeks, each from the weeks before it.
2. The candidates have an order of trust. The first is the champion unless the median of another was
   clearly nearer the truth. Eight weeks of one customer are few: taking the winner by any margin
   cost 5 % of MASE on daily households.
3. The champion's quantiles are shifted, per hour of the day and week ahead, by the quantiles of its
   backtest errors. This is the split-conformal calibration of quantile forecasts (Romano,
   Patterson, Candès 2019, arXiv:1905.03222): one side at a time, and both sides together for the
   few points of daily series.
4. The champion is fitted once more, on all weeks. For weeks after the second it repeats the second,
   with intervals that grow (`containers.forecast.models.distance`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from containers.forecast.consumption.series import Floats, UnusableSeriesError, Weeks
from containers.forecast.models.candidates import Average, Candidate, SeasonalNaive, WeeklyMedian
from containers.forecast.models.distance import spread

BACKTEST_WEEKS: Final = 8
MARGIN: Final = 0.15
"""The relative margin by which a candidate must be better than the first candidate to replace
it."""

RUN: Final = {24: 3.0, 1: 6.0}
"""Errors come in runs. By points in a day, the number of errors that count as one in the correction
for small samples.

A household is above its profile for hours, or for the days of a week. On a third of the customers
the daily errors of six days held as much information as one.
"""

AHEAD: Final = 2
"""Weeks that a model forecasts: the first, and the second, which stands for all later weeks."""

TOWARDS_PROFILE: Final = 0.5
"""The weekly median's share of the forecast from the second week on, if it is a candidate.

By then the last days say little about the week. With this share the error eight weeks ahead was 1
to 4 % smaller.
"""

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
    are the candidates' mean absolute errors in the backtest, best first.
    """

    name: str
    errors: Mapping[str, float]
    score: Score
    baseline: Score
    held_out: Floats
    final: Floats
    spread: Sequence[float]


def choose(
    weeks: Weeks,
    candidates: Sequence[Candidate],
    levels: Sequence[float],
    averages: Sequence[Average] = (),
) -> Chosen:
    """Choose among `averages` and `candidates`, in that order, and forecast.

    An average is a candidate only if all its members are. Raises `UnusableSeriesError` where the
    history is too short.
    """
    count = len(weeks.values)
    held_out = count - 1
    truth_known = np.isfinite(weeks.values)
    complete = int(np.argmax(truth_known.any(axis=1)))
    history = held_out - complete
    if history < 3 or not truth_known[held_out].any():
        raise UnusableSeriesError(
            "The series has too few weeks with readings to hold one out and backtest on others."
        )
    rounds = min(BACKTEST_WEEKS, history // 2)
    # The last origin is that of the held-out week. It is forecast with the others, but used only
    # for the score.
    origins = list(range(held_out - rounds, held_out + 1))
    fitting = {
        candidate.name: candidate
        for candidate in candidates
        if origins[0] - complete >= candidate.shortest
    }
    before = weeks.until(held_out)
    backtests = {
        name: candidate.forecast(before, origins, AHEAD, levels)
        for name, candidate in fitting.items()
    }
    members = {
        average.name: average.members
        for average in averages
        if set(average.members) <= fitting.keys()
    }
    for name, parts in members.items():
        backtests[name] = _mean([backtests[part] for part in parts])
    names = [*members, *fitting]
    if not names:
        raise UnusableSeriesError("The series is too short for the candidates it may have.")
    naive = SeasonalNaive()
    if naive.name not in backtests:
        backtests[naive.name] = naive.forecast(before, origins, AHEAD, levels)
    truth = _truth(before.values, origins[:-1], AHEAD)
    median = 1 + list(levels).index(0.5)
    errors = {
        name: _mean_absolute(truth[:, 0], backtests[name][:-1, 0, :, median]) for name in names
    }
    champion = _champion(names, errors)

    def calibrated(name: str) -> Floats:
        told = backtests[name]
        return calibrate(told[-1, :1], truth[:, :1], told[:-1, :1], weeks.per_day, levels)

    scale = naive_error(before.values)
    actual = weeks.values[held_out:]
    held_out_forecast = calibrated(champion)
    told = _mean(
        [
            fitting[part].forecast(weeks, [count], AHEAD, levels)[0]
            for part in members.get(champion, (champion,))
        ]
    )
    tested = backtests[champion]
    profile = WeeklyMedian()
    if profile.name in fitting and champion != profile.name:
        told = _late(told, profile.forecast(weeks, [count], AHEAD, levels)[0])
        tested = _late(tested, backtests[profile.name])
    whole_truth = _truth(weeks.values, origins, AHEAD)
    final = calibrate(told, whole_truth, tested, weeks.per_day, levels)
    return Chosen(
        name=champion,
        errors=dict(sorted(errors.items(), key=lambda item: item[1])),
        score=score(actual, held_out_forecast, scale, levels),
        baseline=score(actual, calibrated(naive.name), scale, levels),
        held_out=held_out_forecast[0],
        final=final,
        spread=spread(weeks),
    )


def _late(told: Floats, profile: Floats) -> Floats:
    """Forecasts, (…, weeks ahead, points, 1 + levels); from the second week on they move towards
    the weekly profile's."""
    drawn = told.copy()
    drawn[..., 1:, :, :] += TOWARDS_PROFILE * (profile[..., 1:, :, :] - told[..., 1:, :, :])
    return drawn


def _champion(names: Sequence[str], errors: Mapping[str, float]) -> str:
    """The first name, unless others are better by `MARGIN`; then the best of those."""
    better = [name for name in names if errors[name] < (1 - MARGIN) * errors[names[0]]]
    return min(better or names[:1], key=lambda name: errors[name])


def _mean(told: Sequence[Floats]) -> Floats:
    mean: Floats = np.mean(told, axis=0)
    return mean


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


def calibrate(
    told: Floats, truth: Floats, backtest: Floats, per_day: int, levels: Sequence[float]
) -> Floats:
    """Shift quantiles by the backtest's errors, sort them, and raise negative ones to zero.

    `told` has the shape (weeks ahead, points, 1 + levels), `backtest` (origins, weeks ahead,
    points, 1 + levels), and `truth` (origins, weeks ahead, points), NaN where unknown. Mean and
    median stay, because their recent errors are mostly chance. Correcting them made forecasts worse
    (MASE 0.805 instead of 0.762 on buildings).
    """
    result = told.copy()
    ahead, season, _ = told.shape
    days = season // per_day
    for week in range(ahead):
        # A later week ahead with few origins in the backtest uses the shifts of the first week.
        source = week if np.isfinite(truth[:, week]).sum() >= season * 2 else 0
        actual = truth[:, source].reshape(-1, per_day)
        if per_day == 1:
            _widen(
                result[week],
                actual.ravel(),
                backtest[:, source].reshape(-1, 1 + len(levels)),
                levels,
            )
            continue
        for column, level in enumerate(levels, start=1):
            if level != 0.5:
                missed = actual - backtest[:, source, :, column].reshape(-1, per_day)
                result[week, :, column] += np.tile(_shift(missed, level), days)
    result[..., 1:] = np.sort(result[..., 1:], axis=-1)
    return np.maximum(result, 0.0)


def _widen(told: Floats, actual: Floats, backtest: Floats, levels: Sequence[float]) -> None:
    """Calibrate quantiles of daily points, (points, 1 + levels), in place, by (backtested days, 1 +
    levels).

    Eight weeks hold 56 days. A tenth of them lies outside a quantile, too few to place it well.
    Each quantile is therefore the mean of two:

    - the model's quantile, shifted by the errors of both sides of its interval together (the
      symmetric form of Romano, Patterson, Candès 2019);
    - the median, shifted by the quantile of its errors.
    """
    median = 1 + list(levels).index(0.5)
    missed = actual - backtest[:, median]
    middle = told[:, median].copy()
    for column, level in enumerate(levels, start=1):
        if level == 0.5:
            continue
        sign = 1.0 if level > 0.5 else -1.0
        outside = sign * (actual - backtest[:, column])
        opposite = 1 + _nearest(levels, 1 - level)
        outside = np.maximum(outside, sign * (backtest[:, opposite] - actual))
        both = told[:, column] + sign * _quantile(outside, abs(2 * level - 1), RUN[1])
        alone = middle + _quantile(missed, level, RUN[1])
        shifted = (both + alone) / 2
        told[:, column] = (
            np.maximum(shifted, middle) if level > 0.5 else np.minimum(shifted, middle)
        )


def _nearest(levels: Sequence[float], wanted: float) -> int:
    return min(range(len(levels)), key=lambda number: abs(levels[number] - wanted))


def _shift(missed: Floats, level: float) -> Floats:
    """The quantile of the errors, (days, hours), per hour: the mean of the quantile of the hour
    with its neighbours and the quantile of all hours."""
    run = RUN[24]
    overall = _quantile(missed.ravel(), level, run)
    hours = missed.shape[1]
    around = np.concatenate([np.roll(missed, 1, axis=1), missed, np.roll(missed, -1, axis=1)])
    if np.isfinite(around).all():
        place = _place(len(around), level, run)
        by_hour = np.partition(around, place, axis=0)[place]
    else:
        by_hour = np.array([_quantile(around[:, hour], level, run) for hour in range(hours)])
    shift: Floats = (by_hour + overall) / 2
    return shift


def _quantile(values: Floats, level: float, run: float) -> float:
    """The quantile of the known values, with its level moved outwards as in split-conformal
    prediction for small samples."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return 0.0
    place = _place(len(known), level, run)
    return float(np.partition(known, place)[place])


def _place(count: int, level: float, run: float) -> int:
    """The index of the quantile among `count` ascending values."""
    independent = max(count / run, 1.0)
    level = 0.5 + (level - 0.5) * (independent + 1) / independent
    return min(max(math.ceil(level * count) - 1, 0), count - 1)


def _truth(values: Floats, origins: Sequence[int], ahead: int) -> Floats:
    """The weeks that follow each origin, NaN where the series has ended: (origins, ahead,
    points)."""
    beyond = np.full((ahead, values.shape[1]), np.nan)
    extended = np.concatenate([values, beyond])
    return np.stack([extended[origin : origin + ahead] for origin in origins])


def _mean_absolute(truth: Floats, told: Floats) -> float:
    error = np.abs(truth - told)
    return float(np.nanmean(error)) if np.isfinite(error).any() else float("inf")

"""Chooses a customer's champion by rolling backtest, calibrates its intervals, and scores it on a
week that it never saw.

1. The last week is held out from fitting, choice and calibration. Each candidate is fitted once on
   the weeks before the backtest. It forecasts up to eight weeks, each from the weeks before it.
2. The candidates have an order of trust. The first is the champion unless the median of another was
   clearly nearer the truth. Eight weeks of one customer are few: taking the winner by any margin
   cost 5 % of MASE on daily households.
3. The champion's quantiles are shifted by the quantiles of its backtest errors
   (`containers.forecast.models.calibration`).
4. The champion is fitted once more, on all weeks. The fit and the shifts are what it learned
   (`containers.forecast.models.learned`); its forecast comes from them. For weeks after the second
   it repeats the second, with intervals that grow (`containers.forecast.models.distance`).
5. Some champions cannot be applied to fresh readings: the pool's global model and its averages, and
   Prophet. Then the best candidate that can be stands by, with what it learned.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from containers.forecast.consumption.series import Floats, UnusableSeriesError, Weeks
from containers.forecast.models.calibration import calibrated, measured
from containers.forecast.models.candidates import Average, Candidate, SeasonalNaive, WeeklyMedian
from containers.forecast.models.distance import spread
from containers.forecast.models.learned import forecast, learn, towards_profile
from containers.forecast.models.scores import Chosen, naive_error, score
from containers.forecast.stored_forecasts.learned import AHEAD, MODELS

BACKTEST_WEEKS: Final = 8
MARGIN: Final = 0.15
"""The relative margin by which a candidate must be better than the first candidate to replace
it."""


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

    per_day = weeks.per_day
    first_hour = weeks.end % per_day

    def held_out_forecast(name: str) -> Floats:
        told = backtests[name]
        shifts = measured(truth[:, :1], told[:-1, :1], per_day, first_hour, levels)
        return calibrated(told[-1, :1], shifts, per_day, first_hour, levels)

    profile = WeeklyMedian()
    whole_truth = _truth(weeks.values, origins, AHEAD)

    def drawn(name: str) -> bool:
        return profile.name in fitting and name != profile.name

    def shifts_of(name: str) -> Floats:
        tested = backtests[name]
        if drawn(name):
            tested = towards_profile(tested, backtests[profile.name])
        return measured(whole_truth, tested, per_day, first_hour, levels)

    able = [name for name in fitting if name in MODELS]
    taught = champion if champion in able else min(able, key=lambda name: errors[name], default="")
    learned = learn(taught, weeks, shifts_of(taught), drawn(taught), levels) if taught else None
    if learned is not None and taught == champion:
        final = forecast(learned, weeks, levels)
    else:
        parts = members.get(champion, (champion,))
        told = _mean([fitting[part].forecast(weeks, [count], AHEAD, levels)[0] for part in parts])
        if drawn(champion):
            told = towards_profile(told, profile.forecast(weeks, [count], AHEAD, levels)[0])
        final = calibrated(told, shifts_of(champion), per_day, first_hour, levels)
    scale = naive_error(before.values)
    actual = weeks.values[held_out:]
    held_out_told = held_out_forecast(champion)
    return Chosen(
        name=champion,
        errors=dict(sorted(errors.items(), key=lambda item: item[1])),
        score=score(actual, held_out_told, scale, levels),
        baseline=score(actual, held_out_forecast(naive.name), scale, levels),
        held_out=held_out_told[0],
        final=final,
        spread=spread(weeks),
        learned=learned,
    )


def _champion(names: Sequence[str], errors: Mapping[str, float]) -> str:
    """The first name, unless others are better by `MARGIN`; then the best of those."""
    better = [name for name in names if errors[name] < (1 - MARGIN) * errors[names[0]]]
    return min(better or names[:1], key=lambda name: errors[name])


def _mean(told: Sequence[Floats]) -> Floats:
    mean: Floats = np.mean(told, axis=0)
    return mean


def _truth(values: Floats, origins: Sequence[int], ahead: int) -> Floats:
    """The weeks that follow each origin, NaN where the series has ended: (origins, ahead,
    points)."""
    beyond = np.full((ahead, values.shape[1]), np.nan)
    extended = np.concatenate([values, beyond])
    return np.stack([extended[origin : origin + ahead] for origin in origins])


def _mean_absolute(truth: Floats, told: Floats) -> float:
    error = np.abs(truth - told)
    return float(np.nanmean(error)) if np.isfinite(error).any() else float("inf")

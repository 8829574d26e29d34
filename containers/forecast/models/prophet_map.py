"""Prophet's model, fitted to its posterior mode in numpy for many customers at once.

The model is the one of Taylor and Letham (2018), "Forecasting at scale", The American Statistician
72(1), as the library `prophet` fits it by default: a piecewise-linear trend with changepoints in
the first 80 % of the history and a Laplace prior on their slopes, and Fourier series for day, week
and year with normal priors. The library finds the mode by Stan's L-BFGS, one customer at a time.
This module replaces the Laplace prior by a reweighted quadratic one (`|x| ~ x²/|x|`). Each step is
then one small linear system per customer, and customers with the same calendar share its matrix
products. A customer's system holds only that customer's data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from containers.forecast.consumption.series import Floats, Weeks

CHANGEPOINTS: Final = 25
CHANGEPOINT_RANGE: Final = 0.8
CHANGEPOINT_SCALE: Final = 0.05
SEASONALITY_SCALE: Final = 10.0
TREND_SCALE: Final = 5.0
STEPS: Final = 12

_HOURS_OF_DAY: Final = 24


@dataclass(frozen=True)
class _Calendar:
    """The design matrices of a history and of the weeks after it: (points, coefficients), first the
    trend, then the seasonalities."""

    history: Floats
    future: Floats
    gram: Floats
    penalties: Floats
    """1/variance of the normal priors; 0 for the changepoints, whose prior is Laplace."""

    changepoints: slice


class Prophet:
    """The batched fit as a candidate."""

    name = "prophet"
    shortest = 4

    def forecast(
        self, weeks: Weeks, origins: Sequence[int], ahead: int, levels: Sequence[float]
    ) -> Floats:
        """One fit for all origins. Every quantile equals the mean; calibration gives the quantiles
        their width."""
        first, last = origins[0], origins[-1]
        told = forecast_many([weeks.until(first)], last - first + ahead)[0]
        result = np.empty((len(origins), ahead, weeks.season, 1 + len(levels)))
        for number, origin in enumerate(origins):
            result[number] = told[origin - first : origin - first + ahead, :, None]
        return result


def forecast_many(histories: Sequence[Weeks], ahead: int) -> list[Floats]:
    """The mean of the `ahead` weeks after each history, (weeks, points) each, in the order
    given."""
    results: dict[int, Floats] = {}
    groups: dict[tuple[int, int, int], list[int]] = {}
    for number, weeks in enumerate(histories):
        known = np.isfinite(weeks.values).ravel()
        first = int(np.argmax(known))
        groups.setdefault((weeks.end, known.size - first, weeks.season), []).append(number)
    for (end, count, season), members in groups.items():
        calendar = _calendar(end, count, season, histories[members[0]].per_day, ahead)
        values = np.stack([histories[number].values.ravel()[-count:] for number in members])
        for number, told in zip(members, _fit(calendar, values), strict=True):
            results[number] = told.reshape(ahead, season)
    return [results[number] for number in range(len(histories))]


def _fit(calendar: _Calendar, values: Floats) -> Floats:
    """Forecasts, (customers, future points), from values of shape (customers, points) with NaN
    where missing."""
    size = calendar.history.shape[1]
    scale = np.nanmax(np.abs(values), axis=1, keepdims=True) + 1e-12
    grams, moments, counts, powers = [], [], [], []
    for row in values / scale:
        missing = ~np.isfinite(row)
        gram = calendar.gram
        if missing.any():
            absent = calendar.history[missing]
            gram = gram - absent.T @ absent
        known = np.where(missing, 0.0, row)
        grams.append(gram)
        moments.append(calendar.history.T @ known)
        counts.append(int((~missing).sum()))
        powers.append(float(known @ known))
    gram, moment = np.stack(grams), np.stack(moments)
    count, power = np.array(counts), np.array(powers)
    noise = np.full(len(values), 0.01)
    slopes = np.full(
        (len(values), calendar.changepoints.stop - calendar.changepoints.start), CHANGEPOINT_SCALE
    )
    diagonal = np.arange(size)
    solution = np.zeros((len(values), size))
    for _step in range(STEPS):
        system = gram / noise[:, None, None]
        system[:, diagonal, diagonal] += calendar.penalties
        inner = diagonal[calendar.changepoints]
        system[:, inner, inner] += 1 / (CHANGEPOINT_SCALE * np.maximum(np.abs(slopes), 1e-5))
        solution = np.linalg.solve(system, (moment / noise[:, None])[..., None])[..., 0]
        slopes = solution[:, calendar.changepoints]
        fitted = np.matmul(gram, solution[..., None])[..., 0]
        squares = power - 2 * (solution * moment).sum(axis=1) + (solution * fitted).sum(axis=1)
        # The mode of the noise under its half-normal prior of scale 0.5, which a year of readings
        # outweighs.
        noise = np.maximum(squares / count, 1e-8)
    told: Floats = np.stack([calendar.future @ row for row in solution]) * scale
    return told


@lru_cache(maxsize=8)
def _calendar(end: int, count: int, season: int, per_day: int, ahead: int) -> _Calendar:
    points = np.arange(count + ahead * season, dtype=np.float64)
    time = points / max(count - 1, 1)
    days = (end - count + points) / per_day
    changes = np.linspace(0, int(count * CHANGEPOINT_RANGE) - 1, CHANGEPOINTS + 1)[
        1:
    ].round() / max(count - 1, 1)
    columns = [np.ones_like(time), time, *(np.maximum(time - change, 0.0) for change in changes)]
    penalties = [1 / TREND_SCALE**2] * 2 + [0.0] * CHANGEPOINTS
    span = count / per_day
    # As by the library's default, a season needs two of its periods; the daily one also needs
    # points within a day.
    for period, order, present in (
        (365.25, 10, span >= 730),
        (7.0, 3, span >= 14),
        (1.0, 4, per_day == _HOURS_OF_DAY),
    ):
        for harmonic in range(1, order + 1) if present else ():
            angle = 2 * np.pi * harmonic * days / period
            columns += [np.sin(angle), np.cos(angle)]
            penalties += [1 / SEASONALITY_SCALE**2] * 2
    design = np.stack(columns, axis=1)
    history = np.ascontiguousarray(design[:count])
    return _Calendar(
        history=history,
        future=np.ascontiguousarray(design[count:]),
        gram=history.T @ history,
        penalties=np.array(penalties),
        changepoints=slice(2, 2 + CHANGEPOINTS),
    )

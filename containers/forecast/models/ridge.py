"""Regression on profile, lag and level inputs, per customer, shrunk towards the customer's own
weekly profile.

The inputs are few and strong, so that months of one customer's history suffice. The model never
sees another customer's data. Quantiles are fitted by iteratively reweighted least squares on the
smoothed pinball loss (Hunter, Lange 2000, "Quantile regression via an MM algorithm"), the mean by
one weighted solve. The ridge penalty pulls towards the coefficients (1, 0, 0, …), which mean the
median of the last eight same points of the week.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from containers.forecast.consumption.series import Floats, Weeks
from containers.forecast.models.candidates import carried_forward
from containers.forecast.models.features import (
    FADING,
    NAMES,
    features,
    recent_ordered,
    recent_quantile,
)

Singles = NDArray[np.float32]

PENALTY: Final = 1e-3
"""The ridge penalty, relative to the summed weights of the rows."""

HALF_LIFE: Final = 20.0
"""Weeks after which a week counts half."""

LONGEST: Final = 40
"""Weeks that the model is fitted on."""

STEPS: Final = 3
SMOOTHING: Final = 0.1
"""Width of the rounded corner of the pinball loss, relative to the median absolute residual."""

WARM_UP: Final = 4
"""Weeks that the inputs need before the first fitted week."""


class Ridge:
    """The regression as a candidate."""

    name = "ridge"
    shortest = WARM_UP + 4

    def forecast(
        self, weeks: Weeks, origins: Sequence[int], ahead: int, levels: Sequence[float]
    ) -> Floats:
        """Mean and quantiles; each quantile is the mean of its own regression and of the profile's
        spread."""
        filled = carried_forward(weeks.values)
        inputs = features(filled, weeks)
        coefficients = _fit(inputs, weeks.values, filled, origins[0], levels)
        seen = inputs[np.asarray(origins) - 1]
        return _predict(coefficients, seen, filled, origins, ahead, levels)


def fit(weeks: Weeks, levels: Sequence[float]) -> Floats:
    """The coefficients for the weeks after `weeks`: (1 + levels, inputs)."""
    filled = carried_forward(weeks.values)
    return _fit(features(filled, weeks), weeks.values, filled, len(filled), levels)


def predict(coefficients: Floats, weeks: Weeks, ahead: int, levels: Sequence[float]) -> Floats:
    """The weeks after `weeks`, (weeks ahead, points, 1 + levels), by coefficients that were fitted
    before."""
    filled = carried_forward(weeks.values)
    seen = features(filled, weeks, latest=1)
    told: Floats = _predict(coefficients, seen, filled, [len(filled)], ahead, levels)[0]
    return told


def _predict(
    coefficients: Floats,
    seen: Floats,
    filled: Floats,
    origins: Sequence[int],
    ahead: int,
    levels: Sequence[float],
) -> Floats:
    """Forecasts by the inputs of the origins, `seen`, which it changes."""
    ordered = recent_ordered(filled, origins)
    result = np.empty((len(origins), ahead, filled.shape[1], 1 + len(levels)))
    median = 1 + list(levels).index(0.5)
    middle = recent_quantile(ordered, 0.5)
    for week in range(min(ahead, 2)):
        if week == 1:
            seen[..., FADING] = 0.0
        result[:, week] = seen @ coefficients.T
        for column, level in enumerate(levels, start=1):
            if column != median:
                spread = result[:, week, :, median] + recent_quantile(ordered, level) - middle
                result[:, week, :, column] = (result[:, week, :, column] + spread) / 2
    # From the second week on all weeks are the same.
    result[:, 2:] = result[:, 1:2]
    return result


def _fit(
    inputs: Floats, values: Floats, filled: Floats, origin: int, levels: Sequence[float]
) -> Floats:
    """Coefficients of the mean, then of each level: (1 + levels, inputs), from the weeks before
    `origin`."""
    first = int(np.argmax(np.isfinite(values).any(axis=1)))
    fitted = np.arange(max(first + WARM_UP, origin - LONGEST), origin)
    rows = inputs[fitted - 1].reshape(-1, len(NAMES))
    truth = filled[fitted].ravel()
    weights = (
        np.isfinite(values[fitted]) * (0.5 ** ((origin - fitted) / HALF_LIFE))[:, None]
    ).ravel()
    scale = float(rows[:, 0].mean()) + 1e-9
    # Single precision halves the time of the products; the penalty keeps their solution far from
    # its rounding.
    single_rows, single_truth = (
        (rows / scale).astype(np.float32),
        (truth / scale).astype(np.float32),
    )
    single_weights = weights.astype(np.float32)
    coefficients = np.empty((1 + len(levels), len(NAMES)))
    coefficients[0] = _solve(single_rows, single_truth, single_weights)
    start = _quantile(single_rows, single_truth, single_weights, 0.5, coefficients[0])
    for row, level in enumerate(levels, start=1):
        coefficients[row] = (
            start
            if level == 0.5
            else _quantile(single_rows, single_truth, single_weights, level, start)
        )
    return coefficients


def _quantile(
    rows: Singles, truth: Singles, weights: Singles, level: float, start: Floats
) -> Floats:
    coefficients = start
    round_off = 0.0
    for step in range(STEPS):
        residual = truth - rows @ coefficients.astype(np.float32)
        if step == 0:
            round_off = SMOOTHING * float(np.median(np.abs(residual))) + 1e-4
        slope = np.where(residual > 0, level, 1 - level)
        pull = (weights * slope / np.sqrt(residual * residual + round_off * round_off)).astype(
            np.float32
        )
        coefficients = _solve(rows, truth, pull)
    return coefficients


def _solve(rows: Singles, truth: Singles, weights: Singles) -> Floats:
    weighted = rows * weights[:, None]
    penalty = PENALTY * float(weights.sum()) + 1e-9
    gram: Floats = (weighted.T @ rows).astype(np.float64)
    gram.flat[:: len(NAMES) + 1] += penalty
    moment: Floats = (weighted.T @ truth).astype(np.float64)
    moment[0] += penalty
    return np.asarray(np.linalg.solve(gram, moment), dtype=np.float64)

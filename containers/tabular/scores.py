"""How good told probabilities are, beside the truth."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CERTAIN: Final = 1e-6
"""A told probability counts as at least this far from 0 and 1."""
BINS: Final = 10
FEWEST_ROWS: Final = 50
"""Of a tenant, to count among the worst; the score of fewer is mostly chance."""
FEWEST_TENANTS: Final = 10
"""A tenth of fewer would be less than one tenant."""


def losses(truth: Floats, told: Floats) -> Floats:
    """The log loss of each row, in nats."""
    sure = np.clip(told, CERTAIN, 1 - CERTAIN)
    return -np.where(truth > 0.5, np.log(sure), np.log1p(-sure))


def log_loss(truth: Floats, told: Floats) -> float:
    """The mean of `losses`; 0 is certain and right."""
    return float(losses(truth, told).mean())


def area_under_curve(truth: Floats, told: Floats) -> float | None:
    """The chance that a row that is true was told more than one that is not; equal counts half.

    None where all rows are alike.
    """
    positives = int((truth > 0.5).sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return None
    _, places, counts = np.unique(told, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    above = float(ranks[places][truth > 0.5].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def calibration(truth: Floats, told: Floats) -> list[tuple[float, float, int]]:
    """Ten bins of as many rows, by what was told: its mean, the share that came true, the rows."""
    order = np.argsort(told, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [(float(told[p].mean()), float(truth[p].mean()), len(p)) for p in parts]


def calibration_error(bins: Sequence[tuple[float, float, int]]) -> float:
    """The mean distance between what was told and what came true, over all rows of `bins`."""
    rows = sum(count for *_, count in bins)
    return sum(abs(told - true) * count for told, true, count in bins) / rows


def worst_decile(
    rows_of: Sequence[int], loss: Floats, baseline: Floats
) -> tuple[float, float] | None:
    """The mean loss of the tenth of the tenants whose loss is the worst beside the baseline's, and
    the baseline's of the same. Each tenant counts as one.

    `rows_of` has the number of each tenant's rows, which follow each other. None for few tenants.
    """
    starts = np.cumsum([0, *rows_of])
    pairs = [
        (float(loss[start:end].mean()), float(baseline[start:end].mean()))
        for start, end in pairwise(starts)
        if end - start >= FEWEST_ROWS
    ]
    if len(pairs) < FEWEST_TENANTS:
        return None
    pairs.sort(key=lambda pair: pair[0] - pair[1], reverse=True)
    worst = np.array(pairs[: len(pairs) // 10])
    return float(worst[:, 0].mean()), float(worst[:, 1].mean())

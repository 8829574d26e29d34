"""Distinguishes a meter's running total from consumption.

Consumption rises and falls at least within a day. A total only rises, except when a meter is
exchanged and starts again. The test therefore counts how often a series falls. It does not use the
size of the values, which depends on the unit.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

DAY: Final = 86_400

FEWEST_RISES: Final = 3
MAX_FALLS: Final = 3
"""Falls that a short total may have, from exchanged meters and failed readings, if each comes with
at least ten rises."""

FALLS_PER_RISE: Final = 0.005
LONG_DAYS: Final = {False: 7, True: 60}
"""Days within which consumption would have fallen, by whether rows are daily."""

LEVEL: Final = 200.0
"""In less time consumption may rise throughout. A series then counts as a total if its highest
value is at least this many times its mean rise."""


def is_total(times: NDArray[np.int64], values: NDArray[np.float64], daily: bool) -> bool:
    """Whether readings in kWh at seconds since 1970, in any order, are a meter's running total
    rather than consumption."""
    _, first = np.unique(times, return_index=True)
    series = values[first]
    if len(series) < 3:
        return False
    steps = np.diff(series)
    rises, falls = int((steps > 0).sum()), int((steps < 0).sum())
    if rises < FEWEST_RISES or falls > max(MAX_FALLS, FALLS_PER_RISE * rises) or falls > rises / 10:
        return False
    if times.max() - times.min() >= LONG_DAYS[daily] * DAY:
        return True
    return bool(series.max() >= LEVEL * steps[steps > 0].mean())

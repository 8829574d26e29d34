"""A meter's running total told from consumption.

Consumption goes up and down, within a day at the latest; a total only rises, but for a meter that
is exchanged and begins again. What is compared is therefore how often a series falls, not how large
it is, which depends on the unit.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

DAY: Final = 86_400

FEWEST_RISES: Final = 3
MAX_FALLS: Final = 3
"""Falls that a total may have in any case: meters that were exchanged, readings that failed."""

FALLS_PER_RISE: Final = 0.005
LONG_DAYS: Final = {False: 7, True: 60}
"""Days over which consumption would have fallen, of rows within a day and (true) of daily ones."""

LEVEL: Final = 200.0
"""In less time consumption may rise throughout; a total is then told by its level, which is this
many of its steps at its highest."""


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

"""Public holidays of a country, as days since 1970."""

from datetime import date
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_EPOCH = date(1970, 1, 1).toordinal()


def is_holiday(country: str | None, days: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of `days` (since 1970) is a public holiday of `country` (ISO 3166-1); always
    False without a country."""
    if country is None or days.size == 0:
        return np.zeros(days.shape, dtype=np.bool_)
    first = date.fromordinal(int(days.min()) + _EPOCH).year
    last = date.fromordinal(int(days.max()) + _EPOCH).year
    return np.isin(days, _holidays(country, first, last))


@lru_cache(maxsize=64)
def _holidays(country: str, first: int, last: int) -> NDArray[np.int64]:
    import holidays

    known = holidays.country_holidays(country, years=range(first, last + 1))
    return np.array([day.toordinal() - _EPOCH for day in known], dtype=np.int64)

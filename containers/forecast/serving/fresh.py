"""A model's forecast from the end of fresh readings: what it learned, applied to them.

Only a request with readings imports this module, and numpy with it.
"""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from containers.forecast.consumption.prepared_files import Frequency, Series
from containers.forecast.consumption.series import UnusableSeriesError, daily, weeks_of
from containers.forecast.models.learned import applies, forecast, points_of
from containers.forecast.stored_forecasts.fresh_readings import FreshReadings, InvalidReadingsError
from containers.forecast.stored_forecasts.model_file import Points, StoredForecast, StoredHorizon


def renewed(
    stored: StoredForecast | StoredHorizon, readings: FreshReadings, levels: tuple[float, ...]
) -> StoredForecast:
    """The model as if its data ended with these readings; raises `InvalidReadingsError`."""
    if isinstance(stored, StoredHorizon) or stored.learned is None or not applies(stored.learned):
        raise InvalidReadingsError(
            "This model learned by another release; ask without readings, or train again.",
            "readings_not_taken",
        )
    frequency: Frequency = "D" if readings.frequency == "D" else "h"
    series = Series(
        int(readings.start.timestamp()),
        np.array(readings.values, dtype=np.float64),
        frequency,
        stored.timezone,
        None,
    )
    try:
        if stored.frequency != series.frequency:
            series = daily(series)
        told = forecast(stored.learned, weeks_of(series), levels)
    except UnusableSeriesError as error:
        raise InvalidReadingsError(str(error), "readings_too_few") from error
    return replace(
        stored,
        model=stored.learned.model,
        end=datetime.fromtimestamp(series.end, UTC),
        before=Points((), dict.fromkeys(levels, ())),
        first=points_of(told[0], levels),
        later=points_of(told[1], levels),
    )

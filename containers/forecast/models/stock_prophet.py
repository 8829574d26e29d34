"""The library `prophet` with its defaults, for comparison and for jobs that choose it by
hyperparameter."""

import logging
from collections.abc import Sequence

import numpy as np

from containers.forecast.consumption.series import Floats, Weeks


class StockProphet:
    """One fit by the library per customer; about 2.6 CPU seconds for a year of hours."""

    name = "prophet"
    shortest = 4

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def forecast(
        self, weeks: Weeks, origins: Sequence[int], ahead: int, levels: Sequence[float]
    ) -> Floats:
        """One fit for all origins, on the local clock; quantiles are those of the library's own
        samples."""
        import pandas as pd
        from prophet import Prophet

        # Set the level after the import, which sets its own.
        logging.getLogger("cmdstanpy").setLevel(logging.WARNING)
        first, last = origins[0], origins[-1]
        history = weeks.until(first)
        values = history.values.ravel()
        unit = "h" if weeks.per_day == 24 else "D"
        clock = np.arange(history.end - len(values), history.end).astype(f"datetime64[{unit}]")
        known = np.isfinite(values)
        model = Prophet(uncertainty_samples=1000)
        frame = pd.DataFrame({"ds": pd.to_datetime(clock[known]), "y": values[known]})
        model.fit(frame, seed=self.seed)
        count = (last - first + ahead) * weeks.season
        future = np.arange(history.end, history.end + count).astype(f"datetime64[{unit}]")
        # The library samples from numpy's global generator.
        np.random.seed(self.seed)
        coming = pd.DataFrame({"ds": pd.to_datetime(future)})
        mean = model.predict(coming)["yhat"].to_numpy()
        np.random.seed(self.seed)
        samples = model.predictive_samples(coming)["yhat"]
        told = np.stack([mean, *(np.quantile(samples, level, axis=1) for level in levels)], axis=1)
        by_week = told.reshape(-1, weeks.season, 1 + len(levels))
        return np.stack([by_week[origin - first : origin - first + ahead] for origin in origins])

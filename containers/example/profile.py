"""The model: the mean of each weekday, and its scores."""

import pandas as pd


def profile(days: "pd.Series[float]") -> list[float]:
    """The mean of each weekday, Monday first; the mean of all days for a weekday without any."""
    weekdays = days.groupby([day.weekday() for day in days.index]).mean()
    return [float(mean) for mean in weekdays.reindex(range(7), fill_value=days.mean())]


def usual(means: list[float], days: pd.Index) -> "pd.Series[float]":
    """A profile's values for some days."""
    return pd.Series([means[day.weekday()] for day in days], days)


def scores(
    truth: "pd.Series[float]", told: "pd.Series[float]", before: "pd.Series[float]"
) -> dict[str, float]:
    """Mean absolute errors of the forecast and of the naive forecast (the mean of all earlier
    days), in the data's own unit. Days without a value do not count."""
    return {
        "mae": round(float((truth - told).abs().mean()), 4),
        "baseline_mae": round(float((truth - before.mean()).abs().mean()), 4),
    }

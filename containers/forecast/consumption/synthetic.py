"""Synthetic consumption of many customers, for experiments: `python -m
containers.forecast.consumption.synthetic --help`.

Columns as in the article's data set: `customer_id` (0, 1, …), `timestamp` (UTC) and `consumption`
(0 to 1,000 kWh). Each customer has daily, weekly and yearly waves in local time, and its own level,
noise and habits. Public holidays look like Sundays. The yearly wave has the length of a year, and
peaks in winter or, for one customer in four, in summer.
"""

import argparse
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

LARGEST: Final = 1000.0


def last_midnight(now: datetime | None = None) -> datetime:
    """The midnight (UTC) at which today began; data that end there are as fresh as whole days can
    be."""
    return (
        (now or datetime.now(UTC))
        .astimezone(UTC)
        .replace(hour=0, minute=0, second=0, microsecond=0)
    )


def generate(
    customers: int,
    start: datetime,
    end: datetime,
    frequency: Literal["h", "D"] = "h",
    seed: int = 0,
    *,
    timezone: str = "Europe/London",
    country: str | None = "GB",
) -> "pd.DataFrame":
    """Consumption of `customers` from `start` until before `end` (both with a time zone), hourly or
    daily.

    The same arguments give the same data. A daily series is labelled by local date, at midnight of
    UTC. A customer's data depend on its number and the seed, not on the number of customers. Raises
    `ValueError` for an empty window.
    """
    import pandas as pd

    if customers < 1:
        raise ValueError("customers must be at least 1")
    if frequency == "h":
        instants = pd.date_range(start, end, freq="h", inclusive="left").tz_convert("UTC")
        local = instants.tz_convert(timezone).tz_localize(None)
    else:
        instants = pd.date_range(start, end, freq="D", inclusive="left", normalize=True).tz_convert(
            "UTC"
        )
        local = instants.tz_localize(None)
    if len(instants) == 0:
        raise ValueError("end must lie after start")
    hour = local.hour.to_numpy() if frequency == "h" else None
    public = _holidays(country, local.year.min(), local.year.max())
    weekday = local.day_of_week.to_numpy().copy()
    weekday[[day in public for day in local.date]] = 6
    year = 2 * np.pi * (local.day_of_year.to_numpy() - 15) / 365.25
    rows = [
        _consumption(np.random.default_rng([seed, number]), hour, weekday, year)
        for number in range(customers)
    ]
    stamps = np.tile(instants.tz_localize(None).to_numpy(), customers)
    return pd.DataFrame(
        {
            "customer_id": np.repeat(np.arange(customers), len(instants)),
            "timestamp": pd.DatetimeIndex(stamps).tz_localize("UTC"),
            "consumption": np.concatenate(rows),
        }
    )


def _consumption(
    random: np.random.Generator,
    hour: NDArray[np.int32] | None,
    weekday: NDArray[np.int32],
    year: NDArray[np.float64],
) -> NDArray[np.float64]:
    """One customer's kWh per point."""
    from scipy.signal import lfilter

    count = len(weekday)
    level = np.exp(random.normal(4.6, 0.6))
    season = random.uniform(0.1, 0.35) * (1 if random.random() < 0.75 else -1)
    # Each customer has its own shape of the week: most use less at the weekend, some more.
    by_weekday = 1 + random.normal(0, 0.04, 7)
    by_weekday[5:] += random.normal(-0.1, 0.15)
    shape = by_weekday[weekday] * (1 + season * np.cos(year))
    if hour is not None:
        morning, evening = random.uniform(0.1, 0.4), random.uniform(0.2, 0.6)
        peak = random.uniform(17, 20)
        day = 1 + evening * np.cos(2 * np.pi * (hour - peak) / 24)
        workday = day + morning * np.cos(4 * np.pi * (hour - 8) / 24)
        weekend = day + 0.6 * morning * np.cos(4 * np.pi * (hour - 10) / 24)
        shape = shape * np.where(weekday < 5, workday, weekend)
    # The noise lasts for some hours, like habits and weather.
    noise = random.normal(0, 1, count)
    memory = 0.7
    lasting = lfilter([np.sqrt(1 - memory**2)], [1, -memory], noise)
    consumption = level * np.maximum(shape, 0.05) * np.exp(random.uniform(0.05, 0.2) * lasting)
    rounded: NDArray[np.float64] = np.round(np.clip(consumption, 0.0, LARGEST), 3)
    return rounded


def _holidays(country: str | None, first: int, last: int) -> frozenset[date]:
    if country is None:
        return frozenset()
    import holidays

    return frozenset(holidays.country_holidays(country, years=range(first, last + 1)))


def main(arguments: list[str] | None = None) -> int:
    """Write synthetic consumption to a CSV or Parquet file."""
    today = last_midnight()
    parser = argparse.ArgumentParser(
        prog="python -m containers.forecast.consumption.synthetic", description=__doc__
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write, .csv or .parquet")
    parser.add_argument("--customers", type=int, default=1000)
    parser.add_argument("--start", type=_date, help="first day (default: 365 days before the end)")
    parser.add_argument(
        "--end", type=_date, default=today, help="day after the last (default: today, %(default)s)"
    )
    parser.add_argument("--frequency", choices=("h", "D"), default="h")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timezone", default="Europe/London")
    parser.add_argument("--country", default="GB", help="country of the holidays; empty for none")
    options = parser.parse_args(arguments)
    options.start = options.start or options.end - timedelta(days=365)
    if options.out.suffix not in (".csv", ".parquet"):
        parser.error("--out must end in .csv or .parquet")
    if options.customers < 1 or options.end <= options.start:
        parser.error("--customers must be at least 1, and --end after --start")
    frame = generate(
        options.customers,
        options.start,
        options.end,
        options.frequency,
        options.seed,
        timezone=options.timezone,
        country=options.country or None,
    )
    if options.out.suffix == ".csv":
        frame.assign(timestamp=frame.timestamp.dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_csv(
            options.out, index=False
        )
    else:
        frame.to_parquet(options.out, index=False)
    return 0


def _date(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)


if __name__ == "__main__":
    sys.exit(main())

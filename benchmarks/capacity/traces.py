"""The traces that the benchmark replays: when requests arrive, and how long they may wait.

Every trace is made by a generator with a seed, or read from a file. Its checksum is the SHA-256 of
its arrivals as little-endian 64-bit microseconds. numpy keeps the streams of its generators stable
between versions only mostly, so that the benchmark prints checksums, and compares those it knows.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.capacity.simulator import MICROSECONDS, Bounds, Integers

DATA: Final = Path(__file__).resolve().parents[2].parent / "shared" / "data"
"""Where the data files lie beside a checkout; `--data-folder` names another place."""
HOUSEHOLDS: Final = "energy_hourly.parquet"
CONVERSATION: Final = "arrivals_conversation.parquet"
SEED: Final = 20
MOST: Final = 40
"""The most instances on every trace. At 8 requests a second each, 40 serve 300 a second."""
DAYS: Final = 14
PEAK: Final = 40.0
"""Requests a second in the busiest hour of `day_night`."""
QUIET_RATE: Final = 1.0
"""Requests a second in the quiet hour of `spike`."""
SPIKE_RATE: Final = 300.0
SPIKE_SECONDS: Final = 180
HOUR: Final = 3600
SHARE: Final = 0.95
"""The share of requests that a service level is about."""
KNOWN: Final = {
    "day_night": "2492eb7d9e47946715c4236a980d691d7cc9bec468a1f45a40c47e3f0245312d",
    "spike": "90fb2c47010d38d011241d9dad19e6c2e20329d500df3447e38f7f0e2f100868",
    "intermittent": "8046b40200de4c934bdf4ac9bba97827d13c07ebdeba9ba39b05a0ad36926c46",
    "bursty_hour": "",
}
"""Checksums of the traces as the figures in docs/benchmarks.md were measured."""


class TraceError(ValueError):
    """A trace that cannot be read; its message names the file, the field and the cure."""


@dataclass(frozen=True)
class Trace:
    """Arrivals in order, in microseconds, over `duration` seconds. 95 % of the requests should wait
    for `slo` seconds at most."""

    name: str
    arrivals: Integers
    duration: float
    slo: float
    bounds: Bounds

    @property
    def checksum(self) -> str:
        """See this module."""
        return hashlib.sha256(self.arrivals.astype("<i8", copy=False).data).hexdigest()

    def first(self, seconds: float) -> "Trace":
        """The beginning of this trace."""
        kept = int(np.searchsorted(self.arrivals, round(seconds * MICROSECONDS)))
        return Trace(self.name, self.arrivals[:kept], seconds, self.slo, self.bounds)


def day_night(data: Path, days: int = DAYS, peak: float = PEAK) -> Trace:
    """Two weeks in the shape of the households of `HOUSEHOLDS` together, or of made-up households
    where the file is not there."""
    path = data / HOUSEHOLDS
    shape = hourly_shape(path) if path.is_file() else synthetic_shape()
    rates = shape[-DAYS * 24 :] / shape[-DAYS * 24 :].max() * peak
    return Trace(
        "day_night",
        poisson(rates[: days * 24], HOUR, np.random.default_rng((SEED, 1))),
        float(days * 24 * HOUR),
        2.0,
        Bounds(1, MOST),
    )


def hourly_shape(path: Path) -> NDArray[np.float64]:
    """The consumption of all households (`res…`) together, by hour, the oldest first."""
    import pyarrow.compute as pc

    table = _read(path, ["customer_id", "timestamp", "consumption"])
    homes = table.filter(pc.starts_with(table["customer_id"], "res"))
    sums = homes.group_by("timestamp").aggregate([("consumption", "sum")]).sort_by("timestamp")
    return np.asarray(sums["consumption_sum"], dtype=np.float64)


def synthetic_shape() -> NDArray[np.float64]:
    """The same of forty customers of the forecast container's own generator, over four weeks."""
    from containers.forecast.consumption.synthetic import generate

    end = datetime(2026, 1, 5, tzinfo=UTC)
    made = generate(40, end - timedelta(weeks=4), end, seed=SEED)
    sums = made.groupby("timestamp")["consumption"].sum()
    return sums.to_numpy(dtype=np.float64)


def spike() -> Trace:
    """A quiet hour, then 300 requests a second for three minutes."""
    rates = np.full(HOUR + SPIKE_SECONDS, QUIET_RATE)
    rates[HOUR:] = SPIKE_RATE
    arrivals = poisson(rates, 1, np.random.default_rng((SEED, 2)))
    return Trace("spike", arrivals, float(len(rates)), 600.0, Bounds(1, MOST))


def intermittent() -> Trace:
    """Two days of nothing, but for bursts: 20 to 80 requests within one to three minutes, and two
    hours between bursts in the mean, exponentially distributed."""
    random = np.random.default_rng((SEED, 3))
    duration = 2 * 24 * HOUR
    bursts = []
    begin = random.exponential(2 * HOUR)
    while begin < duration - 180:
        count = int(random.integers(20, 81))
        length = random.uniform(60, 180)
        bursts.append(begin + random.uniform(0, length, count))
        begin += length + random.exponential(2 * HOUR)
    seconds = np.sort(np.concatenate(bursts))
    return Trace("intermittent", to_microseconds(seconds), duration, 600.0, Bounds(0, MOST))


def bursty_hour(data: Path) -> Trace:
    """Real arrivals of a conversational service; 58 minutes."""
    seconds = read_seconds(data / CONVERSATION)
    return Trace(
        "bursty_hour",
        to_microseconds(seconds),
        float(np.floor(seconds[-1]) + 1),
        2.0,
        Bounds(1, MOST),
    )


def from_file(path: Path, slo: float, least: int = 1) -> Trace:
    """A trace of the caller's, under the file's name. Its first arrival is second 0 of it."""
    seconds = read_seconds(path)
    seconds = seconds - seconds[0]
    return Trace(
        path.stem,
        to_microseconds(seconds),
        float(np.floor(seconds[-1]) + 1),
        slo,
        Bounds(least, MOST),
    )


def poisson(rates: NDArray[np.float64], step: int, random: np.random.Generator) -> Integers:
    """Arrivals with a rate, in requests a second, for each step of so many seconds."""
    counts = random.poisson(rates * step)
    parts = [
        np.sort(random.integers(0, step * MICROSECONDS, count)) + number * step * MICROSECONDS
        for number, count in enumerate(counts)
    ]
    return np.concatenate(parts).astype(np.int64, copy=False)


def to_microseconds(seconds: NDArray[np.float64]) -> Integers:
    """Ordered whole microseconds."""
    return np.sort(np.round(seconds * MICROSECONDS).astype(np.int64))


def read_seconds(path: Path) -> NDArray[np.float64]:
    """The column `second` of a Parquet or CSV file, in order.

    Raises:
        TraceError: there is no such file or column, or a value is not a finite number from 0 on.
    """
    column = _read(path, ["second"])["second"]
    try:
        seconds = np.asarray(column.to_numpy(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TraceError(
            f"{path}: column second holds {column.type}; write seconds since the start as numbers"
        ) from error
    if not len(seconds):
        raise TraceError(f"{path}: column second is empty; a trace needs one request at least")
    wrong = np.flatnonzero(~np.isfinite(seconds) | (seconds < 0))
    if len(wrong):
        raise TraceError(
            f"{path}: column second, row {wrong[0] + 1}, is {seconds[wrong[0]]}; "
            "write finite seconds from 0 on"
        )
    return np.sort(seconds)


def _read(path: Path, columns: list[str]) -> Any:
    import pyarrow as pa
    from pyarrow import csv, parquet

    readers = {".parquet": lambda: parquet.read_table(path), ".csv": lambda: csv.read_csv(path)}
    if path.suffix not in readers:
        raise TraceError(f"{path}: name a file that ends in {' or '.join(readers)}")
    try:
        table = readers[path.suffix]()
    except FileNotFoundError as error:
        raise TraceError(f"{path}: there is no such file; name one that exists") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TraceError(f"{path}: it cannot be read as {path.suffix[1:]}: {error}") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise TraceError(
            f"{path}: column {missing[0]} is missing; the file has {', '.join(table.column_names)}"
        )
    return table.select(columns)

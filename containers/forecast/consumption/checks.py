"""What is refused of readings before they are laid on a grid: impossible values and times, and
intervals that no series has."""

from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from containers.forecast.consumption.meter_totals import is_total
from containers.forecast.consumption.prepared_files import DAY, HOUR, STEP, Series
from containers.forecast.consumption.reading import CONSUMPTION, TIMESTAMP, Readings
from containers.forecast.consumption.wall_clock import DAY_END
from contracts.refused_data import RefusedDataError

EARLIEST: Final = datetime(1990, 1, 1, tzinfo=UTC)
LARGEST_READING: Final = 1e7
"""kWh in one interval; no customer uses ten gigawatts for an hour."""

SPIKE: Final = 1000.0
"""A reading this many times the 99th percentile of the others has another unit or is a meter's
total."""

_INTERVALS: Final = (300, 600, 900, 1200, 1800, HOUR)


def check_values(
    readings: Readings,
    times: NDArray[np.int64],
    present: NDArray[np.bool_],
    daily: bool,
    known: Series | None,
) -> None:
    """Refuse negative and impossibly large values, meters' totals, and spikes; `known` is the
    series that the readings continue."""
    values = readings.values
    # A few rows of consumption may rise throughout; a total lies above all consumption.
    above = known is None or bool(values[present].min() > np.nanmax(known.values))
    if above and is_total(times[present], values[present], daily):
        raise RefusedDataError(
            "These are the meter's totals: they rise from row to row.",
            CONSUMPTION,
            "Send the differences of neighbouring totals, which is the consumption of each "
            "interval in kWh.",
            code="meter_totals",
        )
    with np.errstate(invalid="ignore"):
        negative, huge = values < 0, values > LARGEST_READING
    if negative.any():
        raise RefusedDataError(
            f"{readings.place(int(np.argmax(negative)))}: the consumption is negative "
            f"({int(negative.sum())} rows are).",
            CONSUMPTION,
            "Upload consumption alone; what is fed into the grid is a series of its own.",
            code="consumption_negative",
        )
    if huge.any():
        raise RefusedDataError(
            f"{readings.place(int(np.argmax(huge)))}: the consumption is more than "
            f"{LARGEST_READING:g} kWh.",
            CONSUMPTION,
            "Write kWh per interval, not Wh and not the meter's total.",
            code="consumption_too_large",
        )
    usual = usual_level(values if known is None else known.values)
    if usual is not None:
        row = int(np.nanargmax(values))
        if values[row] > SPIKE * usual:
            raise RefusedDataError(
                f"{readings.place(row)}: the consumption is more than {SPIKE:g} times what 99 % of "
                f"the rows stay below.",
                CONSUMPTION,
                "Write all rows in kWh per interval, and leave the cell blank where the meter "
                "failed.",
                code="consumption_spike",
            )


def usual_level(values: NDArray[np.float64]) -> float | None:
    """The 99th percentile of the positive values; None if they are too few to tell."""
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive) < 100:
        return None
    place = int(0.99 * len(positive))
    return float(np.partition(positive, place)[place])


def check_range(readings: Readings, now: datetime) -> None:
    """Refuse readings from before 1990, and from after the day that follows `now`."""
    times = readings.times
    latest = now + timedelta(days=1)
    for row, early in ((int(np.argmin(times)), True), (int(np.argmax(times)), False)):
        bound = EARLIEST if early else latest
        beyond = times[row] < bound.timestamp() if early else times[row] > bound.timestamp()
        if beyond:
            raise RefusedDataError(
                f"{readings.place(row)}: the timestamp lies "
                f"{'before 1990' if early else 'in the future'}.",
                TIMESTAMP,
                "Upload measured consumption; check the unit if timestamps were converted from "
                "numbers.",
                code="timestamp_before_1990" if early else "timestamp_in_future",
            )


def interval_of(times: NDArray[np.int64], known: Series | None) -> int:
    """The usual distance of neighbouring timestamps in seconds: one of `_INTERVALS`, or `DAY`.

    A few readings that continue a `known` series may all lie apart; they are at its own steps.
    """
    unique = np.unique(times)
    if len(unique) < 2:
        if known is not None and known.frequency == "D":
            return DAY
        # An hour alone could be a day's total.
        raise RefusedDataError(
            "There is one timestamp in all files.",
            TIMESTAMP,
            "Upload at least three days." if known is None else "Upload a whole day's readings.",
            code="one_timestamp",
        )
    distances, counts = np.unique(np.diff(unique), return_counts=True)
    usual = int(distances[np.argmax(counts)])
    if usual in _INTERVALS:
        return usual
    # Midnights of a local clock are 23 or 25 hours apart where the clock changes.
    if abs(usual - DAY) <= HOUR:
        return DAY
    if known is not None:
        step, slack = STEP[known.frequency], HOUR if known.frequency == "D" else 0
        if (usual + slack) % step <= 2 * slack:
            return step
    raise RefusedDataError(
        f"Readings are mostly {usual / HOUR:.4g} hours apart.",
        TIMESTAMP,
        "Upload readings every 5, 10, 15, 20, 30 or 60 minutes, or daily ones.",
        code="interval_unknown",
    )


def at_beginnings(times: NDArray[np.int64], interval: int) -> NDArray[np.int64]:
    """The beginnings of intervals, if all rows mark an interval by its last minute or second;
    otherwise `times`."""
    phases = times % interval
    return times - phases if (phases >= interval - DAY_END).all() else times


def check_phase(readings: Readings, times: NDArray[np.int64], interval: int) -> None:
    """Refuse rows off the grid of the interval."""
    phases, counts = np.unique(times % interval, return_counts=True)
    if len(phases) > 1:
        off = times % interval != phases[np.argmax(counts)]
        row = int(np.argmax(off))
        raise RefusedDataError(
            f"{readings.place(row)}: the timestamp is off the grid of {interval // 60} minutes "
            f"that most rows keep "
            f"({int(off.sum())} rows are).",
            TIMESTAMP,
            "Write one reading per interval, at its beginning.",
            code="off_grid",
        )

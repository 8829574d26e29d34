"""The instants and dates that a file's timestamps mean, above all around clock changes.

In autumn a wall clock shows an hour twice. A row's place among the other rows decides which of the
two it means:

- a file is read in its own direction, oldest or newest first, and in blocks that start where it
  goes back in time (repeated rows, months in any order);
- within a block the clock shows the hour, goes back, and shows it again; in a file sorted by the
  clock each time occurs twice, and the first one is the earlier;
- a block that begins in the hour and shows it once means the later one, adjacent to the next rows;
  any other block means the earlier one.

Unordered rows do not decide. Both hours then get the mean of the two readings.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from containers.forecast.consumption.reading import TIMESTAMP, Readings
from containers.forecast.consumption.timestamps import DAY, on_clock
from contracts.refused_data import RefusedDataError

DAY_END: Final = 60
"""Seconds before midnight from which on a daily row marks the day's end: 23:59, 23:59:59."""

_SHORT_BLOCK: Final = 8
"""Rows. If the mean block is shorter, the rows are unordered."""

Seconds = NDArray[np.int64]
Flags = NDArray[np.bool_]


def instants(
    readings: Readings, timezone: str, repairs: dict[str, int]
) -> tuple[Seconds, NDArray[np.float64]]:
    """Seconds of UTC for each row, and the readings. Raises `RefusedDataError` for a time that the
    clock never showed."""
    if readings.zoned or timezone == "UTC":
        return readings.times, readings.values
    import pandas as pd

    wall = pd.DatetimeIndex(readings.times.astype("datetime64[s]"))
    found = wall.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT")
    unclear = np.array(found.isna())
    values = readings.values
    seconds = _seconds(found)
    if unclear.any():
        rows = np.flatnonzero(unclear)
        skipped = np.asarray(
            wall[rows]
            .tz_localize(timezone, ambiguous=np.ones(len(rows), bool), nonexistent="NaT")
            .isna()
        )
        # A table of every day's hours also has a row for the skipped hour, which is blank.
        lost = skipped & np.isfinite(values[rows])
        if lost.any():
            raise RefusedDataError(
                f"{readings.place(int(rows[np.argmax(lost)]))}: the clock of the parameter "
                f"timezone never showed this "
                f"time, as it was put forward.",
                TIMESTAMP,
                "Write timestamps with a UTC offset, or set timezone to UTC if they are of UTC.",
                code="timestamp_skipped",
            )
        unclear[rows[skipped]] = False
        earlier, values = _earlier(readings, unclear, repairs)
        seconds[rows] = _seconds(
            wall[rows].tz_localize(timezone, ambiguous=earlier[rows], nonexistent="shift_forward")
        )
    return seconds, values


def _seconds(stamps: Any) -> Seconds:
    """The seconds of a zoned `DatetimeIndex`."""
    return np.asarray(stamps.tz_convert(None).to_numpy().astype("datetime64[s]").astype(np.int64))


def _earlier(
    readings: Readings, twice: Flags, repairs: dict[str, int]
) -> tuple[Flags, NDArray[np.float64]]:
    """For each row that the clock showed `twice`, whether it is the earlier one; and the readings,
    averaged where the rows do not decide.
    """
    earlier, values = np.ones(len(twice), dtype=bool), readings.values.copy()
    begin = 0
    for count in readings.rows:
        rows = np.arange(begin, begin + count)
        begin += count
        if not twice[rows].any():
            continue
        steps = np.diff(readings.times[rows])
        if (steps < 0).sum() > (steps > 0).sum():
            rows = rows[::-1]
        wall, doubled = readings.times[rows], twice[rows]
        steps = np.diff(wall)
        within = doubled[1:] & doubled[:-1] & (wall[1:] // DAY == wall[:-1] // DAY)
        block = np.concatenate([[0], np.cumsum((steps < 0) & ~within)])
        unordered = block[-1] >= _SHORT_BLOCK and count < _SHORT_BLOCK * (block[-1] + 1)
        if unordered:
            block = block * 0
        for group in _groups(block, wall // DAY, doubled):
            hour, of_block = wall[group], block == block[group[0]]
            usual = _repetitions(wall[of_block & ~doubled])
            back = np.diff(hour) < 0
            if unordered or back.sum() > 1:
                if _mixed(rows[group], hour, usual, earlier, values):
                    repairs["averaged_clock_changes"] = repairs.get("averaged_clock_changes", 0) + 1
            elif back.any():
                earlier[rows[group]] = np.concatenate([[True], np.cumsum(back) == 0])
            else:
                first, last = wall[of_block][[0, -1]]
                _by_count(
                    rows[group], hour, usual, bool(hour[0] <= first and last > hour[-1]), earlier
                )
    return earlier, values


def _groups(block: Seconds, day: Seconds, doubled: Flags) -> list[NDArray[np.intp]]:
    """The rows of each clock change in each block."""
    at = np.flatnonzero(doubled)
    order = np.lexsort((day[at], block[at]))
    at = at[order]
    cuts = np.flatnonzero((np.diff(block[at]) != 0) | (np.diff(day[at]) != 0)) + 1
    return [np.sort(group) for group in np.split(at, cuts)]


def _repetitions(wall: Seconds) -> int:
    """How often a file repeats each of its rows, usually 1."""
    return max(1, round(len(wall) / len(np.unique(wall)))) if len(wall) else 1


def _by_count(
    rows: NDArray[np.intp], hour: Seconds, usual: int, begins_here: bool, earlier: Flags
) -> None:
    """Decide where the clock never went back. A time that occurs twice as often as others stands
    for both hours, the earlier first."""
    for time in np.unique(hour):
        same = rows[hour == time]
        if len(same) > usual:
            earlier[same] = np.arange(len(same)) < usual
        else:
            earlier[same] = not begins_here


def _mixed(
    rows: NDArray[np.intp], hour: Seconds, usual: int, earlier: Flags, values: NDArray[np.float64]
) -> bool:
    """Average the two hours of unordered rows; returns whether their readings differed."""
    averaged = False
    for time in np.unique(hour):
        same = rows[hour == time]
        if len(same) <= usual:
            continue
        earlier[same] = np.arange(len(same)) < len(same) // 2
        known = values[same][np.isfinite(values[same])]
        if len(known) and (known.min() != known.max()):
            values[same] = known.mean()
            averaged = True
    return averaged


def dates(readings: Readings, timezone: str, present: Flags) -> Seconds:
    """Seconds at the midnight label of each row's local date.

    The date comes from the clock on which most rows lie at a day's beginning or end: that of the
    parameter `timezone`, or the file's own. A file of local midnights with offsets therefore keeps
    its dates under any parameter. A row at the end of a day belongs to that day. Raises
    `RefusedDataError` where the dates are unknown.
    """
    local = readings.local - readings.ends
    clocks = [local]
    if readings.zoned and timezone != "UTC":
        clocks.insert(0, on_clock(readings.times, timezone) - readings.ends)
    shares = [_at_limits(clock[present]) for clock in clocks]
    best = int(np.argmax(shares))
    if readings.zoned and readings.utc and timezone == "UTC" and shares[best] < 1:
        raise RefusedDataError(
            "Daily rows are written in UTC and do not begin at midnight of UTC, so that their "
            "dates cannot be told.",
            TIMESTAMP,
            "Set the parameter timezone to where the customer lives, or write dates alone, such as "
            "2026-03-01.",
            code="daily_timezone_unknown",
        )
    labels = clocks[best] // DAY * DAY
    order = np.argsort(readings.times, kind="stable")
    passed = np.round(np.diff(readings.times[order]) / DAY).astype(np.int64)
    unlike = np.diff(labels[order]) // DAY != passed
    if unlike.any():
        raise RefusedDataError(
            f"{readings.place(int(order[np.argmax(unlike) + 1]))}: the date does not follow from "
            f"the rows around it; "
            f"daily rows fall on one date twice, or leave one out.",
            TIMESTAMP,
            "Write one row per day, with its local date alone, such as 2026-03-01.",
            code="daily_dates_unclear",
        )
    return np.asarray(labels)


def _at_limits(clock: Seconds) -> float:
    """The share of rows at a day's beginning or end."""
    second = clock % DAY
    return float(((second == 0) | (second >= DAY - DAY_END)).mean())

"""Timestamps in files: all forms of ISO 8601, the forms of common exports, and the types of
Parquet.

The parser does not guess. It reads an ambiguous form (`03/04/2026`) only where the rest of the file
decides its meaning. Otherwise it refuses the form and names the expected one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.refused_data import RefusedDataError

if TYPE_CHECKING:
    import pyarrow as pa

TIMESTAMP: Final = "timestamp"
DAY: Final = 86_400
WANTED: Final = (
    "Write ISO 8601, such as 2026-03-01T13:00:00Z, or 2026-03-01 13:00 in the time "
    "zone of the parameter timezone."
)

_ONE_KIND: Final = "Write all timestamps with an offset, or all without."
_UTC_NAMES: Final = frozenset(
    {"UTC", "Etc/UTC", "GMT", "Etc/GMT", "Z", "Zulu", "Etc/Zulu", "Universal", "UCT"}
)
_FIXED: Final = re.compile(r"([+-])(\d{2}):?(\d{2})")
_MONTHS: Final = (
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
)

_STAMP: Final = re.compile(
    r"""
    (?P<date> \d{4}([-/.])\d{1,2}\2\d{1,2}          # 2026-03-01
            | \d{4}-?[Ww]\d{2}-?\d                  # 2026-W09-7
            | \d{4}-\d{3}                           # 2026-060
            | \d{8} | \d{7}                         # 20260301, 2026060
            | \d{1,2}([./-])\d{1,2}\3\d{4}          # 31.12.2025, 12/31/2025: the file has to tell
            | \d{1,2}[-./\ ]?[A-Za-z]{3}[-./\ ]\d{4}       # 01-Mar-2026
            | [A-Za-z]{3}\.?\ \d{1,2},?\ \d{4}              # Mar 1, 2026
    )
    (?: (?P<mark> [Tt] | ,?\s+ | (?=\d{4}(?:\d{2})?$) (?<=\d{8}) )
        (?P<time> \d{1,2}(?: : \d{2} (?: : \d{2} )? )? (?: [.,]\d+ )?
                | \d{4}(?: \d{2} )? (?: [.,]\d+ )? )
        (?: \s* (?P<half> [AaPp]\.?[Mm]\.? ) )?
    )?
    (?: \s* (?P<zone> [Zz] | UTC | GMT
                     | (?:UTC|GMT)?[+\-\N{MINUS SIGN}]\d{2}(?: :?\d{2} (?: :?\d{2} )? )? ) )?
    (?: \s* \[ [A-Za-z0-9_/+:-]+ \] )?
    """,
    re.VERBOSE | re.ASCII,
)
_BLANKS: Final = re.compile(r"[\s\u00a0\u2000-\u200b\u202f\u2060\ufeff]+")
_TIME: Final = re.compile(r"(\d{1,2})(?::?(\d{2})(?::?(\d{2}))?)?(?:[.,](\d+))?", re.ASCII)
_OFFSET: Final = re.compile(r"(?:UTC|GMT)?([+-])(\d{2}):?(\d{2})?:?(\d{2})?", re.ASCII)
_OFFSET_END: Final = re.compile(r"(Z|[+-]\d\d(:?\d\d)?)$", re.ASCII)
_SPLIT: Final = re.compile(r"(\d{1,2})[./-](\d{1,2})[./-](\d{4})", re.ASCII)
_EPOCH: Final = re.compile(r"(1[0-8]\d{8})(\d{3})?(?:\.\d*)?", re.ASCII)
_COMPACT_HOUR: Final = re.compile(r"((?:19|20)\d{6})(\d{2})", re.ASCII)

_EPOCHS: Final = ((1_000_000_000, 1), (10**12, 10**3), (10**15, 10**6), (10**18, 10**9))
"""For seconds, milli-, micro- and nanoseconds since 1970: the least number that counts as a
timestamp (September 2001), and the number of units in a second. Numbers from 1.9 times the least
(2030) on do not count."""


@dataclass(frozen=True)
class Stamps:
    """The timestamps of a file, row by row.

    `times` are seconds since 1970, of UTC where `zoned`, else of a wall clock. `local` are seconds
    of the file's own clock, given by its written offsets or the zone of its Parquet type. `utc`
    says that this clock is UTC in each row, so that the file gives no local date. `zone` is the
    IANA name of a Parquet type's zone. `ends` marks rows written as 24:00.
    """

    times: NDArray[np.int64]
    zoned: bool
    local: NDArray[np.int64]
    utc: bool
    zone: str | None
    ends: NDArray[np.bool_]


def read_stamps(name: str, column: "pa.ChunkedArray") -> Stamps:
    """The timestamps of the file `name` from its column of text, timestamps, dates or seconds since
    1970.

    Raises `RefusedDataError`.
    """
    import pyarrow as pa

    kind = column.type
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise _missing(name, row)
    if pa.types.is_string(kind):
        return _plain_text(column) or _any_text(name, column.to_pylist())
    if pa.types.is_timestamp(kind):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        seconds = column.cast(pa.int64()).to_numpy() // per_second
        return _of_wall(seconds) if kind.tz is None else _of_zone(name, seconds, kind.tz)
    if pa.types.is_date(kind):
        milliseconds = column.cast(pa.date64()).cast(pa.int64()).to_numpy()
        return _of_wall(milliseconds // 1000)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = column.to_numpy().astype(np.float64)
        for least, per_second in _EPOCHS:
            if (
                np.isfinite(numbers).all()
                and numbers.min() >= least
                and numbers.max() < 1.9 * least
            ):
                whole = column.cast(pa.int64(), safe=False).to_numpy()
                return _of_utc(whole // per_second)
        raise RefusedDataError(
            f"Column timestamp of {name} holds numbers that are not seconds or milliseconds since "
            f"1970.",
            TIMESTAMP,
            f"Store it as a timestamp or as text. {WANTED}",
            code="timestamp_number",
        )
    raise RefusedDataError(
        f"Column timestamp of {name} is of a type that tells no time.",
        TIMESTAMP,
        f"Store it as a timestamp or as text. {WANTED}",
        code="timestamp_type",
    )


def _missing(name: str, row: int) -> RefusedDataError:
    return RefusedDataError(
        f"{name}, row {row + 1} has no timestamp.",
        TIMESTAMP,
        "Give every row a timestamp, or leave the row out.",
        code="timestamp_missing",
    )


def _of_wall(seconds: NDArray[np.int64]) -> Stamps:
    return Stamps(seconds, False, seconds, False, None, np.zeros(len(seconds), dtype=bool))


def _of_utc(seconds: NDArray[np.int64]) -> Stamps:
    return Stamps(seconds, True, seconds, True, None, np.zeros(len(seconds), dtype=bool))


def _of_zone(name: str, seconds: NDArray[np.int64], zone: str) -> Stamps:
    if zone in _UTC_NAMES:
        return _of_utc(seconds)
    unmarked = np.zeros(len(seconds), dtype=bool)
    if fixed := _FIXED.fullmatch(zone):
        sign, hours, minutes = fixed.groups()
        offset = (int(hours) * 3600 + int(minutes) * 60) * (-1 if sign == "-" else 1)
        return Stamps(seconds, True, seconds + offset, offset == 0, None, unmarked)
    try:
        local = on_clock(seconds, zone)
    except (KeyError, ValueError, OSError, OverflowError) as error:
        raise RefusedDataError(
            f"The timestamps of {name} are of a time zone that is not known.",
            TIMESTAMP,
            "Store them in UTC, or in a zone by its IANA name, such as Europe/London.",
            code="timestamp_zone",
        ) from error
    return Stamps(seconds, True, local, False, zone, unmarked)


def on_clock(seconds: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """The clock time of the IANA zone at instants, all in seconds since 1970. Raises `KeyError`,
    `ValueError`."""
    import pandas as pd

    local = (
        pd.DatetimeIndex(seconds.astype("datetime64[s]"), tz="UTC")
        .tz_convert(zone)
        .tz_localize(None)
    )
    return np.asarray(local.to_numpy().astype("datetime64[s]").astype(np.int64))


def _plain_text(column: "pa.ChunkedArray") -> Stamps | None:
    """The most common forms of ISO 8601, which Arrow reads; None when a row has another form."""
    import pyarrow as pa
    from pyarrow import compute

    seconds = _cast(column, pa.timestamp("us"))
    if seconds is not None:
        return _of_wall(seconds)
    seconds = _cast(column, pa.timestamp("us", tz="UTC"))
    if seconds is None:
        return None
    if compute.all(compute.ends_with(column, "Z")).as_py():
        return _of_utc(seconds)
    # The last characters hold the offset, and take few different values.
    ends = compute.utf8_slice_codeunits(column, -6).combine_chunks().dictionary_encode()
    shifts = []
    for end in ends.dictionary.to_pylist():
        written = _OFFSET_END.search(end)
        shift = None if written is None else _offset(written[0])
        if shift is None:
            return None
        shifts.append(shift)
    offsets = np.array(shifts, dtype=np.int64)[ends.indices.to_numpy()]
    unmarked = np.zeros(len(seconds), dtype=bool)
    return Stamps(seconds, True, seconds + offsets, not offsets.any(), None, unmarked)


def _cast(column: "pa.ChunkedArray", target: Any) -> NDArray[np.int64] | None:
    import pyarrow as pa

    try:
        # The first row usually decides, at no cost.
        column.slice(0, 1).cast(target)
        stamps = column.cast(target)
    except pa.ArrowException:
        return None
    seconds: NDArray[np.int64] = stamps.cast(pa.int64()).to_numpy() // 1_000_000
    return seconds


def _any_text(name: str, cells: list[str]) -> Stamps:
    """All other forms, row by row. Each distinct date, time of day and offset of a file is parsed
    only once."""
    clock, offset = _Known(_second_of_day), _Known(_offset)
    dates: dict[str, int] = {}
    of_row: list[int] = []
    seconds: list[int] = []
    offsets: list[int | None] = []
    for row, cell in enumerate(cells):
        text = _BLANKS.sub(" ", cell).strip().strip('"').strip()
        if not text:
            raise _missing(name, row)
        if epoch := _EPOCH.fullmatch(text):
            # Seconds since 1970 become a date and a second of the day, without an offset.
            days, second = divmod(int(epoch[1]), DAY)
            of_row.append(dates.setdefault(f"{days} days", len(dates)))
            seconds.append(second)
            offsets.append(0)
            continue
        if hour := _COMPACT_HOUR.fullmatch(text):
            text = f"{hour[1]}T{hour[2]}"
        found = _STAMP.fullmatch(text)
        if not found:
            raise _unreadable(name, row)
        said, mark, time, half, zone = found.group("date", "mark", "time", "half", "zone")
        second_of_day = clock[f"{'T' if mark in ('T', 't') else ''}{time or '00:00'}{half or ''}"]
        shift = offset[zone or ""]
        if second_of_day is None or (zone and shift is None):
            raise _unreadable(name, row)
        of_row.append(dates.setdefault(said, len(dates)))
        seconds.append(second_of_day)
        offsets.append(shift)
    zoned = offsets[0] is not None
    for row, shift in enumerate(offsets):
        if (shift is not None) != zoned:
            raise RefusedDataError(
                f"{name}, row {row + 1}: the timestamp {'has no' if zoned else 'has a'} UTC "
                f"offset, unlike the rows "
                f"before it.",
                TIMESTAMP,
                _ONE_KIND,
                code="timestamp_offsets_mixed",
            )
    days_of = _days(name, list(dates))
    for row, number in enumerate(of_row):
        if days_of[number] is None:
            raise _unreadable(name, row)
    within = np.array(seconds, dtype=np.int64)
    local = np.array(days_of, dtype=np.int64)[of_row] * DAY + within
    if not zoned:
        return Stamps(local, False, local, False, None, within == DAY)
    shifts = np.array(offsets, dtype=np.int64)
    return Stamps(local - shifts, True, local, not shifts.any(), None, within == DAY)


class _Known(dict[str, int | None]):
    """The values of texts, each parsed once."""

    def __init__(self, understand: Callable[[str], int | None]) -> None:
        super().__init__()
        self._understand = understand

    def __missing__(self, text: str) -> int | None:
        self[text] = self._understand(text)
        return self[text]


def _unreadable(name: str, row: int) -> RefusedDataError:
    return RefusedDataError(
        f"{name}, row {row + 1}: the timestamp cannot be read.",
        TIMESTAMP,
        WANTED,
        code="timestamp_unreadable",
    )


def _second_of_day(text: str) -> int | None:
    """The second of the day of a time such as `13:00`, `1300`, `13:00:00,5`, `01:00PM`, `24:00`;
    after a `T` also `T13.5`."""
    after_t = text.startswith("T")
    time = text.removeprefix("T")
    half = ""
    if letters := re.search(r"[AaPp]\.?[Mm]\.?$", time):
        time, half = time[: letters.start()], letters[0][0].lower()
    found = _TIME.fullmatch(time)
    if not found:
        return None
    hour, minute, second, fraction = found.groups()
    if not minute and fraction and not after_t:
        # In some countries 13.30 means half past one.
        return None
    hours = int(hour)
    if half:
        if not 1 <= hours <= 12:
            return None
        hours = hours % 12 + (12 if half == "p" else 0)
    unit = 1 if second else 60 if minute else 3600
    part = int(int(fraction[:12]) * unit / 10 ** len(fraction[:12])) if fraction else 0
    minutes, seconds = int(minute or 0), int(second or 0)
    if minutes > 59 or seconds > 59:
        return None
    total = hours * 3600 + minutes * 60 + seconds + part
    return total if total < DAY or (total == DAY and hours == 24) else None


def _offset(text: str) -> int | None:
    """Seconds east of UTC; None without an offset, or with an offset of a day or more."""
    if text in ("Z", "z", "UTC", "GMT"):
        return 0
    found = _OFFSET.fullmatch(text.replace("\N{MINUS SIGN}", "-"))
    if not found:
        return None
    sign, hours, minutes, seconds = found.groups()
    if int(hours) > 23 or int(minutes or 0) > 59 or int(seconds or 0) > 59:
        return None
    total = int(hours) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
    return -total if sign == "-" else total


def _days(name: str, dates: list[str]) -> list[int | None]:
    """Days since 1970 of the dates of a file; None for a text that is not a date."""
    split = {
        text: tuple(map(int, found.groups())) for text in dates if (found := _SPLIT.fullmatch(text))
    }
    day_first = any(first > 12 for first, _, _ in split.values())
    month_first = any(second > 12 for _, second, _ in split.values())
    if split and day_first == month_first:
        raise RefusedDataError(
            f"{name} writes dates by numbers whose order "
            f"{'changes' if day_first else 'cannot be told'}: day first or "
            f"month first.",
            TIMESTAMP,
            WANTED,
            code="timestamp_day_or_month",
        )
    days: list[int | None] = []
    for text in dates:
        try:
            if text in split:
                first, second, year = split[text]
                at = date(year, second, first) if day_first else date(year, first, second)
            else:
                at = _date(text)
            days.append((at - date(1970, 1, 1)).days)
        except (ValueError, OverflowError):
            days.append(None)
    return days


def _date(text: str) -> date:
    """The date of a text whose order of parts is known. Raises `ValueError`, `OverflowError`."""
    if text.endswith(" days"):
        return date(1970, 1, 1) + timedelta(days=int(text.removesuffix(" days")))
    if letters := re.search(r"[A-Za-z]{3}", text):
        month = _MONTHS.index(letters[0].lower()) + 1
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        return date(numbers[1], month, numbers[0])
    if week := re.fullmatch(r"(\d{4})-?[Ww](\d{2})-?(\d)", text):
        return date.fromisocalendar(int(week[1]), int(week[2]), int(week[3]))
    if ordinal := re.fullmatch(r"(\d{4})-?(\d{3})", text):
        at = date(int(ordinal[1]), 1, 1) + timedelta(days=int(ordinal[2]) - 1)
        if at.year != int(ordinal[1]):
            raise ValueError(text)
        return at
    if len(text) == 8 and text.isdigit():
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    year, month, day = (int(part) for part in re.split(r"[-/.]", text))
    return date(year, month, day)

"""Reads a customer's consumption files, CSV or Parquet from any source, into arrays.

Nothing in a file is trusted: size, rows, cells and expanded size are bounded. A refusal names file,
row and column, but quotes no cell.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from containers.forecast.consumption.timestamps import TIMESTAMP, Stamps, read_stamps
from containers.runtime.tables.columns import AROUND, Wanted, casts, first_failing
from containers.runtime.tables.files import read_tables
from contracts.refused_data import RefusedDataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CONSUMPTION", "CUSTOMER", "TIMESTAMP", "Readings", "read_files"]

CONSUMPTION: Final = "consumption"
CUSTOMER: Final = "customer_id"

WANTED: Final = Wanted(
    required=(TIMESTAMP, CONSUMPTION),
    optional=(CUSTOMER,),
    max_rows=400_000,  # a little over ten years of quarter-hours
    naming="Name the columns timestamp and consumption (and customer_id, if you like) in the "
    "first row.",
    fewer_columns="Upload the columns timestamp and consumption alone.",
    fewer_rows="Upload fewer years, or hourly sums.",
    smaller="Upload fewer years, or Parquet, with shorter ids.",
    one_cell="Write one timestamp, number or id to a cell.",
)

_WHOLE: Final = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")


@dataclass(frozen=True)
class Readings:
    """The rows of all files, in their order.

    `times` are seconds since 1970, of UTC where `zoned`, else of a wall clock; `values` are kWh,
    NaN where blank. `Stamps` describes `local`, `utc`, `zone` and `ends`.
    """

    times: NDArray[np.int64]
    values: NDArray[np.float64]
    zoned: bool
    local: NDArray[np.int64]
    utc: bool
    zone: str | None
    ends: NDArray[np.bool_]
    ignored_columns: int
    names: tuple[str, ...]
    rows: tuple[int, ...]

    def place(self, index: int) -> str:
        """File and row of a reading, in words; row 1 is the first after the header."""
        for name, count in zip(self.names, self.rows, strict=True):
            if index < count:
                return f"{name}, row {index + 1}"
            index -= count
        raise IndexError(index)


def read_files(files: Sequence[Path]) -> Readings:
    """Read all files of one customer; raises `RefusedDataError`."""
    stamps: list[Stamps] = []
    values = []
    customers: set[str] = set()
    ignored = 0
    for name, columns in read_tables(files, WANTED):
        ignored += columns.ignored
        stamps.append(read_stamps(name, columns.found[TIMESTAMP]))
        values.append(_values(name, columns.found[CONSUMPTION]))
        if CUSTOMER in columns.found:
            customers |= _customers(columns.found[CUSTOMER])
        if stamps[-1].zoned != stamps[0].zoned:
            raise RefusedDataError(
                f"Timestamps of {name} {'have' if stamps[-1].zoned else 'lack'} a UTC offset, "
                f"those of "
                f"{files[0].name} {'do not' if stamps[-1].zoned else 'have one'}.",
                TIMESTAMP,
                "Write all timestamps with an offset, or all without.",
                code="timestamp_offsets_mixed",
            )
    if len(customers) > 1:
        raise RefusedDataError(
            f"There are {len(customers):,} customers in the files.",
            CUSTOMER,
            "Upload one customer's rows; `python -m containers.forecast.consumption.split` splits "
            "a file by customer.",
            code="several_customers",
        )
    zones = {stamp.zone for stamp in stamps}
    return Readings(
        times=np.concatenate([stamp.times for stamp in stamps]),
        values=np.concatenate(values),
        zoned=stamps[0].zoned,
        local=np.concatenate([stamp.local for stamp in stamps]),
        utc=all(stamp.utc for stamp in stamps),
        zone=zones.pop() if len(zones) == 1 else None,
        ends=np.concatenate([stamp.ends for stamp in stamps]),
        ignored_columns=ignored,
        names=tuple(file.name for file in files),
        rows=tuple(len(stamp.times) for stamp in stamps),
    )


def _values(name: str, column: "pa.ChunkedArray") -> NDArray[np.float64]:
    import pyarrow as pa
    from pyarrow import compute

    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_string(kind):
        if not casts(column, pa.float64()):
            column = compute.replace_substring_regex(column, f"^{AROUND}\\+?|{AROUND}$", "")
            column = compute.if_else(
                compute.equal(column, ""), pa.scalar(None, pa.string()), column
            )
        if not casts(column, pa.float64()):
            raise RefusedDataError(
                f"{name}, row {first_failing(column, pa.float64()) + 1}: the consumption is not a "
                f"number.",
                CONSUMPTION,
                "Write kWh as a number with a decimal point, and leave the cell blank where a "
                "reading is missing.",
                code="consumption_not_number",
            )
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise RefusedDataError(
            f"Column consumption of {name} is of a type that holds no numbers.",
            CONSUMPTION,
            "Store it as numbers, kWh.",
            code="consumption_type",
        )
    if pa.types.is_decimal(kind):
        # Cast through text, because Arrow multiplies by an inexact power of a tenth.
        column = column.cast(pa.string())
    numbers = column.cast(pa.float64(), safe=False)
    values: NDArray[np.float64] = numbers.to_numpy(zero_copy_only=False).astype(np.float64)
    bad = ~np.isfinite(values) & ~column.is_null().to_numpy()
    if bad.any():
        raise RefusedDataError(
            f"{name}, row {int(np.argmax(bad)) + 1}: the consumption is not a finite number.",
            CONSUMPTION,
            "Leave the cell blank where a reading is missing.",
            code="consumption_not_finite",
        )
    return values


def _customers(column: "pa.ChunkedArray") -> set[str]:
    """The ids in a column: 42, 42.0 and "42" are one, 00042 is another."""
    # NaN, which pandas writes for a blank, does not equal itself.
    told = (value for value in column.unique().to_pylist() if value is not None and value == value)
    ids = (str(value).strip() for value in told)
    return {
        _WHOLE.sub(r"\1", customer) if _WHOLE.fullmatch(customer) else customer
        for customer in ids
        if customer
    }

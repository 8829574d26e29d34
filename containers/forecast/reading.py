"""Reading a customer's consumption files, CSV or Parquet, whoever wrote them, into two arrays.

Nothing in a file is trusted: size and rows are bounded, and whatever cannot be read is told by file, row and column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from containers.runtime.refused_data import RefusedData

if TYPE_CHECKING:
    import pyarrow as pa

MAX_FILE_BYTES: Final = 32 << 20
"""Largest file read, in bytes: ten years of quarter-hours take about 14 MB as CSV."""

MAX_ROWS: Final = 400_000
"""Most rows of all files together: a little over ten years of quarter-hours."""

TIMESTAMP: Final = "timestamp"
CONSUMPTION: Final = "consumption"
CUSTOMER: Final = "customer_id"


@dataclass(frozen=True)
class Readings:
    """The rows of all files in the order they were found.

    `times` are seconds since 1970, of UTC where `zoned`, else of a wall clock; `values` are kWh, NaN where blank.
    """

    times: NDArray[np.int64]
    values: NDArray[np.float64]
    zoned: bool
    ignored_columns: tuple[str, ...]
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
    """Read all files of one customer; raises `RefusedData`."""
    if not files:
        raise RefusedData("There is no file.", "files", "Upload at least one CSV or Parquet file.")
    parts = []
    left = MAX_ROWS
    for file in files:
        part = _read_file(file, left)
        left -= len(part.times)
        parts.append(part)
    zoned = parts[0].zoned
    for part, file in zip(parts, files, strict=True):
        if part.zoned != zoned:
            raise RefusedData(
                f"Timestamps of {file.name} {'have' if part.zoned else 'lack'} a UTC offset, those of {files[0].name} "
                f"{'do not' if part.zoned else 'have one'}.",
                TIMESTAMP,
                "Write all timestamps with an offset, or all without.",
            )
    customers = {customer for part in parts for customer in part.customers}
    if len(customers) > 1:
        raise RefusedData(
            f"There are {len(customers)} customers in the files ({', '.join(sorted(customers)[:3])}, …).",
            CUSTOMER,
            "Upload one customer's rows; `python -m containers.forecast.split` splits a file by customer.",
        )
    return Readings(
        times=np.concatenate([part.times for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        zoned=zoned,
        ignored_columns=tuple(sorted({column for part in parts for column in part.ignored})),
        names=tuple(file.name for file in files),
        rows=tuple(len(part.times) for part in parts),
    )


@dataclass(frozen=True)
class _Part:
    times: NDArray[np.int64]
    values: NDArray[np.float64]
    zoned: bool
    customers: frozenset[str]
    ignored: tuple[str, ...]


def _read_file(file: Path, rows_left: int) -> _Part:
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise RefusedData(
                f"{file.name} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read.",
                file.name,
                "Upload fewer years, or Parquet.",
            )
        content = file.read_bytes()
    except OSError as error:
        raise RefusedData(
            f"{file.name} cannot be read ({error.strerror}).", file.name, "Upload the file again."
        ) from error
    if not content.strip():
        raise RefusedData(f"{file.name} is empty.", file.name, "Upload a file with a header and rows.")
    table = _parquet(file.name, content, rows_left) if content.startswith(b"PAR1") else _csv(file.name, content)
    if table.num_rows == 0:
        raise RefusedData(f"{file.name} has a header and no rows.", file.name, "Upload a file with rows.")
    if table.num_rows > rows_left:
        raise _too_many_rows(file.name)
    times, zoned = _times(file.name, table[TIMESTAMP])
    return _Part(
        times=times,
        values=_values(file.name, table[CONSUMPTION]),
        zoned=zoned,
        customers=_customers(table),
        ignored=tuple(name for name in table.column_names if name not in (TIMESTAMP, CONSUMPTION, CUSTOMER)),
    )


def _too_many_rows(name: str) -> RefusedData:
    return RefusedData(
        f"With {name} there are more than {MAX_ROWS:,} rows.", name, "Upload fewer years, or hourly sums."
    )


def _csv(name: str, content: bytes) -> "pa.Table":
    """All columns as text, blank as null: what they mean is decided column by column, with rows to point at."""
    import pyarrow as pa
    from pyarrow import csv

    try:
        header = content[:4096].splitlines()[0].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedData(f"{name} is not UTF-8 text.", name, "Save it as CSV in UTF-8, or as Parquet.") from error
    if ";" in header or "\t" in header:
        raise RefusedData(
            f"{name} does not separate its columns by commas.", name, "Save it as CSV with commas and decimal points."
        )
    columns = [column.strip().strip('"') for column in header.split(",")]
    _check_columns(name, columns)
    try:
        return csv.read_csv(
            pa.BufferReader(content),
            read_options=csv.ReadOptions(use_threads=False, column_names=columns, skip_rows=1),
            convert_options=csv.ConvertOptions(
                column_types={column: pa.string() for column in columns},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, UnicodeError) as error:
        if "Empty CSV" in str(error):
            raise RefusedData(f"{name} has a header and no rows.", name, "Upload a file with rows.") from error
        raise RefusedData(
            f"{name} is not a CSV table: {_first_sentence(error)}.", name, "Give every row as many cells as the header."
        ) from error


def _parquet(name: str, content: bytes, rows_left: int) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        columns = list(file.schema_arrow.names)
        _check_columns(name, columns)
        if file.metadata.num_rows > rows_left:
            raise _too_many_rows(name)
        wanted = [column for column in columns if column in (TIMESTAMP, CONSUMPTION, CUSTOMER)]
        table = file.read(columns=wanted, use_threads=False)
        # The empty columns keep the names of what is ignored.
        for column in columns:
            if column not in wanted:
                table = table.append_column(column, pa.nulls(table.num_rows))
        return table
    except (pa.ArrowException, OSError, UnicodeError, OverflowError) as error:
        raise RefusedData(
            f"{name} is not a readable Parquet file: {_first_sentence(error)}.", name, "Write it again, or upload CSV."
        ) from error


def _check_columns(name: str, columns: Sequence[str]) -> None:
    for column in (TIMESTAMP, CONSUMPTION):
        if column not in columns:
            shown = ", ".join(columns[:8])[:200]
            raise RefusedData(
                f"{name} has no column {column}; it has: {shown}.",
                column,
                "Name the columns timestamp and consumption (and customer_id, if you like).",
            )
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise RefusedData(f"{name} has two columns named {twice[0]!r}.", twice[0], "Keep one of them.")


def _times(name: str, column: "pa.ChunkedArray") -> tuple[NDArray[np.int64], bool]:
    """Seconds since 1970 and whether they are of UTC."""
    import pyarrow as pa
    from pyarrow import compute

    if column.null_count:
        row = _first(column.is_null())
        raise RefusedData(
            f"{name}, row {row + 1} has no timestamp.", TIMESTAMP, "Give every row a timestamp, or leave the row out."
        )
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        zoned = _casts(column.slice(0, 1), pa.timestamp("us", tz="UTC"))
        target = pa.timestamp("us", tz="UTC") if zoned else pa.timestamp("us")
        if not _casts(column, target):
            row = _first_failing(column, target)
            shown = str(column[row])[:40]
            other = pa.timestamp("us") if zoned else pa.timestamp("us", tz="UTC")
            if _casts(column.slice(row, 1), other):
                raise RefusedData(
                    f"{name}, row {row + 1}: timestamp {shown!r} {'has no' if zoned else 'has a'} UTC offset, "
                    f"unlike the rows before it.",
                    TIMESTAMP,
                    "Write all timestamps with an offset, or all without.",
                )
            raise RefusedData(
                f"{name}, row {row + 1}: {shown!r} is not a timestamp.",
                TIMESTAMP,
                "Write ISO 8601, such as 2026-03-01T13:00:00Z, or 2026-03-01 13:00 in the time zone of the parameters.",
            )
        stamps = column.cast(target)
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zoned = pa.types.is_timestamp(kind) and kind.tz is not None
        stamps = column.cast(pa.timestamp("us", tz="UTC") if zoned else pa.timestamp("us"), safe=False)
    else:
        raise RefusedData(
            f"Column timestamp of {name} is of type {kind}.", TIMESTAMP, "Store it as a timestamp or as ISO 8601 text."
        )
    seconds: NDArray[np.int64] = compute.cast(stamps, pa.int64()).to_numpy() // 1_000_000
    return seconds, zoned


def _values(name: str, column: "pa.ChunkedArray") -> NDArray[np.float64]:
    import pyarrow as pa

    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if not text and not numeric:
        raise RefusedData(f"Column consumption of {name} is of type {kind}.", CONSUMPTION, "Store it as numbers, kWh.")
    if text and not _casts(column, pa.float64()):
        row = _first_failing(column, pa.float64())
        raise RefusedData(
            f"{name}, row {row + 1}: consumption {str(column[row])[:40]!r} is not a number.",
            CONSUMPTION,
            "Write kWh as a number with a decimal point, and leave the cell blank where a reading is missing.",
        )
    numbers = column.cast(pa.float64(), safe=False)
    values: NDArray[np.float64] = numbers.to_numpy(zero_copy_only=False).astype(np.float64)
    bad = ~np.isfinite(values) & ~column.is_null().to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise RefusedData(
            f"{name}, row {row + 1}: consumption {values[row]} is not a finite number.",
            CONSUMPTION,
            "Leave the cell blank where a reading is missing.",
        )
    return values


def _customers(table: "pa.Table") -> frozenset[str]:
    if CUSTOMER not in table.column_names:
        return frozenset()
    return frozenset(str(value) for value in table[CUSTOMER].unique().to_pylist() if value is not None)


def _casts(column: "pa.ChunkedArray", target: Any) -> bool:
    import pyarrow as pa

    try:
        column.cast(target)
    except pa.ArrowException:
        return False
    return True


def _first(mask: "pa.ChunkedArray") -> int:
    return int(np.argmax(mask.to_numpy()))


def _first_failing(column: "pa.ChunkedArray", target: Any) -> int:
    """The row at which a cast first fails, by halving."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        if _casts(column.slice(low, middle - low), target):
            low = middle
        else:
            high = middle
    return low


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split(". ")[0].split())[:160].rstrip(".")

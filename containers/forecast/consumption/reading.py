"""Reads a customer's consumption files, CSV or Parquet from any source, into arrays.

Nothing in a file is trusted: size, rows, cells and expanded size are bounded. A refusal names file,
row and column, but quotes no cell.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from containers.forecast.consumption.columns import CONSUMPTION, CUSTOMER, MAX_ROWS, Columns
from containers.forecast.consumption.csv_file import read_csv
from containers.forecast.consumption.parquet_file import read_parquet
from containers.forecast.consumption.timestamps import TIMESTAMP, Stamps, read_stamps
from contracts.refused_data import RefusedDataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CONSUMPTION", "CUSTOMER", "MAX_FILE_BYTES", "TIMESTAMP", "Readings", "read_files"]

MAX_FILE_BYTES: Final = 32 << 20
"""Largest file read, in bytes: ten years of quarter-hours take about 14 MB as CSV."""

_PACKED: Final = "Unpack it, and upload the CSV or Parquet file that is in it."
_EXPORT: Final = "Open it, and save the table as CSV in UTF-8."
CONTENT: Final[Sequence[tuple[bytes, str, str, str]]] = (
    (b"\x1f\x8b", "is gzip", _PACKED, "file_compressed"),
    (b"BZh", "is bzip2", _PACKED, "file_compressed"),
    (b"\xfd7zXZ\0", "is xz", _PACKED, "file_compressed"),
    (b"(\xb5/\xfd", "is zstd", _PACKED, "file_compressed"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive", _PACKED, "file_compressed"),
    (b"Rar!", "is a RAR archive", _PACKED, "file_compressed"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel file (.xls)", _EXPORT, "file_spreadsheet"),
    (b"%PDF", "is a PDF", "Export the table as CSV in UTF-8.", "file_document"),
    (b"{\\rtf", "is a text document (RTF)", "Export the table as CSV in UTF-8.", "file_document"),
    (b"PARE", "is an encrypted Parquet file", "Write it without encryption.", "file_encrypted"),
    (
        b"SQLite format 3",
        "is an SQLite database",
        "Export the table as CSV in UTF-8.",
        "file_other_table",
    ),
    (b"ARROW1", "is an Arrow (Feather) file", "Write it as Parquet.", "file_other_table"),
    (b"ORC", "is an ORC file", "Write it as Parquet.", "file_other_table"),
    (b"Obj\x01", "is an Avro file", "Write it as Parquet.", "file_other_table"),
    (b"\x89PNG", "is a picture (PNG)", "Export the table as CSV in UTF-8.", "file_document"),
    (b"\xff\xd8\xff", "is a picture (JPEG)", "Export the table as CSV in UTF-8.", "file_document"),
)
"""File types by their first bytes, with the cure for each."""

_MARKUP: Final[Sequence[tuple[bytes, str]]] = (
    (rb"<(!doctype\s+html|html|head|body|table)\b", "is a web page (HTML)"),
    (rb"<(\?xml|[a-z][\w:.-]*[\s>/])", "is XML"),
    (rb"[\[{]\s*[\[{\"\]}]", "is JSON"),
)

_AROUND: Final = r"[\s\x{a0}\x{2000}-\x{200b}\x{202f}\x{2060}\x{feff}\"]*"
"""Blanks of all kinds around a number, and quotes after a blank, in the syntax of Arrow's RE2."""

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
    if not files:
        raise RefusedDataError(
            "There is no file.", "files", "Upload at least one CSV or Parquet file.", code="no_file"
        )
    stamps: list[Stamps] = []
    values = []
    customers: set[str] = set()
    ignored = 0
    left = MAX_ROWS
    for file in files:
        columns = _columns(file, left)
        left -= columns.rows
        ignored += columns.ignored
        stamps.append(read_stamps(file.name, columns.found[TIMESTAMP]))
        values.append(_values(file.name, columns.found[CONSUMPTION]))
        if CUSTOMER in columns.found:
            customers |= _customers(columns.found[CUSTOMER])
        if stamps[-1].zoned != stamps[0].zoned:
            raise RefusedDataError(
                f"Timestamps of {file.name} {'have' if stamps[-1].zoned else 'lack'} a UTC offset, "
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


def _columns(file: Path, rows_left: int) -> Columns:
    name = file.name
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise RefusedDataError(
                f"{name} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read.",
                name,
                "Upload fewer years, or Parquet.",
                code="file_too_large",
            )
        content = file.read_bytes()
    except OSError as error:
        raise RefusedDataError(
            f"{name} cannot be read ({error.strerror}).",
            name,
            "Upload the file again.",
            code="file_unreadable",
        ) from error
    if not content.strip():
        raise RefusedDataError(
            f"{name} is empty.", name, "Upload a file with a header and rows.", code="file_empty"
        )
    if content.startswith(b"PAR1"):
        return read_parquet(name, content, rows_left)
    _check_content(name, content)
    return read_csv(name, content, rows_left)


def _check_content(name: str, content: bytes) -> None:
    """Refuse a file whose content is neither CSV nor Parquet, and name its type; its name does not
    matter."""
    if content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        inside = content[:4096] + content[-4096:]
        if b"xl/" in inside:
            raise RefusedDataError(
                f"{name} is an Excel file (.xlsx).", name, _EXPORT, code="file_spreadsheet"
            )
        if b"opendocument" in inside:
            raise RefusedDataError(
                f"{name} is an OpenDocument file.", name, _EXPORT, code="file_spreadsheet"
            )
        raise RefusedDataError(f"{name} is a ZIP archive.", name, _PACKED, code="file_compressed")
    for mark, kind, cure, code in CONTENT:
        if content.startswith(mark):
            raise RefusedDataError(f"{name} {kind}.", name, cure, code=code)
    begin = content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, kind in _MARKUP:
        if re.match(pattern, begin, re.IGNORECASE):
            raise RefusedDataError(
                f"{name} {kind}.", name, "Export the table as CSV in UTF-8.", code="file_document"
            )


def _values(name: str, column: "pa.ChunkedArray") -> NDArray[np.float64]:
    import pyarrow as pa
    from pyarrow import compute

    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_string(kind):
        if not _casts(column, pa.float64()):
            column = compute.replace_substring_regex(column, f"^{_AROUND}\\+?|{_AROUND}$", "")
            column = compute.if_else(
                compute.equal(column, ""), pa.scalar(None, pa.string()), column
            )
        if not _casts(column, pa.float64()):
            raise RefusedDataError(
                f"{name}, row {_first_failing(column, pa.float64()) + 1}: the consumption is not a "
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


def _casts(column: "pa.ChunkedArray", target: Any) -> bool:
    import pyarrow as pa

    try:
        column.cast(target)
    except pa.ArrowException:
        return False
    return True


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

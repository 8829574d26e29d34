"""Consumption from CSV: text of any usual encoding, read block by block, and only our columns."""

import csv as rows_of_text
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from containers.runtime.tables.columns import Columns, Wanted, chosen, dense, no_rows, too_many_rows
from contracts.refused_data import RefusedDataError

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_BYTES: Final = 1 << 20
_LONGEST_HEADER: Final = 1 << 16
_AS_CSV: Final = "Save it as CSV in UTF-8, with commas between columns and decimal points."

_UTF8_MARK: Final = b"\xef\xbb\xbf"
_MARKS: Final = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def read_csv(name: str, content: bytes, rows_left: int, wanted: Wanted) -> Columns:
    """Our columns of the CSV file `name` as text, blank cells as null. Callers interpret the text.

    Raises `RefusedDataError`.
    """
    import pyarrow as pa

    text = _utf8(name, content)
    header, text = _header(name, text, wanted)
    places = chosen(name, header, wanted)
    parts: dict[str, list[pa.Array]] = {ours: [] for ours in places}
    count = 0
    for batch in _batches(name, text, len(header), list(places.values())):
        if count + len(batch) > rows_left:
            raise too_many_rows(name, wanted)
        for ours, place in places.items():
            parts[ours].append(dense(name, ours, batch.column(str(place)), count, wanted))
        count += len(batch)
    if not count:
        raise no_rows(name)
    return Columns(
        {ours: pa.chunked_array(part, pa.string()) for ours, part in parts.items()},
        len(header) - len(places),
    )


def _utf8(name: str, content: bytes) -> bytes:
    """The text as UTF-8. Text without a byte order mark that is not valid UTF-8 is read as Latin-1,
    in which dates and numbers are the same."""
    if content.startswith(_UTF8_MARK):
        content = content.removeprefix(_UTF8_MARK)
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:4]:
        # The header has ASCII letters, and in UTF-16 every other byte of those is zero.
        encoding = "utf-16-be" if content[0] == 0 else "utf-16-le"
    try:
        if encoding is not None:
            return content.decode(encoding).encode()
        if b"\0" in content[:_LONGEST_HEADER]:
            raise _no_text(name)
        if not content.isascii():
            content.decode()
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise _no_text(name) from error
        return content.decode("latin-1").encode()
    except UnicodeEncodeError as error:
        raise _no_text(name) from error
    return content


def _no_text(name: str) -> RefusedDataError:
    return RefusedDataError(
        f"{name} is not text.", name, f"{_AS_CSV[:-1]}, or as Parquet.", code="file_not_text"
    )


def _header(name: str, text: bytes, wanted: Wanted) -> tuple[list[str], bytes]:
    """The cells of the first row, and the rows after it."""
    begin = re.match(rb"(?:[ \t]*\r?\n|[ \t]*\r)*(?:sep=,[ \t]*(?:\r\n|\r|\n))?", text)
    start = begin.end() if begin else 0
    line = text[start : start + _LONGEST_HEADER].splitlines()[:1]
    if not line or len(line[0]) == _LONGEST_HEADER:
        raise RefusedDataError(
            f"The first row of {name} names no columns.", name, wanted.naming, code="column_missing"
        )
    said = line[0].decode(errors="replace")
    if "," not in said and (";" in said or "\t" in said):
        raise RefusedDataError(
            f"{name} does not separate its columns by commas.",
            name,
            "Save it as CSV with commas and decimal points.",
            code="separator_not_comma",
        )
    try:
        header = next(rows_of_text.reader([said], skipinitialspace=True), [])
    except rows_of_text.Error:
        header = said.split(",")
    rest = start + len(line[0])
    return header, text[rest:].lstrip(b"\r\n")


def _batches(name: str, text: bytes, columns: int, wanted: list[int]) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa
    from pyarrow import csv

    if not text.strip():
        raise no_rows(name)
    torn: list[Any] = []

    def note(row: Any) -> str:
        torn.append(row)
        return "error"

    try:
        yield from csv.open_csv(
            pa.BufferReader(text),
            read_options=csv.ReadOptions(
                use_threads=False,
                column_names=[str(place) for place in range(columns)],
                block_size=_BLOCK_BYTES,
            ),
            parse_options=csv.ParseOptions(
                newlines_in_values=b'"' in text, invalid_row_handler=note
            ),
            convert_options=csv.ConvertOptions(
                include_columns=[str(place) for place in sorted(wanted)],
                column_types={str(place): pa.string() for place in wanted},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, UnicodeError) as error:
        if torn:
            row = torn[0]
            where = f"row {row.number}" if row.number else "a row"
            raise RefusedDataError(
                f"{name}: {where} has {row.actual_columns} cells; the header has "
                f"{row.expected_columns}.",
                name,
                "Give every row as many cells as the header.",
                code="row_torn",
            ) from error
        raise RefusedDataError(
            f"{name} is not a CSV table.", name, _AS_CSV, code="csv_unreadable"
        ) from error

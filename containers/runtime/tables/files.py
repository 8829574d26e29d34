"""Reads one uploaded file, and refuses what is neither CSV nor Parquet by what it is.

Nothing in a file is trusted: size, rows, cells and expanded size are bounded. A refusal names file,
row and column, but quotes no cell.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from containers.runtime.tables.columns import Columns, Wanted
from containers.runtime.tables.csv_file import read_csv
from containers.runtime.tables.parquet_file import read_parquet
from contracts.refused_data import RefusedDataError

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


def read_tables(files: Sequence[Path], wanted: Wanted) -> Iterator[tuple[str, Columns]]:
    """The name of each file, and its wanted columns. A file is CSV or Parquet, whatever its name;
    the columns of CSV are text.

    Raises `RefusedDataError`.
    """
    if not files:
        raise RefusedDataError(
            "There is no file.", "files", "Upload at least one CSV or Parquet file.", code="no_file"
        )
    left = wanted.max_rows
    for file in files:
        columns = _read_table(file, left, wanted)
        left -= columns.rows
        yield file.name, columns


def _read_table(file: Path, rows_left: int, wanted: Wanted) -> Columns:
    name = file.name
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise RefusedDataError(
                f"{name} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read.",
                name,
                wanted.smaller,
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
        return read_parquet(name, content, rows_left, wanted)
    _check_content(name, content)
    return read_csv(name, content, rows_left, wanted)


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

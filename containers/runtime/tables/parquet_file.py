"""Columns from Parquet. The expanded size of a file is computed and bounded before anything is
expanded."""

from collections.abc import Iterator
from typing import Any, Final

from containers.runtime.tables.columns import Columns, Wanted, chosen, dense, no_rows, too_many_rows
from containers.runtime.tables.parquet_pages import MalformedPagesError, Page, pages, schema_depth
from contracts.refused_data import RefusedDataError

MAX_EXPANDED_BYTES: Final = 96 << 20
"""Most bytes that the pages of our columns may expand to: 400,000 rows of 240 bytes each."""

MAX_FOOTER_BYTES: Final = 4 << 20
"""Largest footer, in bytes: some ten thousand descriptions of column chunks. An honest file has a
few hundred."""

MAX_CHUNKS: Final = 20_000
"""Most row groups times columns."""

MAX_DEPTH: Final = 32
"""Deepest nesting of a schema; other columns may hold lists and structures."""

MAX_PAGES: Final = 100_000
"""Most pages of our columns, which makes four rows a page; an honest page has thousands."""

_BATCH_ROWS: Final = 1 << 16
_LONGEST_FIXED: Final = 32
"""Bytes of the widest decimal."""

_PLAIN, _PLAIN_DICTIONARY, _DELTA_LENGTH, _RLE_DICTIONARY = 0, 2, 6, 8


def read_parquet(name: str, content: bytes, rows_left: int, wanted: Wanted) -> Columns:
    """Our columns of the Parquet file `name`, dense. Raises `RefusedDataError`."""
    import pyarrow as pa
    from pyarrow import parquet

    length = int.from_bytes(content[-8:-4], "little")
    if not content.endswith(b"PAR1") or length > MAX_FOOTER_BYTES:
        raise _unreadable(name)
    try:
        if schema_depth(content[-8 - length : -8], MAX_CHUNKS) > MAX_DEPTH:
            raise _nested(name, "The schema", None, wanted)
        options = {
            "pre_buffer": False,
            "arrow_extensions_enabled": False,
            "thrift_string_size_limit": MAX_FOOTER_BYTES,
            "thrift_container_size_limit": MAX_CHUNKS,
        }
        file = parquet.ParquetFile(pa.BufferReader(content), **options)
        header = list(file.schema_arrow.names)
        places = chosen(name, header, wanted)
        if file.metadata.num_rows > rows_left:
            raise too_many_rows(name, wanted)
        if file.metadata.num_row_groups * file.metadata.num_columns > MAX_CHUNKS:
            raise RefusedDataError(
                f"{name} has {file.metadata.num_row_groups:,} row groups of "
                f"{file.metadata.num_columns:,} columns.",
                name,
                "Write the file with one row group.",
                code="too_many_row_groups",
            )
        found = {ours: header[place] for ours, place in places.items()}
        in_dictionaries = _checked(name, content, file, found, wanted)
        file = parquet.ParquetFile(
            pa.BufferReader(content), read_dictionary=in_dictionaries, **options
        )
        parts: dict[str, list[pa.Array]] = {ours: [] for ours in found}
        count = 0
        for batch in file.iter_batches(
            batch_size=_BATCH_ROWS, columns=list(found.values()), use_threads=False
        ):
            if count + len(batch) > rows_left:
                raise too_many_rows(name, wanted)
            for ours, column in found.items():
                parts[ours].append(dense(name, ours, batch.column(column), count, wanted))
            count += len(batch)
        if not count:
            raise no_rows(name)
        return Columns(
            {ours: pa.chunked_array(part) for ours, part in parts.items()}, len(header) - len(found)
        )
    except (pa.ArrowException, OSError, UnicodeError, OverflowError, MalformedPagesError) as error:
        raise _unreadable(name) from error


def _unreadable(name: str) -> RefusedDataError:
    return RefusedDataError(
        f"{name} is not a readable Parquet file.",
        name,
        "Write it again, or upload CSV.",
        code="parquet_unreadable",
    )


def _nested(name: str, what: str, field: str | None, wanted: Wanted) -> RefusedDataError:
    return RefusedDataError(
        f"{what} of {name} holds more than one value to a row.",
        field or name,
        wanted.one_cell,
        code="column_nested",
    )


def _checked(
    name: str, content: bytes, file: Any, found: dict[str, str], wanted: Wanted
) -> list[str]:
    """Bound the expanded size of our columns. Returns the text columns, which are read as
    dictionaries. Raises `RefusedDataError`."""
    import pyarrow as pa

    leaves = {file.schema.column(place).path: place for place in range(len(file.schema))}
    expanded = count = 0
    in_dictionaries = []
    for ours, column in found.items():
        place = leaves.get(column)
        leaf = None if place is None else file.schema.column(place)
        kind = file.schema_arrow.field(column).type
        if (
            leaf is None
            or leaf.max_repetition_level
            or leaf.max_definition_level > 1
            or pa.types.is_nested(kind)
        ):
            raise _nested(name, f"Column {ours}", ours, wanted)
        encodings, dictionaries = set(), False
        for page in _pages(content, file, place):
            expanded += page.size
            count += 1
            if expanded > MAX_EXPANDED_BYTES or count > MAX_PAGES:
                raise RefusedDataError(
                    f"{name} expands to more than {MAX_EXPANDED_BYTES >> 20} MB or {MAX_PAGES:,} "
                    f"pages.",
                    name,
                    wanted.smaller,
                    code="expands_too_far",
                )
            encodings.add(page.encoding)
            dictionaries |= page.dictionary
        if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" and leaf.length > _LONGEST_FIXED:
            raise _encoding(name, ours)
        if leaf.physical_type != "BYTE_ARRAY":
            continue
        # With delta-encoded strings, a short page may expand to many strings as long as the first.
        if encodings - {_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY, _DELTA_LENGTH}:
            raise _encoding(name, ours)
        if _DELTA_LENGTH in encodings:
            if dictionaries:
                raise _encoding(name, ours)
        elif not pa.types.is_decimal(kind):
            in_dictionaries.append(column)
        elif dictionaries:
            raise _encoding(name, ours)
    return in_dictionaries


def _pages(content: bytes, file: Any, place: int | None) -> Iterator[Page]:
    """The pages of a column in all row groups."""
    for group in range(file.metadata.num_row_groups):
        chunk = file.metadata.row_group(group).column(place)
        start = chunk.data_page_offset
        if chunk.dictionary_page_offset and 0 < chunk.dictionary_page_offset < start:
            start = chunk.dictionary_page_offset
        if start < 0 or chunk.total_compressed_size < 0:
            raise MalformedPagesError("a column lies outside of the file")
        yield from pages(content, start, chunk.total_compressed_size, chunk.num_values)


def _encoding(name: str, ours: str) -> RefusedDataError:
    return RefusedDataError(
        f"Column {ours} of {name} is stored in an encoding that is not read.",
        ours,
        "Write it with dictionaries or plain, as pandas and Arrow do, or upload CSV.",
        code="parquet_encoding",
    )

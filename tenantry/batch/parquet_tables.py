"""The rows of answers as Parquet. Nobody but the orchestrator writes the files that this module
reads."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from tenantry.shown.table_columns import ColumnType, column_names, type_of
from tenantry.shown.tabulated import PICTURE, tabulated

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class AnswerRows:
    """The rows of one answer: each column's type and its array; columns without any value are left
    out."""

    count: int
    types: Mapping[str, ColumnType]
    arrays: Mapping[str, pa.Array]


def rows_of_answer(content: bytes) -> AnswerRows:
    """The rows of an answer, which is JSON in lines. Pictures are left out.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is JSON of too many levels.
    """
    table = tabulated([json.loads(line) for line in content.splitlines() if line.strip()])
    types, arrays = dict[str, ColumnType](), {}
    names = iter(column_names([name for name in table.columns if name != PICTURE]))
    for place, said in enumerate(table.columns):
        if said == PICTURE:
            continue
        name, cells = next(names), [row[place] for row in table.rows]
        if (kind := type_of(cells)) is not None:
            types[name], arrays[name] = kind, _array(cells, kind)
    return AnswerRows(len(table.rows), types, arrays)


def in_columns_of(
    rows: AnswerRows, columns: Mapping[str, ColumnType]
) -> tuple[dict[str, pa.Array], int]:
    """An answer's arrays with the types that a table's columns have, and how many values have
    become empty, because they are not of their column's type. Text is any value's type.

    A column that somebody gave another type in Glue gets no values.
    """
    import pyarrow as pa

    found, emptied = dict[str, pa.Array](), 0
    for name, array in rows.arrays.items():
        kind = columns.get(name)
        if kind is None:  # the table takes no further column
            continue
        if kind == rows.types[name]:
            found[name] = array
        elif kind == "string":
            found[name] = _array(array.to_pylist(), kind)
        else:
            emptied += len(array) - array.null_count
            if kind in get_args(ColumnType):
                found[name] = pa.nulls(len(array), _arrow(kind))
    return found, emptied


def parquet_of(parts: Iterable[tuple[Mapping[str, str], int, Mapping[str, pa.Array]]]) -> bytes:
    """A Parquet file of answers' rows: for each answer the text that all its rows have, by column,
    their number, and its own columns."""
    import pyarrow as pa

    tables = []
    for same, count, arrays in parts:
        texts = {name: pa.array([text] * count, pa.string()) for name, text in same.items()}
        tables.append(pa.table({**texts, **arrays}))
    return _bytes(pa.concat_tables(tables, promote_options="default"))


def texts_in(content: bytes, column: str) -> set[str]:
    """The different values of a column of text. Raises ``KeyError`` where there is no such
    column, and ``ValueError`` where the content is no Parquet file."""
    return set(_read(content, [column])[column].to_pylist())


def without_rows(content: bytes, column: str, texts: Iterable[str]) -> bytes:
    """A Parquet file without the rows whose column has one of some values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _read(content, None)
    gone = pc.is_in(table[column], value_set=pa.array(sorted(texts)))
    return _bytes(table.filter(pc.invert(gone)))


def _read(content: bytes, columns: list[str] | None) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(content), columns=columns)


def _bytes(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _array(cells: Sequence[Any], kind: ColumnType) -> pa.Array:
    import pyarrow as pa

    if kind == "double":
        cells = [None if cell is None else float(cell) for cell in cells]
    if kind == "string":
        cells = [_text(cell) for cell in cells]
    return pa.array(cells, _arrow(kind))


def _text(cell: object) -> str | None:
    if cell is None:
        return None
    text = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
    return text.encode(errors="replace").decode()  # JSON may hold half of a surrogate pair


def _arrow(kind: ColumnType) -> pa.DataType:
    import pyarrow as pa

    types = {"double": pa.float64(), "boolean": pa.bool_(), "string": pa.string()}
    return types[kind]

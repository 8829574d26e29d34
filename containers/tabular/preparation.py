"""Turns a tenant's files into one table of rows, which training, drift and batches read.

It repairs these faults, and counts them:

- cells with blanks or quotes around them are trimmed, and categories and flags may be in capitals
  (`mended_cells`);
- a category that the column does not declare becomes `other` (`other_categories`);
- a number outside its column's range becomes missing, up to 1 % of the column (`out_of_range`);
- rows that repeat another row are left out (`repeated_rows`);
- of rows that tell a customer's month differently, the last counts, up to 1 % of the rows
  (`replaced_rows`).

Missing cells stay missing, because trees learn from them too. A row whose target is blank is of a
customer who may yet leave: it is kept for scores, and not learned from. It refuses any other fault
with a reason, the column, and a cure.

`scored.json` has the customers whose target is not known, with their newest month: a request's
`rows`. There is none where nobody, or more than a request takes, would be scored.

`rows.parquet` has the columns id, period (the month's first day), `split`, each feature, and the
target. `split` is a hash of the id, which training holds customers out by. Rows are in order of
period and id, and the same rows give the same bytes.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from containers.runtime.tables.columns import AROUND, Columns, Wanted, casts, first_failing
from containers.runtime.tables.files import read_tables
from containers.tabular.table import OTHER, TABLE, Column, category_of
from contracts.refused_data import RefusedDataError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_FILE: Final = "rows.parquet"
SCORED_FILE: Final = "scored.json"
MOST_SCORED: Final = 10_000
"""Customers in `scored.json`: as many as the rows of a request."""
SPLIT: Final = "split"
PRELOADED: Final = ("pyarrow.csv", "pyarrow.parquet", "pyarrow.compute")

ROW_GROUP_ROWS: Final = 1 << 16
"""Most rows of a row group, so that a reader holds one at a time."""
TOLERATED_SHARE: Final = 0.01
"""Of a column's cells that may be out of range, and of the rows that others may contradict."""
TOLERATED_CELLS: Final = 3
"""As many are always tolerated: a share of a short file would be none."""
EARLIEST: Final = date(1990, 1, 1)

_REQUIRED: Final = (
    TABLE.id,
    TABLE.period,
    TABLE.target,
    *(column.name for column in TABLE.features if not column.optional),
)
_OPTIONAL: Final = tuple(column.name for column in TABLE.features if column.optional)

WANTED: Final = Wanted(
    required=_REQUIRED,
    optional=_OPTIONAL,
    max_rows=500_000,
    naming=f"Name the columns {', '.join(_REQUIRED)} (and {', '.join(_OPTIONAL)}, if you like) in "
    f"the first row.",
    fewer_columns="Upload the columns that the workload names.",
    fewer_rows="Upload fewer months.",
    smaller="Upload fewer months, or Parquet.",
    one_cell="Write one value to a cell.",
)

_BLANK: Final = ("", "na", "n/a", "nan", "null", "none", "-")
_FLAGS: Final = {
    text: flag
    for flag, texts in ((True, "true yes y t 1 1.0"), (False, "false no n f 0 0.0"))
    for text in texts.split()
}
_MONTH: Final = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2})(?:[T ][0-9:.]+Z?)?)?", re.ASCII)


def prepare(
    files: Sequence[Path],
    destination: Path,
    parameters: Mapping[str, Any],  # noqa: ARG001 - the table has none
) -> dict[str, Any]:
    """Write `rows.parquet` from CSV or Parquet files of one tenant.

    `rows` counts the rows whose target is known. Raises `RefusedDataError`.
    """
    import pyarrow as pa

    repairs: Counter[str] = Counter()
    parts = [_table(name, columns, repairs) for name, columns in read_tables(files, WANTED)]
    table = _without_repeated(pa.concat_tables(parts), repairs)
    return _written(table, destination, repairs)


def extend(
    prepared: Path,
    files: Sequence[Path],
    destination: Path,
    parameters: Mapping[str, Any],  # noqa: ARG001 - the table has none
) -> dict[str, Any]:
    """Write what `prepare` writes, of rows that were prepared before and of newer files.

    A customer's month that the files tell again is as they tell it: by then it is known whether
    the customer left. Raises `RefusedDataError`, as for files that tell nothing new.
    """
    import pyarrow as pa
    from pyarrow import compute, parquet

    repairs: Counter[str] = Counter()
    parts = [_table(name, columns, repairs) for name, columns in read_tables(files, WANTED)]
    newer = _without_repeated(pa.concat_tables(parts), repairs)
    before = parquet.read_table(prepared / ROWS_FILE, use_threads=False).cast(newer.schema)
    told_again = compute.is_in(_month_of(before), value_set=_month_of(newer).combine_chunks())
    kept = before.filter(compute.invert(told_again))
    table = _without_repeated(pa.concat_tables([kept, newer]), Counter())
    if _fingerprint(table) == _fingerprint(_without_repeated(before, Counter())):
        raise RefusedDataError(
            "The files tell nothing that is not known already.",
            TABLE.period,
            "Upload newer months.",
            code="nothing_new",
        )
    return _written(table, destination, repairs)


def _month_of(table: "pa.Table") -> "pa.ChunkedArray":
    """What tells a customer's month from every other."""
    import pyarrow as pa
    from pyarrow import compute

    month = table[TABLE.period].cast(pa.string())
    return compute.binary_join_element_wise(table[TABLE.id], month, "\x1f")


def _written(table: "pa.Table", destination: Path, repairs: Counter[str]) -> dict[str, Any]:
    """Write the prepared files, and tell of them."""
    from pyarrow import parquet

    out = destination / ROWS_FILE
    parquet.write_table(table, out, row_group_size=ROW_GROUP_ROWS, compression="zstd")
    scored = _to_score(table)
    if 0 < len(scored) <= MOST_SCORED:
        content = json.dumps(_as_request(scored), separators=(",", ":"))
        (destination / SCORED_FILE).write_text(content)
    known = table[TABLE.target].drop_null().to_numpy()
    periods = table[TABLE.period]
    return {
        "rows": len(known),
        "repairs": dict(sorted(repairs.items())),
        "facts": {
            "customers": len(table[TABLE.id].unique()),
            "first": str(periods[0]),
            "last": str(periods[-1]),
            "target_unknown": len(table) - len(known),
            "to_score": len(scored),
            "target_share": round(float(known.mean()), 4) if len(known) else None,
        },
        "fingerprint": _fingerprint(table),
    }


def _to_score(table: "pa.Table") -> "pa.Table":
    """The newest row of each customer, where its target is unknown."""
    from pyarrow import compute

    codes = table[TABLE.id].combine_chunks().dictionary_encode().indices.to_numpy()
    last = np.zeros(codes.max(initial=-1) + 1, np.int64)
    last[codes] = np.arange(len(codes))  # rows are in order of their periods
    newest = table.take(np.sort(last))
    return newest.filter(compute.is_null(newest[TABLE.target]))


def _as_request(table: "pa.Table") -> list[dict[str, Any]]:
    """Rows as a request has them, by id."""
    names = [column.name for column in TABLE.features]
    return [
        {"id": row[TABLE.id], **{name: row[name] for name in names}}
        for row in sorted(table.to_pylist(), key=lambda row: str(row[TABLE.id]))
    ]


def rows_schema() -> "pa.Schema":
    """The columns of `rows.parquet`, with their types."""
    import pyarrow as pa

    types = {
        "numeric": pa.float32(),
        "category": pa.dictionary(pa.int32(), pa.string()),
        "flag": pa.bool_(),
    }
    return pa.schema(
        [
            (TABLE.id, pa.string()),
            (TABLE.period, pa.date32()),
            (SPLIT, pa.uint64()),
            *((column.name, types[column.kind]) for column in TABLE.features),
            (TABLE.target, pa.bool_()),
        ]
    )


def _table(name: str, columns: Columns, repairs: Counter[str]) -> "pa.Table":
    """The typed columns of one file."""
    import pyarrow as pa

    found = {}
    for field in rows_schema():
        if field.name == SPLIT:
            continue
        cells = columns.found.get(field.name)
        if cells is None:
            found[field.name] = pa.nulls(columns.rows, field.type)
        else:
            found[field.name] = _typed(name, field.name, cells, repairs)
    found[SPLIT] = _splits(found[TABLE.id])
    return pa.table([found[field.name] for field in rows_schema()], rows_schema())


def _typed(
    name: str, column: str, cells: "pa.ChunkedArray", repairs: Counter[str]
) -> "pa.ChunkedArray":
    if column == TABLE.id:
        return _ids(name, cells, repairs)
    if column == TABLE.period:
        return _periods(name, cells, repairs)
    if column == TABLE.target:
        return _flags(name, column, cells, repairs)
    (feature,) = (one for one in TABLE.features if one.name == column)
    if feature.kind == "numeric":
        return _numbers(name, feature, cells, repairs)
    if feature.kind == "flag":
        return _flags(name, column, cells, repairs)
    return _categories(name, feature, cells, repairs)


def _text(
    name: str, column: str, cells: "pa.ChunkedArray", repairs: Counter[str]
) -> "pa.ChunkedArray":
    """A column's cells as trimmed text, null where blank."""
    import pyarrow as pa
    from pyarrow import compute

    if not _holds_values(cells.type):
        raise _column_type(name, column)
    text = cells.cast(pa.string())
    if not pa.types.is_string(cells.type):
        return compute.if_else(_blank(text), pa.scalar(None, pa.string()), text)
    trimmed = compute.replace_substring_regex(text, f"^{AROUND}|{AROUND}$", "")
    _count(repairs, "mended_cells", compute.sum(compute.not_equal(text, trimmed)).as_py())
    # An id may be any text.
    blank = compute.equal(trimmed, "") if column == TABLE.id else _blank(trimmed)
    return compute.if_else(blank, pa.scalar(None, pa.string()), trimmed)


def _holds_values(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return any(
        check(kind)
        for check in (
            types.is_string,
            types.is_boolean,
            types.is_integer,
            types.is_floating,
            types.is_decimal,
            types.is_date,
            types.is_null,
        )
    )


def _blank(text: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa
    from pyarrow import compute

    return compute.is_in(compute.utf8_lower(text), pa.array(_BLANK))


def _count(repairs: Counter[str], repair: str, number: int | None) -> None:
    if number:
        repairs[repair] += number


def _column_type(name: str, column: str) -> RefusedDataError:
    return RefusedDataError(
        f"Column {column} of {name} is of a type that is not read.",
        column,
        "Store text, numbers, dates, or true and false.",
        code="column_type",
    )


def _where(name: str, faulty: "pa.ChunkedArray") -> str:
    """File and first faulty row, in words; row 1 is the first after the header."""
    return f"{name}, row {int(np.argmax(faulty.to_numpy())) + 1}"


def _ids(name: str, cells: "pa.ChunkedArray", repairs: Counter[str]) -> "pa.ChunkedArray":
    text = _text(name, TABLE.id, cells, repairs)
    if text.null_count:
        raise RefusedDataError(
            f"{_where(name, text.is_null())}: the row names no customer.",
            TABLE.id,
            "Give every row the customer's id, which may be a pseudonym.",
            code="id_missing",
        )
    return text


def _periods(name: str, cells: "pa.ChunkedArray", repairs: Counter[str]) -> "pa.ChunkedArray":
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_timestamp(cells.type):
        # The date on the clock that the file was written by.
        local = compute.local_timestamp(cells) if cells.type.tz else cells
        cells = local.cast(pa.date32())
    text = _text(name, TABLE.period, cells, repairs)
    months = _mapped(text, _month, pa.date32())
    if months.null_count:
        raise RefusedDataError(
            f"{_where(name, months.is_null())}: the period is not a month from "
            f"{EARLIEST.year} until now.",
            TABLE.period,
            "Write the month as 2026-03, or as a date in it such as 2026-03-31.",
            code="period_unreadable",
        )
    return months


def _month(text: str) -> date | None:
    """The first day of a month; None for what names no month."""
    found = _MONTH.fullmatch(text)
    try:
        day = date(int(found[1]), int(found[2]), int(found[3] or 1)) if found else None
    except ValueError:
        return None
    if day is None or not EARLIEST <= day <= datetime.now(UTC).date() + timedelta(days=31):
        return None
    return day.replace(day=1)


def _flags(
    name: str, column: str, cells: "pa.ChunkedArray", repairs: Counter[str]
) -> "pa.ChunkedArray":
    import pyarrow as pa
    from pyarrow import compute

    text = _text(name, column, cells, repairs)
    flags = _mapped(text, lambda cell: _FLAGS.get(cell.lower()), pa.bool_())
    faulty = compute.and_(flags.is_null(), text.is_valid())
    if compute.any(faulty).as_py():
        raise RefusedDataError(
            f"{_where(name, faulty)}: {column} is neither true nor false.",
            column,
            "Write true or false, yes or no, or 1 or 0, and leave blank what is not known.",
            code="flag_unreadable",
        )
    return flags


def _categories(
    name: str, column: Column, cells: "pa.ChunkedArray", repairs: Counter[str]
) -> "pa.ChunkedArray":
    import pyarrow as pa
    from pyarrow import compute

    text = _text(name, column.name, cells, repairs)
    usual = _mapped(text, category_of, pa.string())
    _count(repairs, "mended_cells", compute.sum(compute.not_equal(text, usual)).as_py())
    codes = _mapped(usual, lambda cell: column.codes.get(cell, -1), pa.int32())
    other = column.codes[OTHER]
    unknown = compute.equal(codes, -1)
    _count(repairs, "other_categories", compute.sum(unknown).as_py())
    codes = compute.if_else(unknown, pa.scalar(other, pa.int32()), codes)
    names = pa.array(list(column.codes))
    return pa.chunked_array(
        [pa.DictionaryArray.from_arrays(chunk, names) for chunk in codes.chunks],
        pa.dictionary(pa.int32(), pa.string()),
    )


def _mapped(
    text: "pa.ChunkedArray", meaning: Callable[[str], object], kind: Any
) -> "pa.ChunkedArray":
    """Each text's meaning, computed once for equal texts; null stays null."""
    import pyarrow as pa
    from pyarrow import compute

    texts = text.unique()
    meanings = pa.array(
        [cell if cell is None else meaning(cell) for cell in texts.to_pylist()], kind
    )
    places = compute.index_in(text, texts)
    return pa.chunked_array([meanings.take(chunk) for chunk in places.chunks], kind)


def _numbers(
    name: str, column: Column, cells: "pa.ChunkedArray", repairs: Counter[str]
) -> "pa.ChunkedArray":
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_boolean(cells.type) or pa.types.is_date(cells.type):
        raise _column_type(name, column.name)
    text = cells
    if not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type)):
        text = _text(name, column.name, cells, repairs)
        if not casts(text, pa.float64()):
            raise RefusedDataError(
                f"{name}, row {first_failing(text, pa.float64()) + 1}: {column.name} is not a "
                f"number.",
                column.name,
                "Write numbers with a decimal point and no other signs, and leave blank what is "
                "missing.",
                code="not_a_number",
            )
    numbers = text.cast(pa.float64(), safe=False)
    missing = compute.or_kleene(numbers.is_null(), compute.is_nan(numbers))
    inside = compute.and_(
        compute.greater_equal(numbers, column.low), compute.less_equal(numbers, column.high)
    )
    outside = compute.and_(compute.invert(missing), compute.invert(inside.fill_null(False)))
    count = compute.sum(outside).as_py() or 0
    if count > max(TOLERATED_CELLS, TOLERATED_SHARE * len(numbers)):
        raise RefusedDataError(
            f"{_where(name, outside)}: {column.name} lies outside of {column.low:g} to "
            f"{column.high:g}, as in {count:,} rows.",
            column.name,
            f"Write {column.name} in the unit that the workload names, and leave blank what is "
            f"missing.",
            code="out_of_range",
        )
    _count(repairs, "out_of_range", count)
    kept = compute.if_else(inside.fill_null(False), numbers, pa.scalar(None, pa.float64()))
    return kept.cast(pa.float32())


def _splits(ids: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """A hash of each id, the same on every machine."""
    import pyarrow as pa

    return _mapped(
        ids,
        lambda cell: int.from_bytes(hashlib.blake2b(cell.encode(), digest_size=8).digest(), "big"),
        pa.uint64(),
    )


def _without_repeated(table: "pa.Table", repairs: Counter[str]) -> "pa.Table":
    """The rows in order of period and id, one for each of both."""
    import pyarrow as pa
    from pyarrow import compute

    # Equal keys stay in the order of the files.
    order = compute.sort_indices(
        table.append_column("place", pa.array(np.arange(len(table)))),
        [(TABLE.period, "ascending"), (TABLE.id, "ascending"), ("place", "ascending")],
    )
    table = table.take(order).combine_chunks()
    same = _like_the_next(table, [TABLE.id, TABLE.period])
    equal = same & _like_the_next(table, [field.name for field in table.schema])
    repeated, replaced = int(equal.sum()), int((same & ~equal).sum())
    if replaced > max(TOLERATED_CELLS, TOLERATED_SHARE * len(table)):
        raise RefusedDataError(
            f"{replaced:,} rows tell of a customer's month what another row tells differently.",
            TABLE.period,
            "Write one row for each customer and month.",
            code="conflicting_rows",
        )
    _count(repairs, "repeated_rows", repeated)
    _count(repairs, "replaced_rows", replaced)
    return table.filter(pa.array(~np.append(same, False))).combine_chunks()


def _like_the_next(table: "pa.Table", columns: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each row but the last is like the row after it; missing is like missing."""
    like = np.ones(max(len(table) - 1, 0), np.bool_)
    for name in columns:
        valid, values = _flat(table[name])
        like &= (valid[1:] == valid[:-1]) & (values[1:] == values[:-1])
    return like


def _flat(column: "pa.ChunkedArray") -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Which cells of a column are there, and the cells as numbers, 0 where they are not."""
    import pyarrow as pa

    flat = column.combine_chunks()
    if pa.types.is_string(flat.type):
        flat = flat.dictionary_encode()
    if pa.types.is_dictionary(flat.type):
        flat = flat.indices
    if pa.types.is_date32(flat.type):
        flat = flat.cast(pa.int32())
    values = flat.fill_null(False if pa.types.is_boolean(flat.type) else 0)
    return flat.is_valid().to_numpy(zero_copy_only=False), values.to_numpy(zero_copy_only=False)


def _fingerprint(table: "pa.Table") -> str:
    """A digest of the rows, whatever library wrote them; `split` stands for the ids."""
    digest = hashlib.sha256(repr(TABLE).encode())
    for field in table.schema:
        valid, values = _flat(table[field.name])
        digest.update(np.packbits(valid).tobytes() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()

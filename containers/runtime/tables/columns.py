"""The columns that are read from a file of any format, and the bounds of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from contracts.refused_data import RefusedDataError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_COLUMNS: Final = 1000
MAX_CELL_BYTES: Final = 256
"""Longest cell of a column that is read, in bytes of UTF-8."""

BLANKS: Final = " \t\u00a0\u202f\ufeff\"'"
"""What may surround a column's name."""

AROUND: Final = r"[\s\x{a0}\x{2000}-\x{200b}\x{202f}\x{2060}\x{feff}\"]*"
"""Blanks of all kinds around a cell, and quotes after a blank, in the syntax of Arrow's RE2."""


@dataclass(frozen=True)
class Wanted:
    """The columns that a family reads, and what it tells a tenant whose files lack or exceed them.

    `max_rows` is the most rows of all files together. `naming`, `fewer_columns`, `fewer_rows`,
    `smaller` and `one_cell` are the cures, as sentences.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    max_rows: int
    naming: str
    fewer_columns: str
    fewer_rows: str
    smaller: str
    one_cell: str


@dataclass(frozen=True)
class Columns:
    """The columns read from a file, by our names, and the number of its other columns."""

    found: Mapping[str, "pa.ChunkedArray"]
    ignored: int

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return len(next(iter(self.found.values())))


def chosen(name: str, header: Sequence[str], wanted: Wanted) -> dict[str, int]:
    """The positions of our columns in the header of the file `name`; blanks and capitals do not
    matter. Raises `RefusedDataError`."""
    if len(header) > MAX_COLUMNS:
        raise RefusedDataError(
            f"{name} has {len(header)} columns; at most {MAX_COLUMNS:,} are read.",
            name,
            wanted.fewer_columns,
            code="too_many_columns",
        )
    said = [column.strip(BLANKS) for column in header]
    places = {}
    for ours in (*wanted.required, *wanted.optional):
        exact = [place for place, column in enumerate(said) if column == ours]
        places_of = exact or [place for place, column in enumerate(said) if column.lower() == ours]
        if len(places_of) > 1:
            raise RefusedDataError(
                f"{name} has two columns named {ours}.",
                ours,
                "Keep one of them.",
                code="column_twice",
            )
        if places_of:
            places[ours] = places_of[0]
        elif ours in wanted.required:
            raise RefusedDataError(
                f"{name} has no column {ours} in its first row.",
                ours,
                wanted.naming,
                code="column_missing",
            )
    return places


def dense(name: str, ours: str, column: "pa.Array", first_row: int, wanted: Wanted) -> "pa.Array":
    """A section of a column without dictionaries or runs, with text of any kind as plain strings.

    The length of each cell is checked before any is copied, because a dictionary may hold one long
    cell for a million rows. `first_row` is the section's first row in the file, from 0. Raises
    `RefusedDataError`.
    """
    import pyarrow as pa
    from pyarrow import compute

    kind = column.type
    if pa.types.is_run_end_encoded(kind):
        _check_cells(name, ours, column.values, None, wanted)
        column = compute.run_end_decode(column)
    elif pa.types.is_dictionary(kind):
        _check_cells(name, ours, column.dictionary, None, wanted)
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        column = column.cast(pa.large_binary())
    if _is_text(column.type):
        _check_cells(name, ours, column, first_row, wanted)
        if not pa.types.is_string(column.type):
            try:
                return column.cast(pa.string())
            except pa.ArrowException as error:
                raise RefusedDataError(
                    f"Column {ours} of {name} holds bytes that are not UTF-8 text.",
                    ours,
                    "Store it as text in UTF-8, as numbers or as timestamps.",
                    code="text_not_utf8",
                ) from error
    return column


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def _check_cells(
    name: str, ours: str, column: "pa.Array", first_row: int | None, wanted: Wanted
) -> None:
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        column = column.cast(pa.large_binary())
    if not len(column) or not _is_text(column.type):
        return
    lengths = compute.binary_length(column)
    longest = compute.max(lengths).as_py()
    if longest is not None and longest > MAX_CELL_BYTES:
        where = (
            name
            if first_row is None
            else f"{name}, row {first_row + compute.index(lengths, longest).as_py() + 1}"
        )
        raise RefusedDataError(
            f"{where}: a cell of column {ours} has {longest:,} bytes; at most {MAX_CELL_BYTES} are "
            f"read.",
            ours,
            wanted.one_cell,
            code="cell_too_long",
        )


def too_many_rows(name: str, wanted: Wanted) -> RefusedDataError:
    """The error at the first row beyond the limit."""
    return RefusedDataError(
        f"With {name} there are more than {wanted.max_rows:,} rows.",
        name,
        wanted.fewer_rows,
        code="too_many_rows",
    )


def no_rows(name: str) -> RefusedDataError:
    """The error for a file with only a header."""
    return RefusedDataError(
        f"{name} has a header and no rows.", name, "Upload a file with rows.", code="no_rows"
    )


def casts(column: "pa.ChunkedArray", target: Any) -> bool:
    """Whether every cell can be read as the type `target`."""
    import pyarrow as pa

    try:
        column.cast(target)
    except pa.ArrowException:
        return False
    return True


def first_failing(column: "pa.ChunkedArray", target: Any) -> int:
    """The row at which a cast first fails, by halving."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        if casts(column.slice(low, middle - low), target):
            low = middle
        else:
            high = middle
    return low

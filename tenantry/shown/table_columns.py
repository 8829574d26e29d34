"""Names and types of answers' columns in Glue: numbers, booleans or text, under names that SQL
takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

ColumnType = Literal["double", "boolean", "string"]
"""Glue's names
(https://docs.aws.amazon.com/athena/latest/ug/data-types.html)."""
_LONGEST_NAME: Final = 128
_TAKEN: Final = ("tenant", "version", "day")
"""The columns that the table has besides an answer's."""


def column_names(names: Sequence[str]) -> list[str]:
    """Names of columns for SQL: small letters, digits and underscores, each once.

    https://docs.aws.amazon.com/athena/latest/ug/tables-databases-columns-names.html
    """
    made: list[str] = []
    for name in names:
        made.append(next(one for one in _candidates(name) if one not in (*_TAKEN, *made)))
    return made


def _candidates(name: str) -> Iterator[str]:
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:_LONGEST_NAME]
    if not plain or plain[0].isdigit() or plain in _TAKEN:
        plain = f"answer_{plain}".rstrip("_")
    yield plain
    number = 2
    while True:
        yield f"{plain}_{number}"
        number += 1


def type_of(cells: Sequence[Any]) -> ColumnType | None:
    """The type of a column with such cells; None if all are empty."""
    found = {_type(cell) for cell in cells if cell is not None}
    if not found:
        return None
    return found.pop() if len(found) == 1 else "string"


def _type(cell: object) -> ColumnType:
    if isinstance(cell, bool):
        return "boolean"
    if isinstance(cell, int | float):
        try:
            float(cell)
        except OverflowError:  # more than a double takes
            return "string"
        return "double"
    return "string"

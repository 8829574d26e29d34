"""Answers of any workload as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

PICTURE: Final = "png"
"""The name of a picture in an answer (docs/workload-file.md, "What people see")."""


@dataclass(frozen=True)
class Tabulated:
    """Answers as a table. ``period`` is its first and its last moment, where a column has
    moments. ``unit`` is that of its numbers, where the answers agree on one."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    unit: str | None = None

    @property
    def period(self) -> tuple[str, str] | None:
        """The first and the last moment of the first column that has moments alone."""
        for number in range(len(self.columns)):
            cells = [row[number] for row in self.rows]
            if cells and all(map(_is_moment, cells)):
                return str(cells[0]), str(cells[-1])
        return None


def tabulated(documents: Sequence[Any]) -> Tabulated:
    """Answers of any workload as a table.

    Lists of one length become columns. A list of objects becomes rows. An answer that has neither
    is a row itself.
    """
    rows: list[Mapping[str, Any]] = [row for one in documents for row in _rows_of(one)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    units = {
        unit
        for one in documents
        if isinstance(one, dict) and isinstance(unit := one.get("unit"), str)
    }
    cells = [[row.get(name) for name in columns] for row in rows]
    return Tabulated(columns, cells, units.pop() if len(units) == 1 else None)


def _rows_of(document: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(document, dict):
        yield {"answer": document}
        return
    for value in document.values():
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            yield from ({name: _cell(name, of) for name, of in one.items()} for one in value)
            return
    lists = dict(_lists(document, ""))
    longest = max(map(len, lists.values()), default=0)
    columns = {name: values for name, values in lists.items() if len(values) == longest}
    if longest:
        for cells in zip(*columns.values(), strict=True):
            yield dict(zip(columns, cells, strict=True))
    else:
        yield {name: _cell(name, value) for name, value in document.items()}


def _lists(document: Mapping[str, Any], inside: str) -> Iterator[tuple[str, list[Any]]]:
    for name, value in document.items():
        if isinstance(value, list):
            yield f"{inside}{name}", value
        elif isinstance(value, dict):
            yield from _lists(value, f"{inside}{name} ")


def _cell(name: str, value: Any) -> Any:
    if name == PICTURE and isinstance(value, str):
        return f"{len(value) * 3 // 4:,} bytes"
    return value


def _is_moment(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False

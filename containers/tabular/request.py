"""Parses a request: rows of features, in JSON or CSV, as models see them.

A fault is told with its field, its row (from 1) and a `reason` for programs, which
docs/contracts.md ("Requests for scores") lists.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from containers.runtime.serving.predictor import InvalidRequestError
from containers.tabular.table import OTHER, Column, category_of

MOST_ROWS: Final = 10_000
"""Of one request. Batches send more requests."""
ID: Final = "id"
LONGEST_ID: Final = 256
"""Characters."""

_FAR: Final = 1e300
_FLAGS: Final[Mapping[object, float]] = {True: 1.0, False: 0.0, None: math.nan}
_FLAG_TEXTS: Final[Mapping[str, bool]] = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Question:
    """The rows of a request. `ids` are the caller's, None for a row without; None where no row has
    one."""

    features: NDArray[np.float32]
    ids: Sequence[str | int | None] | None


def parse(body: bytes, content_type: str, columns: Sequence[Column]) -> Question:
    """Parse `{"rows": [{…}, …]}`, one row `{…}`, or CSV with a header (`text/csv`).

    Raises `InvalidRequestError`.
    """
    if content_type.split(";")[0].strip().lower() == "text/csv":
        rows = _rows_of_csv(body, columns)
    else:
        rows = _rows_of_json(body)
    if not rows:
        raise InvalidRequestError("there are no rows", "rows", "rows_malformed")
    if len(rows) > MOST_ROWS:
        message = f"there are {len(rows)} rows; a request has at most {MOST_ROWS}"
        raise InvalidRequestError(message, "rows", "too_many_rows")
    _check_fields(rows, columns)
    values = [_column(column, [row.get(column.name) for row in rows]) for column in columns]
    return Question(np.column_stack(values), _ids(rows))


def _rows_of_json(body: bytes) -> list[Any]:
    try:
        said = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        message = 'the body is not JSON such as {"rows": [{…}]}'
        raise InvalidRequestError(message, None, "not_json") from error
    if not isinstance(said, dict):
        message = "the body must be an object of rows, or one row"
        raise InvalidRequestError(message, None, "rows_malformed")
    if "rows" not in said:
        return [said]
    rows = said["rows"]
    if len(said) > 1 or not isinstance(rows, list):
        message = "beside rows, a list, the body has no other field"
        raise InvalidRequestError(message, "rows", "rows_malformed")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            message = f"row {number + 1} is not an object"
            raise InvalidRequestError(message, "rows", "rows_malformed")
    return rows


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _rows_of_csv(body: bytes, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """The rows of CSV, with blank cells as missing, and numbers and flags as such."""
    kinds = {column.name: column.kind for column in columns}
    try:
        text = body.decode("utf-8-sig")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in next(lines, [])]
        if len(set(header)) < len(header):
            raise InvalidRequestError("the header names a column twice", "rows", "rows_malformed")
        rows: list[dict[str, Any]] = []
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                message = (
                    f"row {len(rows) + 1} has {len(cells)} cells; the header has {len(header)}"
                )
                raise InvalidRequestError(message, "rows", "rows_malformed")
            rows.append(
                {
                    name: _cell(cell.strip(), kinds.get(name))
                    for name, cell in zip(header, cells, strict=True)
                }
            )
    except (UnicodeDecodeError, csv.Error) as error:
        message = "the body is not CSV in UTF-8 with a header"
        raise InvalidRequestError(message, None, "not_csv") from error
    return rows


def _cell(text: str, kind: str | None) -> object:
    if not text:
        return None
    if kind == "flag":
        return _FLAG_TEXTS.get(text.lower(), text)
    if kind == "numeric":
        try:
            number = float(text)
        except ValueError:
            return text
        return text if math.isnan(number) else number
    return text


def _check_fields(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    known = {column.name for column in columns} | {ID}
    needed = {column.name for column in columns if not column.optional}
    for number, row in enumerate(rows):
        if row.keys() <= known and row.keys() >= needed:
            continue
        unknown = next((name for name in row if name not in known), None)
        if unknown is not None:
            # The name is the caller's own text, of any length.
            message = f"row {number + 1} has a field that the model does not know"
            raise InvalidRequestError(message, unknown[:64], "field_unknown")
        missing = next(column.name for column in columns if column.name in needed - row.keys())
        message = f"row {number + 1} lacks {missing}; null stands for what is not known"
        raise InvalidRequestError(message, missing, "field_missing")


def _column(column: Column, values: Sequence[object]) -> NDArray[np.float32]:
    match column.kind:
        case "numeric":
            return _numbers(column, values)
        case "flag":
            _check_types(column, values, {bool, type(None)}, "true, false or null")
            return np.array([_FLAGS[value] for value in values], np.float32)
    _check_types(column, values, {str, type(None)}, "a text or null")
    other = column.codes[OTHER]
    # Many rows have few categories.
    told = {text: column.codes.get(category_of(str(text)), other) for text in {*values} - {None}}
    return np.array([math.nan if value is None else told[value] for value in values], np.float32)


def _numbers(column: Column, values: Sequence[Any]) -> NDArray[np.float32]:
    _check_types(column, values, {int, float, type(None)}, "a number or null")
    try:
        numbers = np.array([math.nan if value is None else value for value in values], np.float64)
    except OverflowError:  # a whole number of hundreds of digits, which lies outside of any range
        far = [math.nan if value is None else max(-_FAR, min(value, _FAR)) for value in values]
        numbers = np.array(far, np.float64)
    outside = np.flatnonzero((numbers < column.low) | (numbers > column.high))
    if len(outside):
        message = (
            f"row {outside[0] + 1}: {column.name} must be from {column.low:g} to {column.high:g}"
        )
        raise InvalidRequestError(message, column.name, "out_of_range")
    return numbers.astype(np.float32)


def _check_types(
    column: Column, values: Sequence[object], allowed: set[type], expected: str
) -> None:
    if set(map(type, values)) <= allowed:
        return
    number = next(place for place, value in enumerate(values) if type(value) not in allowed)
    message = f"row {number + 1}: {column.name} must be {expected}"
    raise InvalidRequestError(message, column.name, "wrong_type")


def _ids(rows: Sequence[Mapping[str, Any]]) -> list[str | int | None] | None:
    ids = [row.get(ID) for row in rows]
    for number, value in enumerate(ids):
        if type(value) not in (str, int, type(None)) or len(str(value)) > LONGEST_ID:
            message = (
                f"row {number + 1}: {ID} must be a text or a whole number of at most {LONGEST_ID} "
                f"characters"
            )
            raise InvalidRequestError(message, ID, "wrong_type")
    return ids if any(value is not None for value in ids) else None

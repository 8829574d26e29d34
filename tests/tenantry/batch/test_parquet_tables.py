"""Answers of any form become rows, and none of a tenant's rows stays where it was taken out."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tenantry.batch.parquet_tables import (
    in_columns_of,
    parquet_of,
    rows_of_answer,
    texts_in,
    without_rows,
)


def test_pictures_and_columns_without_a_value_are_left_out() -> None:
    picture = base64.b64encode(b"picture").decode()
    images = [{"seed": 1, "png": picture, "note": None}, {"seed": 2, "png": picture, "note": None}]
    rows = rows_of_answer(json.dumps({"images": images}).encode())
    assert (rows.count, rows.types) == (2, {"seed": "double"})


def test_text_holds_any_value_and_no_other_type_holds_text() -> None:
    rows = rows_of_answer(b'{"a": [1, 2], "b": ["x", null]}\n')
    cells, emptied = in_columns_of(rows, {"a": "string", "b": "double"})
    assert cells["a"].to_pylist() == ["1.0", "2.0"]
    assert cells["b"].to_pylist() == [None, None]
    assert emptied == 1
    changed: Any = {"a": "bigint", "b": "string"}  # by somebody, in Glue
    assert in_columns_of(rows, changed)[0].keys() == {"b"}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        rows_of_answer(content)


def test_rows_are_taken_out_by_their_text() -> None:
    answer = rows_of_answer(b'{"a": [1, 2]}')
    parts = [({"tenant": name}, answer.count, answer.arrays) for name in ("acme", "globex")]
    content = parquet_of(parts)
    assert texts_in(content, "tenant") == {"acme", "globex"}
    assert texts_in(without_rows(content, "tenant", {"acme", "x"}), "tenant") == {"globex"}
    with pytest.raises(ValueError, match="Parquet"):
        texts_in(b"no such file", "tenant")

"""A tenant's table: what is read, mended and counted, and what is refused."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from containers.tabular import preparation
from containers.tabular.preparation import ROWS_FILE, SCORED_FILE, extend, prepare, rows_schema
from contracts.refused_data import RefusedDataError
from tests.containers.tabular.churn import ROW, prepared, table


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(folder / ROWS_FILE).to_pylist()
    return rows


def parquet_of(**columns: Any) -> bytes:
    """One row like ``ROW`` as Parquet, with other columns."""
    whole = {"customer": ["c1"], "period": [date(2026, 1, 31)], "churned": [False]}
    whole |= {name: [value] for name, value in ROW.items()}
    sink = io.BytesIO()
    parquet.write_table(pa.table(whole | columns), sink)
    return sink.getvalue()


def test_rows_have_one_form_and_those_of_unknown_outcome_are_kept(tmp_path: Path) -> None:
    made = prepared(
        tmp_path / "data",
        table({"period": "2026-02", "churned": ""}, {}),
        table({"customer": "c2", "churned": "yes", "nps": ""}),
    )
    assert made["rows"] == 2
    assert made["repairs"] == {}
    assert made["facts"] == {
        "customers": 2,
        "first": "2026-01-01",
        "last": "2026-02-01",
        "target_unknown": 1,
        "to_score": 1,
        "target_share": 0.5,
    }
    rows = rows_of(tmp_path / "data")
    assert [(row["customer"], str(row["period"]), row["churned"]) for row in rows] == [
        ("c1", "2026-01-01", False),
        ("c2", "2026-01-01", True),
        ("c1", "2026-02-01", None),
    ]
    assert rows[1]["nps"] is None
    assert {name: rows[0][name] for name in ROW} == ROW
    found = parquet.read_schema(tmp_path / "data" / ROWS_FILE)
    assert found.remove_metadata() == rows_schema()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {ROWS_FILE, SCORED_FILE}


def test_a_table_without_any_outcome_can_be_scored_and_teaches_nothing(tmp_path: Path) -> None:
    made = prepared(tmp_path / "data", table({"churned": ""}))
    assert (made["rows"], made["facts"]["target_share"]) == (0, None)
    assert len(rows_of(tmp_path / "data")) == 1


def test_what_is_mended_is_counted(tmp_path: Path) -> None:
    others = [{"customer": f"d{number}"} for number in range(3)]
    made = prepared(
        tmp_path / "data",
        table(
            {"customer": " c1 ", "contract": "Multi-Year", "autopay": "YES"},
            {"customer": "c2", "contract": "gold", "nps": "11", "seats": "-1"},
            {"customer": "c3", "contract": "", "nps": "n/a", "seats": " 4 ", "seats_used": "NaN"},
            *others,
            others[0],
            {**others[1], "seats": 99},
        ),
    )
    assert made["repairs"] == {
        "mended_cells": 3,  # an id, a contract, a number
        "other_categories": 1,
        "out_of_range": 2,
        "repeated_rows": 1,
        "replaced_rows": 1,
    }
    rows = {row["customer"]: row for row in rows_of(tmp_path / "data")}
    assert len(rows) == made["rows"] == 6
    assert (rows["c1"]["contract"], rows["c1"]["autopay"]) == ("multi_year", True)
    assert [rows["c2"][name] for name in ("contract", "nps", "seats")] == ["other", None, None]
    assert [rows["c3"][name] for name in ("contract", "nps", "seats")] == [None, None, 4]
    assert rows["c3"]["seats_used"] is None
    assert rows["d1"]["seats"] == 99, "the last row counts"


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    plain = prepared(tmp_path / "csv", table({}))
    stamp = pa.array([datetime(2026, 1, 31, 23, 30, tzinfo=UTC)], pa.timestamp("ms", "UTC"))
    for number, columns in enumerate(
        (
            {},
            {"period": stamp, "autopay": [1], "churned": pa.array([0.0])},
            {"contract": pa.array(["annual"]).dictionary_encode(), "seats": pa.array(["12"])},
            {"monthly_charge": pa.array([240], pa.decimal128(9, 2)), "region": ["north"]},
        )
    ):
        made = prepared(tmp_path / f"parquet{number}", parquet_of(**columns))
        assert made["fingerprint"] == plain["fingerprint"]
    # Half past eleven in the evening of UTC is the next month in Paris.
    local = stamp.cast(pa.timestamp("ms", "Europe/Paris"))
    prepared(tmp_path / "paris", parquet_of(period=local))
    assert rows_of(tmp_path / "paris")[0]["period"] == date(2026, 2, 1)


def test_the_optional_column_may_be_absent_and_others_may_be_there(tmp_path: Path) -> None:
    text = table({}).replace(",nps,", ",region,").replace(",8,no", ",north,no")
    prepared(tmp_path / "data", text)
    (row,) = rows_of(tmp_path / "data")
    assert row["nps"] is None
    assert "region" not in row


LATER = (datetime.now(UTC) + timedelta(days=70)).strftime("%Y-%m")
REFUSED: dict[str, tuple[str | bytes, str, str]] = {
    "no such column": (table({}).replace("seats_used", "used"), "column_missing", "seats_used"),
    "no target": (table({}).replace("churned", "left"), "column_missing", "churned"),
    "nothing": (b"", "file_empty", "data-0.csv"),
    "a header alone": (table(), "no_rows", "data-0.csv"),
    "gzip": (b"\x1f\x8b\x08secret", "file_compressed", "data-0.csv"),
    "no id": (table({}, {"customer": " "}), "id_missing", "customer"),
    "no period": (table({"period": ""}), "period_unreadable", "period"),
    "a quarter": (table({"period": "2026-Q1"}), "period_unreadable", "period"),
    "no month": (table({"period": "2026-13"}), "period_unreadable", "period"),
    "no day": (table({"period": "2026-02-30"}), "period_unreadable", "period"),
    "long ago": (table({"period": "1989-12"}), "period_unreadable", "period"),
    "to come": (table({"period": LATER}), "period_unreadable", "period"),
    "perhaps": (table({"churned": "secret"}), "flag_unreadable", "churned"),
    "a flag of 2": (table({"autopay": "2"}), "flag_unreadable", "autopay"),
    "words": (table({"seats": "secret"}), "not_a_number", "seats"),
    "a comma": (table({"monthly_charge": '"1,200"'}), "not_a_number", "monthly_charge"),
    "out of range": (table(*[{"nps": 60}] * 4), "out_of_range", "nps"),
    "endless": (table(*[{"seats": "inf"}] * 4), "out_of_range", "seats"),
    "conflicts": (table(*[{"seats": n} for n in range(5)]), "conflicting_rows", "period"),
    "a list": (parquet_of(seats=[[1]]), "column_nested", "seats"),
    "a date": (parquet_of(seats=[date(2026, 1, 1)]), "column_type", "seats"),
    "a flag for a number": (parquet_of(seats=[True]), "column_type", "seats"),
    "bytes": (parquet_of(contract=[b"\xff\xfe"]), "text_not_utf8", "contract"),
    "a time alone": (parquet_of(period=pa.array([1], pa.time32("s"))), "column_type", "period"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_a_table_is_refused_with_a_cure(tmp_path: Path, kind: str) -> None:
    content, code, field = REFUSED[kind]
    with pytest.raises(RefusedDataError) as refused:
        prepared(tmp_path / "data", content)
    assert (refused.value.code, refused.value.field) == (code, field)
    assert refused.value.cure.endswith(".")
    assert "secret" not in str(refused.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_the_faulty_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(RefusedDataError, match=r"data-0\.csv, row 3: seats is not a number"):
        prepared(tmp_path / "data", table({}, {}, {"seats": "x"}, {}))
    with pytest.raises(RefusedDataError, match=r"data-1\.csv, row 2: autopay is neither"):
        prepared(tmp_path / "data", table({}), table({}, {"autopay": "x"}))


def test_a_few_cells_out_of_range_and_a_few_conflicts_are_tolerated(tmp_path: Path) -> None:
    customers = [{"customer": f"c{number}"} for number in range(1000)]
    ten = [{**row, "seats": -1} for row in customers[:10]]
    made = prepared(tmp_path / "data", table(*customers[10:], *ten, *customers[:10]))
    assert made["repairs"] == {"out_of_range": 10, "replaced_rows": 10}
    with pytest.raises(RefusedDataError, match="as in 11 rows"):
        prepared(tmp_path / "more", table(*customers[:990], *ten, {"customer": "d", "seats": -1}))


def test_more_rows_than_the_limit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(preparation, "WANTED", replace(preparation.WANTED, max_rows=3))
    prepared(tmp_path / "three", table({}, {"customer": "c2"}, {"customer": "c3"}))
    with pytest.raises(RefusedDataError) as refused:
        prepared(tmp_path / "four", table({}, {}), table({}, {}))
    assert refused.value.code == "too_many_rows"
    with pytest.raises(RefusedDataError) as refused:
        prepare([], tmp_path, {})
    assert refused.value.code == "no_file"


CUSTOMERS = st.lists(
    st.fixed_dictionaries(
        {
            "customer": st.sampled_from(["a", "b", "ß", "00042", "none"]),
            "period": st.sampled_from(["2025-12", "2026-01", "2026-02"]),
            "contract": st.sampled_from(["monthly", "annual", "other", ""]),
            "seats": st.integers(0, 9),
            "nps": st.sampled_from(["", "0", "10"]),
            "churned": st.sampled_from(["yes", "no", ""]),
        }
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: (row["customer"], row["period"]),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=CUSTOMERS, data=st.data())
def test_order_spelling_and_repetition_change_nothing_but_the_counts(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    base = tmp_path_factory.mktemp("any")
    plain = prepared(base / "plain", table(*rows))
    again = [data.draw(st.sampled_from(rows)) for _ in range(data.draw(st.integers(0, 3)))]
    other = [
        {**row, "contract": f" {str(row['contract']).upper()}", "seats": f"{row['seats']}.0"}
        for row in data.draw(st.permutations([*rows, *again]))
    ]
    cut = data.draw(st.integers(1, len(other)))
    contents = [table(*part) for part in (other[:cut], other[cut:]) if part]
    mixed = prepared(base / "mixed", *contents)
    assert mixed["fingerprint"] == plain["fingerprint"]
    assert mixed["facts"] == plain["facts"]
    assert mixed["repairs"].get("repeated_rows", 0) == len(again)
    assert rows_of(base / "mixed") == rows_of(base / "plain")
    assert (base / "mixed" / ROWS_FILE).read_bytes() == (base / "plain" / ROWS_FILE).read_bytes()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda text, at, what: text[:at] + what + text[at:],
            st.just(table({}, {"customer": "c2"}).encode()),
            st.integers(0, 300),
            st.binary(max_size=5),
        ),
        st.builds(
            lambda text, at, what: text[:at] + what + text[at + 1 :],
            st.just(parquet_of()),
            st.integers(0, 6000),
            st.binary(min_size=1, max_size=1),
        ),
    )
)
def test_whatever_is_uploaded_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("whatever") / "data"
    try:
        made = prepared(folder, content)
    except RefusedDataError:
        return
    assert made["rows"] + made["facts"]["target_unknown"] == len(rows_of(folder))


def extended(folder: Path, before: Path, *files: str) -> dict[str, Any]:
    """What ``extend`` makes of prepared rows and newer files."""
    folder.mkdir()
    paths = []
    for number, content in enumerate(files):
        paths.append(folder / f"new-{number}.csv")
        paths[-1].write_text(content)
    (folder / "out").mkdir()
    return extend(before, paths, folder / "out", {})


def test_newer_months_join_the_known_ones_and_tell_how_they_ended(tmp_path: Path) -> None:
    prepared(tmp_path / "before", table({"churned": ""}, {"customer": "c2", "churned": ""}))
    newer = table({}, {"customer": "c2", "churned": "yes"}, {"period": "2026-02", "churned": ""})
    made = extended(tmp_path / "after", tmp_path / "before", newer)
    assert (made["rows"], made["facts"]["to_score"]) == (2, 1)
    rows = rows_of(tmp_path / "after/out")
    assert [(row["customer"], str(row["period"]), row["churned"]) for row in rows] == [
        ("c1", "2026-01-01", False),
        ("c2", "2026-01-01", True),
        ("c1", "2026-02-01", None),
    ]
    (scored,) = json.loads((tmp_path / "after/out" / SCORED_FILE).read_text())
    assert scored == {"id": "c1", **ROW}
    with pytest.raises(RefusedDataError) as error:
        extended(tmp_path / "again", tmp_path / "after/out", newer)
    assert error.value.code == "nothing_new"


@settings(max_examples=20, deadline=None)
@given(st.permutations([1, 2, 3, 4]))
def test_months_in_any_order_come_to_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    base = tmp_path_factory.mktemp("months")
    months = [table({"period": f"2026-0{month}"}) for month in range(1, 6)]
    whole = prepared(base / "whole", *months)
    prepared(base / "0", months[4])
    for place, month in enumerate(order):
        last = extended(
            base / f"{place + 1}", base / ("0" if place == 0 else f"{place}/out"), months[month - 1]
        )
    assert last["fingerprint"] == whole["fingerprint"]

"""The synthetic customers: their truth, and that they are the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from pyarrow import compute

from containers.tabular.synthetic import TRUTH, generate, uploaded
from containers.tabular.table import TABLE


def test_outcomes_come_as_often_as_the_truth_says() -> None:
    rows = generate(8, 800, 6, seed=2)
    known = rows.filter(compute.is_valid(rows[TABLE.target]))
    truth, left = known[TRUTH].to_numpy(), known[TABLE.target].to_numpy().astype(float)
    deviation = np.sqrt((truth * (1 - truth)).sum())
    assert abs(left.sum() - truth.sum()) < 4 * deviation
    for part in np.array_split(np.argsort(truth), 5):
        spread = np.sqrt((truth[part] * (1 - truth[part])).sum())
        assert abs(left[part].sum() - truth[part].sum()) < 4 * spread
    rates = [
        compute.mean(known.filter(compute.equal(known["tenant"], tenant))[TRUTH]).as_py()
        for tenant in known["tenant"].unique().to_pylist()
    ]
    assert max(rates) > 1.5 * min(rates), "tenants differ"


def test_the_same_arguments_give_the_same_rows_and_no_tenant_depends_on_others() -> None:
    one, again, more = generate(2, 50, 3, 7), generate(2, 50, 3, 7), generate(3, 50, 3, 7)
    assert one.equals(again)
    assert more.slice(0, len(one)).equals(one)
    assert not generate(2, 50, 3, 8).equals(one)
    assert TRUTH not in uploaded(one).column_names
    assert "tenant" not in uploaded(one).column_names


def test_who_left_has_no_more_rows_and_of_the_last_month_nothing_is_known() -> None:
    rows = generate(1, 400, 5, 1).to_pylist()
    last: dict[str, bool | None] = {}
    for row in rows:
        assert last.get(row["customer"], False) is False
        last[row["customer"]] = row["churned"]
    months = sorted({row["period"] for row in rows})
    assert len(months) == 5
    assert all((row["churned"] is None) == (row["period"] == months[-1]) for row in rows)


def test_the_drift_changes_outcomes_from_its_period_on_and_nothing_before() -> None:
    steady, changed = generate(1, 300, 6, 3), generate(1, 300, 6, 3, drift_from=3)
    month = steady[TABLE.period].unique()[3]
    before = [rows.filter(compute.less(rows[TABLE.period], month)) for rows in (steady, changed)]
    assert before[0].equals(before[1])
    first = [rows.filter(compute.equal(rows[TABLE.period], month)) for rows in (steady, changed)]
    columns = [column.name for column in TABLE.features]
    assert first[0].select(columns).equals(first[1].select(columns))
    tickets = first[0]["support_tickets_90d"].to_numpy()
    higher = first[1][TRUTH].to_numpy() > first[0][TRUTH].to_numpy()
    assert not higher[tickets > 1].any()
    assert higher[tickets < 1].all()


def test_numbers_below_one_are_refused() -> None:
    for numbers in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            generate(*numbers)

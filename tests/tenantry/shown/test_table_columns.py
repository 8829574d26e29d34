"""Answers of any form become columns that SQL takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.shown.table_columns import column_names, type_of


@settings(max_examples=30)
@given(
    st.lists(
        st.text(max_size=20) | st.sampled_from(["day", "Tenant", "a b", "a_b", "9"]), max_size=12
    )
)
def test_any_names_become_names_of_columns_each_once(names: list[str]) -> None:
    made = column_names(names)
    assert len(made) == len(names) == len(set(made))
    assert not set(made) & {"tenant", "version", "day"}
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,140}", name) for name in made)


def test_names_stay_readable() -> None:
    said = ["quantiles 0.1", "Mean", "mean", "day", "0.5", "größe", "€"]
    made = ["quantiles_0_1", "mean", "mean_2", "answer_day", "answer_0_5", "gr_e", "answer"]
    assert column_names(said) == made


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([1, None, 2.5], "double"),
        ([True, None], "boolean"),
        ([True, 1], "string"),
        (["a", 1], "string"),
        ([10**400], "string"),
        ([None], None),
        ([], None),
    ],
)
def test_a_column_has_the_type_of_all_its_cells(cells: list[Any], kind: str | None) -> None:
    assert type_of(cells) == kind

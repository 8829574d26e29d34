"""A fleet for people: the worst tenants come first, and checks fail for faults."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tenantry.names import ids
from tenantry.shown.fleet_view import fleet_checks, fleet_metadata
from tenantry.shown.plots import plot_of_counts
from tenantry.tenants.fleet import Fleet, TenantInFleet
from tenantry.workloads.schema import read_workloads

NOW = datetime(2026, 11, 30, tzinfo=UTC)
GOOD = TenantInFleet(
    ids.tenant_id("acme"),
    ids.version_name("v1"),
    "bridge",
    0.8,
    3.0,
    4.0,
    predicted=True,
    too_old=False,
)


def fleet(*tenants: TenantInFleet, **changed: Any) -> Fleet:
    quiet = Fleet(read_workloads()["energy"], NOW, tenants, 0, 0.0, (), date(2026, 11, 30), 0.115)
    return replace(quiet, **changed)


def wrong(found: Fleet, **results: dict[str, bool]) -> list[str]:
    return [check.name for check in fleet_checks(found, results) if not check.passed]


def test_a_healthy_fleet_passes_every_check_and_an_empty_one_too() -> None:
    assert wrong(fleet(GOOD)) == wrong(fleet()) == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"age_days": 38.0}, "champions_are_young"),
        ({"age_days": None}, "champions_are_young"),
        ({"predicted": False}, "predictions_are_fresh"),
    ],
)
def test_a_tenant_in_ten_with_something_wrong_fails_the_check(
    changed: dict[str, Any], name: str
) -> None:
    assert wrong(fleet(*[GOOD] * 9, replace(GOOD, **changed))) == [name]
    assert wrong(fleet(*[GOOD] * 99, replace(GOOD, **changed))) == []


def test_a_long_wait_fails_and_data_too_old_are_no_lack_of_a_prediction() -> None:
    assert wrong(fleet(GOOD, oldest_wait=3601.0, waiting=1)) == ["nobody_waits_long"]
    assert wrong(fleet(replace(GOOD, predicted=False, too_old=True))) == []


def test_a_check_that_a_tenant_in_ten_does_not_pass_is_told_with_its_tenants() -> None:
    passed = {f"t-{number}": True for number in range(9)}
    failed = {**passed, "spoiled": False}
    assert wrong(fleet(GOOD), drift=passed, data_quality={}) == []
    assert wrong(fleet(GOOD), drift=passed, data_quality=failed) == ["tenants_pass_their_checks"]
    last = fleet_checks(fleet(GOOD), {"drift": passed, "data_quality": failed})[-1]
    assert last.facts["checks"].rows == (
        {
            "check": "data_quality",
            "passed": 9,
            "did not pass": 1,
            "tenants that did not": "spoiled",
        },
        {"check": "drift", "passed": 9, "did not pass": 0, "tenants that did not": ""},
    )


def test_the_table_begins_with_the_unknown_and_the_worst_and_says_what_it_leaves_out() -> None:
    scores = {"best": 0.5, "worst": 1.4, "unknown": None}
    tenants = [replace(GOOD, tenant=ids.tenant_id(name), score=s) for name, s in scores.items()]
    shown = fleet_metadata(fleet(*tenants))
    assert [row["tenant"] for row in shown["tenants"].rows] == ["unknown", "worst", "best"]
    assert shown["median_share_of_baseline"] == pytest.approx(0.95)
    assert shown["serving_usd_per_tenant_and_month"] == pytest.approx(0.115 * 720 / 3)
    many = fleet_metadata(fleet(*[GOOD] * 501))
    assert (len(many["tenants"].rows), many["tenants_left_out"]) == (500, 1)


@given(st.lists(st.floats(allow_nan=False), max_size=30))
def test_counts_of_any_values_are_drawn_or_left_out(values: list[float]) -> None:
    drawn = plot_of_counts(values, "tenants by score")
    if drawn is not None:
        assert Image.open(io.BytesIO(drawn)).size == (560, 210)
    else:
        assert not values or max(map(abs, values)) > 1e15

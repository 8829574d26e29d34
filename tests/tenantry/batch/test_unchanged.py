"""A tenant whose model and request are those of its last prediction keeps that."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from tenantry.batch.periods import Period
from tenantry.batch.predictions import predict
from tenantry.names import ids, s3_keys
from tenantry.tenants.fleet import fleet_of
from tenantry.workloads.schema import Workload
from tests.tenantry.batch.test_carried_data import carrying, give
from tests.tenantry.batch.test_transform import Heard
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.conftest import world  # noqa: F401 - a fixture
from tests.tenantry.serving.tiny_family import MEANS, World

FIRST = date(2026, 3, 2)


@pytest.fixture
def drawn(world: World) -> World:  # noqa: F811 - the fixture
    """Its nightly batch keeps what has not changed."""
    batch = world.tiny.batches[0].model_copy(update={"request": {"add": 1}, "keep_unchanged": True})
    tiny = world.tiny.model_copy(update={"batches": (batch,)})
    return World(world.deployment, tiny, world.endpoint, world.folder)


def predicted(world: World, tenants: list[ids.TenantId], day: date) -> tuple[Heard, int]:  # noqa: F811
    """The report of a night, and how many transform jobs it took."""
    counted, heard = world.deployment.aws_calls, Heard()
    before = counted["sagemaker:CreateTransformJob"]
    period = Period(world.tiny.batches[0], day)
    assert predict(world.deployment, world.tiny, tenants, period, f"r {day}", heard, poll=0.1) == {}
    return heard, counted["sagemaker:CreateTransformJob"] - before


def test_only_what_changed_is_predicted_again(drawn: World) -> None:
    still, moving = drawn.tenant(), drawn.tenant()
    _, jobs = predicted(drawn, [still, moving], FIRST)
    assert jobs == 1
    drawn.crown(moving, 2)
    second = FIRST + timedelta(days=1)
    heard, jobs = predicted(drawn, [still, moving], second)
    assert jobs == 1
    assert heard.materialized_[still]["kept_from"] == FIRST.isoformat()
    assert heard.materialized_[still]["dagster/partition_row_count"] == 1
    assert heard.materialized_[still]["cost_usd"] == 0
    assert "kept_from" not in heard.materialized_[moving]
    for tenant in (still, moving):
        with drawn.client(tenant) as client:
            assert client.predictions(second) == [{"mean": MEANS[tenant] + 1}]
    # A night later it holds still, though the first one's file is gone.
    first = s3_keys.prediction(NAME, still, ids.batch_name("nightly"), FIRST)
    drawn.deployment.s3.delete_object(Bucket=drawn.deployment.data_bucket, Key=first)
    _, jobs = predicted(drawn, [still, moving], second + timedelta(days=1))
    assert jobs == 0


def test_a_kept_prediction_whose_file_is_gone_is_made_again(drawn: World) -> None:
    tenant = drawn.tenant()
    predicted(drawn, [tenant], FIRST)
    gone = s3_keys.prediction(NAME, tenant, ids.batch_name("nightly"), FIRST)
    drawn.deployment.s3.delete_object(Bucket=drawn.deployment.data_bucket, Key=gone)
    heard, jobs = predicted(drawn, [tenant], FIRST + timedelta(days=1))
    assert jobs == 1
    assert "kept_from" not in heard.materialized_[tenant]


@pytest.mark.parametrize("changed", ["request", "container"])
def test_another_request_or_container_predicts_again(drawn: World, changed: str) -> None:
    tenant = drawn.tenant()
    predicted(drawn, [tenant], FIRST)
    batch = drawn.tiny.batches[0].model_copy(update={"request": {"add": 2}})
    updates: dict[str, dict[str, object]] = {
        "request": {"batches": (batch,)},
        "container": {"image_tag": "9.9.9"},
    }
    another = World(
        drawn.deployment,
        drawn.tiny.model_copy(update=updates[changed]),
        drawn.endpoint,
        drawn.folder,
    )
    _, jobs = predicted(another, [tenant], FIRST + timedelta(days=1))
    assert jobs == 1


@pytest.mark.parametrize("asked", ["latest", "all"])
def test_new_data_predict_again_and_the_same_data_do_not(drawn: World, asked: str) -> None:
    own = carrying(drawn, asked)
    tenant = own.tenant()
    for night, number in enumerate((5, 5, 7, 7)):
        if night % 2 == 0:
            give(own, tenant, number)
        _, jobs = predicted(own, [tenant], day := FIRST + timedelta(days=night))
        assert jobs == (1 if night % 2 == 0 else 0)
        with own.client(tenant) as client:
            assert client.predictions(day) == [{"mean": MEANS[tenant] + number}]


def test_the_table_of_all_tenants_counts_what_was_kept(drawn: World) -> None:
    tenant, today = drawn.tenant(), datetime.now(UTC)
    for ago in (2, 1, 0):
        predicted(drawn, [tenant], today.date() - timedelta(days=ago))
    fleet = fleet_of(drawn.deployment, drawn.tiny, today)
    assert {one.tenant: one.predicted for one in fleet.tenants}[tenant]


def test_a_batch_that_names_its_day_cannot_keep_anything() -> None:
    from tenantry.workloads.schema import read_workloads

    energy = read_workloads()["energy"]
    batches = [{**energy.batches[0].model_dump(exclude_unset=True), "keep_unchanged": True}]
    with pytest.raises(ValueError, match="none is like the last"):
        Workload.model_validate({**energy.model_dump(exclude_unset=True), "batches": batches})

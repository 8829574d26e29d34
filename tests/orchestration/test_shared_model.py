"""One model of all tenants' data: made when the first data are there, served and predicted with for
each tenant, and nobody's."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from dagster import AssetPartitionStatus, DagsterInstance

from orchestration.private_dagster.chosen_partitions import asset_key
from tenantry.aws.deployment import Deployment
from tenantry.command_line.roster import roster
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import NoModelYetError, TenantClient
from tenantry.tenants.fleet import fleet_of
from tenantry.training.shared_model import ask_for_shared_model
from tenantry.uploads.intake import ONE_MODEL_FOR_ALL
from tenantry.workloads.schema import Workload, read_workloads
from tests.orchestration.running import at_once, metadata_of, onboard, run, statuses, take_in
from tests.tenantry.command_line.conftest import caller

CHURN = ids.workload_name("churn")


@pytest.fixture(scope="module")
def churn() -> Workload:
    return at_once(read_workloads()["churn"])


@pytest.fixture(scope="module")
def customers() -> dict[str, bytes]:
    """Parquet files of four synthetic tenants."""
    from pyarrow import compute, parquet

    from containers.tabular.synthetic import TENANT, generate, uploaded

    files: dict[str, bytes] = {}
    table = generate(4, 150, 8, seed=5)
    for tenant in sorted(set(table[TENANT].to_pylist())):
        sink = io.BytesIO()
        parquet.write_table(uploaded(table.filter(compute.equal(table[TENANT], tenant))), sink)
        files[f"t{len(files)}"] = sink.getvalue()
    return files


def known(file: bytes) -> bytes:
    """The file without the customers whose target is not known yet."""
    from pyarrow import compute, parquet

    from containers.tabular.table import TABLE

    table, sink = parquet.read_table(io.BytesIO(file)), io.BytesIO()
    parquet.write_table(table.filter(compute.is_valid(table[TABLE.target])), sink)
    return sink.getvalue()


def test_a_shared_model_scores_the_customers_of_each_tenant(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    churn: Workload,
    customers: dict[str, bytes],
) -> None:
    tenants = [ids.tenant_id(name) for name in customers]
    for tenant, content in zip(tenants[:3], customers.values(), strict=False):
        with TenantClient(deployment, churn, tenant) as client:
            client.upload({"customers.parquet": content})
    assert take_in(deployment, dagster_instance).accepted == 3
    for _ in range(2):  # the tenants' data, then the model that is asked for
        for result in onboard(deployment, dagster_instance, churn):
            assert result.success
    registry, queue = ModelRegistry(deployment), RequestQueue(deployment)
    champion = registry.champion(ids.SHARED, CHURN)
    assert champion is not None
    assert [one.tenant for one in registry.champions(CHURN)] == [ids.SHARED]
    model = registry.version(ids.SHARED, CHURN, champion.version)
    assert model is not None
    assert model.metrics["logloss"] < model.metrics["baseline_logloss"]
    assert [row.status for one in tenants[:3] for row in queue.of_tenant(CHURN, one)] == [
        "appended"
    ] * 3
    made = AssetPartitionStatus.MATERIALIZED.value
    of_data = statuses(dagster_instance, "churn", "training_data", tenants[:3])
    assert of_data == dict.fromkeys(tenants[:3], made)
    told = metadata_of(dagster_instance, "churn", "training_data")["shared"]
    assert told["tenants"] == 3

    # Each asks the same model in its own name. One that never uploaded may, too.
    asked = dict(churn.serving.smoke_request)
    answers = []
    for tenant in tenants:
        with TenantClient(deployment, churn, tenant) as client:
            answers.append(client.predict(asked))
            assert client.champion().version == champion.version
    assert answers == [answers[0]] * 4

    # The batch scores each tenant's own customers, and goes back to it alone.
    assert run(dagster_instance, "churn_batch_predictions", None).success
    day = datetime.now(UTC).date()
    scored = {}
    for tenant in tenants[:3]:
        with TenantClient(deployment, churn, tenant) as client:
            (scored[tenant],) = client.predictions(day)
    for said in scored.values():
        assert len(said["ids"]) == len(said["scores"]) > 10
        assert all(0 < score < 1 for score in said["scores"])
    assert len({json.dumps(said["scores"]) for said in scored.values()}) == 3

    # The summary of the table of all tenants' scores stands on the asset's page.
    (observed,) = dagster_instance.fetch_observations(
        asset_key("churn", "batch_predictions"), limit=5
    ).records
    assert observed.asset_observation is not None
    shown: dict[str, Any] = {
        name: value.value for name, value in observed.asset_observation.metadata.items()
    }
    assert shown["dagster/table_name"] == "tenantry.churn_weekly"
    assert shown["day"] == day.isoformat()
    assert shown["summary_complete"] is True
    rows: list[dict[str, Any]] = [dict(row.data) for row in shown["summary"].records]
    columns = [column.name for column in shown["summary"].schema.columns]
    assert columns == ["tenant", "customers", "expected_to_leave"]
    assert len(rows) == 3
    assert rows == sorted(rows, key=lambda row: -row["expected_to_leave"])
    assert {row["tenant"]: row["customers"] for row in rows} == {
        tenant: len(said["ids"]) for tenant, said in scored.items()
    }
    for row in rows:
        of_tenant = sum(scored[ids.tenant_id(str(row["tenant"]))]["scores"])
        assert row["expected_to_leave"] == pytest.approx(of_tenant, abs=0.051)

    # Each is listed with the model that answers for it.
    fleet = fleet_of(deployment, churn, datetime.now(UTC))
    assert [(one.tenant, one.version, one.predicted) for one in fleet.tenants] == [
        (tenant, champion.version, True) for tenant in tenants[:3]
    ]
    assert {one.score for one in fleet.tenants} != {None}
    (page,) = roster(deployment, churn, after="", most=10)
    assert [one.tenant for one in page.tenants] == [ids.SHARED, *tenants[:3]]
    assert {one.score for one in page.tenants} == {model.metrics["logloss"]}
    (rest,) = roster(deployment, churn, after=tenants[1], most=10)
    assert [one.tenant for one in rest.tenants] == [tenants[2]]

    call = caller(deployment)
    story = call("tenant", tenants[0], "--workload", "churn").output
    assert f"version {champion.version} of the model that all tenants share" in story
    assert "serves all tenants" in story
    call("tenant", "nobody", "--workload", "churn", status=1)
    assert "no tier of its own" in call("tier", tenants[0], "churn", "silo", status=1).output
    assert "tier pool" in call("tier", tenants[0], "churn").output
    assert "Nothing was asked for" in call("retrain", "churn", "--yes").output

    # The same data ask for no other model; another tenant's do. No
    # tenant has another model.
    again = ask_for_shared_model(deployment, churn, by="test", why="again")
    assert again is not None
    assert again.status == "registered"
    winter = ids.model_of(tenants[0], ids.model_name("winter"))
    with TenantClient(deployment, churn, tenants[3]) as client:
        client.upload({"customers.parquet": known(customers["t3"])})
    with TenantClient.of_model(deployment, churn, winter) as client:
        client.upload({"customers.parquet": customers["t3"]})
    assert take_in(deployment, dagster_instance).accepted == 1
    (_, refused) = queue.of_tenant(CHURN, tenants[0])
    assert (refused.status, refused.reason_code) == ("refused", ONE_MODEL_FOR_ALL)
    for result in onboard(deployment, dagster_instance, churn):
        assert result.success
    assert run(dagster_instance, "churn_shared_model", None).success
    (result,) = onboard(deployment, dagster_instance, churn)
    assert result.success
    assert len(registry.versions(ids.SHARED, CHURN)) == 2
    # One whose customers' fates are all known has nobody to score, and costs the others nothing.
    assert run(dagster_instance, "churn_batch_predictions", None).success
    told = metadata_of(dagster_instance, "churn", "batch_predictions")
    assert set(told) == set(tenants[:3])


def test_without_data_there_is_no_shared_model(deployment: Deployment, churn: Workload) -> None:
    assert ask_for_shared_model(deployment, churn, by="test", why="a try") is None
    with (
        TenantClient(deployment, churn, ids.tenant_id("acme")) as client,
        pytest.raises(NoModelYetError),
    ):
        client.predict({})
    with pytest.raises(ids.InvalidIdError, match="model of all tenants"):
        ids.tenant_id("shared")

"""Operators' actions from the command line appear in Dagster like their actions in its UI."""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from dagster import DagsterInstance, SkipReason, build_sensor_context
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from orchestration.definitions import defs
from orchestration.jobs import jobs_of
from orchestration.private_dagster.chosen_partitions import asset_key
from orchestration.sensors import sensors_of
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import Endpoint
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, table_keys
from tenantry.onboarding.registration import register
from tenantry.workloads.schema import Workload, read_workloads
from tests.conftest import TrainedForecast
from tests.orchestration.running import TENANTRY, metadata_of, run, uploads_observed
from tests.tenantry.command_line.conftest import caller
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version

REGISTRATION = asset_key("energy", "endpoint_registration")
OPERATOR = f"operator {getpass.getuser()}"
NOTHING = "no operator did anything new"


@pytest.fixture
def tenant() -> ids.TenantId:
    return ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")


def tick(instance: DagsterInstance) -> str:
    """One evaluation of the sensor."""
    workloads = read_workloads()
    jobs = {name: jobs_of(workload) for name, workload in workloads.items()}
    (sensor,) = [
        one
        for one in sensors_of(workloads, jobs, timedelta(seconds=1))
        if one.name == "operator_events"
    ]
    with build_sensor_context(instance=instance, resources={"tenantry": TENANTRY}) as context:
        said = sensor(context)
    assert isinstance(said, SkipReason)
    return str(said.skip_message)


def observed(instance: DagsterInstance, tenant: ids.ModelId) -> list[Mapping[str, Any]]:
    """The observations of the tenant's partition, the latest first."""
    records = instance.fetch_observations(REGISTRATION, limit=100).records
    found = [record.event_log_entry.asset_observation for record in records]
    return [
        {name: value.value for name, value in one.metadata.items()}
        for one in found
        if one and one.partition == tenant
    ]


def test_a_rollback_by_command_shows_in_dagster_as_the_uis_job_does(
    serving: tuple[Deployment, Workload, Endpoint],
    trained_forecasts: list[TrainedForecast],
    dagster_instance: DagsterInstance,
    tenant: ids.TenantId,
) -> None:
    deployment, energy, endpoint = serving
    first, second = (
        trained_version(
            deployment,
            tenant,
            number,
            trained_forecasts[0].archive,
            {"mase": 0.8, "baseline_mase": 1.0},
        )
        for number in (1, 2)
    )
    for model in (first, second):
        register(deployment, energy, model, route_to(endpoint.name, model))
    assert tick(dagster_instance) == NOTHING
    call = caller(deployment)
    call("rollback", tenant, "--workload", "energy", "--why", "it missed the holidays", "--yes")
    assert metadata_of(dagster_instance, "energy", "endpoint_registration") == {}, (
        "it waits for the sensor"
    )

    assert tick(dagster_instance) == "shown: 1 changes that operators made"
    by_command = metadata_of(dagster_instance, "energy", "endpoint_registration")[tenant]
    assert (by_command["version"], by_command["by"], by_command["why"]) == (
        first.version,
        OPERATOR,
        "it missed the holidays",
    )
    (record,) = dagster_instance.fetch_materializations(REGISTRATION, limit=5).records
    assert record.asset_materialization is not None
    assert (record.asset_materialization.tags or {})[DATA_VERSION_TAG] == first.version
    assert tick(dagster_instance) == NOTHING, "once is enough"

    config = {
        "ops": {
            "energy_roll_back": {
                "config": {"to": second.version, "why": "all is well", "tenants": [tenant]}
            }
        }
    }
    assert run(dagster_instance, "energy_rollback", config).success
    by_job = metadata_of(dagster_instance, "energy", "endpoint_registration")[tenant]
    assert set(by_command) - {"at"} == set(by_job) - {"previous"}
    assert by_job["by"].startswith("run ")

    call("rollback", tenant, "--workload", "energy", "--to", second.version, "--yes")
    assert tick(dagster_instance) == NOTHING, "it was the champion already"


def test_a_tier_set_by_command_and_one_set_in_the_ui_show_alike(
    serving: tuple[Deployment, Workload, Endpoint],
    dagster_instance: DagsterInstance,
    tenant: ids.TenantId,
) -> None:
    deployment, _, _ = serving
    registry = ModelRegistry(deployment)
    caller(deployment)("tier", tenant, "energy", "silo", "--why", "its contract says so")
    assert tick(dagster_instance) == "shown: 1 changes that operators made"
    (by_command,) = observed(dagster_instance, tenant)
    assert (by_command["tier"], by_command["by"], by_command["why"]) == (
        "silo",
        OPERATOR,
        "its contract says so",
    )

    done = defs.resolve_job_def("energy_tier").execute_in_process(
        instance=dagster_instance,
        run_config={
            "ops": {
                "energy_set_tier": {
                    "config": {"tier": "pool", "why": "a test", "tenants": [tenant]}
                }
            }
        },
        resources={"tenantry": TENANTRY},
    )
    assert done.success
    assert registry.own_tier(tenant, NAME) == "pool"
    by_job, _ = observed(dagster_instance, tenant)
    assert set(by_command) - {"at"} == set(by_job)
    assert (by_job["tier"], by_job["by"].partition(" ")[0]) == ("pool", "run")


def test_a_capacity_given_by_command_shows_as_the_asset_does(
    serving: tuple[Deployment, Workload, Endpoint], dagster_instance: DagsterInstance
) -> None:
    deployment, _, endpoint = serving
    caller(deployment)("capacity", "energy", "1", "--hours", "2", "--yes")
    assert tick(dagster_instance) == "shown: 1 changes that operators made"
    materialized = dagster_instance.get_latest_materialization_event(
        asset_key("energy", "endpoint_capacity")
    )
    assert materialized is not None
    assert materialized.asset_materialization is not None
    shown = {
        name: value.value for name, value in materialized.asset_materialization.metadata.items()
    }
    assert (shown["endpoint"], shown["instances"], shown["by"]) == (endpoint.name, 1, OPERATOR)


def test_a_row_that_is_no_event_keeps_nobody_elses_from_being_shown(
    serving: tuple[Deployment, Workload, Endpoint],
    dagster_instance: DagsterInstance,
    tenant: ids.TenantId,
) -> None:
    deployment, _, _ = serving
    for number, document in enumerate(("", "[]", '{"kind": "materialization"}')):
        row = {
            "tenant": table_keys.ACCOUNT_PARTITION,
            "request": f"operator_event#0{number}",
            "document": document,
        }
        deployment.dynamodb.put_item(
            TableName=deployment.requests_table,
            Item={name: {"S": value} for name, value in row.items()},
        )
    caller(deployment)("tier", tenant, "energy", "silo")
    assert tick(dagster_instance) == "shown: 1 changes that operators made"
    assert [one["tier"] for one in observed(dagster_instance, tenant)] == ["silo"]
    assert tick(dagster_instance) == NOTHING


def test_a_pause_by_command_shows_as_the_uis_job_does(
    deployment: Deployment, dagster_instance: DagsterInstance
) -> None:
    call = caller(deployment)
    call("resume", "energy")
    assert tick(dagster_instance) == NOTHING, "it was not paused"
    call("pause", "energy", "--why", "a new image")
    call("resume", "energy")
    assert tick(dagster_instance) == "shown: 2 changes that operators made"
    resumed, paused = uploads_observed(dagster_instance, "energy")
    assert (paused["requests"], paused["why"]) == ("paused: none is claimed", "a new image")
    assert resumed["requests"] == "claimed again"
    assert {one["by"] for one in (paused, resumed)} == {OPERATOR}

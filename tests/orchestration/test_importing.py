"""A model that was trained elsewhere inside Dagster: its artifact and its registration are shown,
and no training data."""

from __future__ import annotations

from dagster import DagsterInstance

from orchestration.definitions import defs
from orchestration.private_dagster.chosen_partitions import asset_key
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.shown.report import ONBOARDING
from tenantry.workloads.schema import Workload
from tests.conftest import TrainedForecast
from tests.orchestration.archives import made_elsewhere
from tests.orchestration.running import (
    TENANTRY,
    metadata_of,
    onboard,
    statuses,
    take_in,
    unexplained,
)

ENERGY = ids.workload_name("energy")


def test_an_import_shows_its_artifact_and_registration_and_a_bad_one_its_reason(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    workload: Workload,
    trained_forecasts: list[TrainedForecast],
) -> None:
    acme, globex = ids.tenant_id("acme"), ids.tenant_id("globex")
    archive = trained_forecasts[0].archive
    TenantClient(deployment, workload, acme).import_model(made_elsewhere(archive))
    TenantClient(deployment, workload, globex).import_model(archive)  # another tenant's
    taken = take_in(deployment, dagster_instance)
    assert (taken.accepted, taken.refused) == (2, [])

    (result,) = onboard(deployment, dagster_instance, workload)

    assert result.success, "operators cannot mend an owner's upload"
    shown = {
        asset: statuses(dagster_instance, "energy", asset, [acme, globex])
        for asset in ("training_data", "fine_tuned_artifact", "endpoint_registration")
    }
    assert shown == {
        "training_data": {"acme": "none", "globex": "none"},
        "fine_tuned_artifact": {"acme": "MATERIALIZED", "globex": "FAILED"},
        "endpoint_registration": {"acme": "MATERIALIZED", "globex": "FAILED"},
    }
    (row,) = RequestQueue(deployment).of_tenant(ENERGY, acme)
    artifacts = metadata_of(dagster_instance, "energy", "fine_tuned_artifact")
    assert artifacts["acme"]["version"] == row.version
    assert artifacts["acme"]["mase"] == trained_forecasts[0].outcome["metrics"]["mase"]
    assert "another tenant's" in artifacts["globex"]["not_made"]
    registered = metadata_of(dagster_instance, "energy", "endpoint_registration")["acme"]
    assert registered["decision"] == "the tenant's first model"
    assert unexplained(dagster_instance, workload) == set()

    by_hand = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={asset_key("energy", asset) for asset in ONBOARDING},
        asset_check_selection=set(),
    )
    again = by_hand.execute_in_process(
        instance=dagster_instance, partition_key=acme, resources={"tenantry": TENANTRY}
    )
    assert again.success
    versions = ModelRegistry(deployment).versions(acme, ENERGY)
    assert [version.status for version in versions] == ["former_champion", "champion"]
    assert statuses(dagster_instance, "energy", "training_data", [acme]) == {"acme": "none"}

"""Dagster runs in a test's own process: a tick of the sensors' plain code, and the runs that it
requests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from dagster import DagsterInstance, ExecuteInProcessResult, FloatMetadataValue, IntMetadataValue

from orchestration.definitions import defs
from orchestration.launcher import runs_to_request
from orchestration.partitions import add_tenants, tenants_of
from orchestration.private_dagster.chosen_partitions import asset_key
from resources.tenantry_resource import Settings, TenantryResource
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.shown.figures import figures_of
from tenantry.uploads import intake
from tenantry.workloads.schema import Workload, read_workloads
from tenantry.workloads.shown_assets import WORKLOAD_ASSETS

TENANTRY: Final = TenantryResource(
    settings=Settings(stack="tenantry", poll_seconds=0.3, lost_run_seconds=60)
)


def at_once(workload: Workload) -> Workload:
    """The workload, with packs that do not wait for further requests."""
    pack = workload.training.pack.model_copy(update={"wait_seconds": 0})
    return workload.model_copy(
        update={"training": workload.training.model_copy(update={"pack": pack})}
    )


def take_in(deployment: Deployment, instance: DagsterInstance) -> intake.Intake:
    return intake.drain_queue(
        deployment, read_workloads(), partial(add_tenants, instance), max_seconds=20
    )


def run(
    instance: DagsterInstance, job: str, config: Any, tags: dict[str, str] | None = None
) -> ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        run_config=config,
        tags=tags,
        raise_on_error=False,
        resources={"tenantry": TENANTRY},
    )


def onboard(
    deployment: Deployment, instance: DagsterInstance, workload: Workload
) -> list[ExecuteInProcessResult]:
    """One tick of the launcher, and its runs."""
    requests = list(
        runs_to_request(instance, RequestQueue(deployment), workload, lost_run_seconds=60)
    )
    return [
        run(instance, str(request.job_name), request.run_config, dict(request.tags))
        for request in requests
    ]


def statuses(
    instance: DagsterInstance, workload: str, asset: str, tenants: Sequence[ids.ModelId]
) -> dict[str, str]:
    """The status of each tenant's partition of an asset, as the UI shows it."""
    found = (
        instance.get_status_by_partition(asset_key(workload, asset), tenants, tenants_of(workload))
        or {}
    )
    return {tenant: status.value if (status := found.get(tenant)) else "none" for tenant in tenants}


def metadata_of(instance: DagsterInstance, workload: str, asset: str) -> dict[str, dict[str, Any]]:
    """The metadata of each tenant's latest materialisation of an asset."""
    records = instance.fetch_materializations(asset_key(workload, asset), limit=100).records
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        made = record.asset_materialization
        if made is not None and made.partition is not None:
            found.setdefault(
                made.partition, {name: value.value for name, value in made.metadata.items()}
            )
    return found


def unexplained(instance: DagsterInstance, workload: Workload) -> set[tuple[str, str]]:
    """The numbers in assets' latest events that no asset's description explains, by asset and
    metadata entry."""
    found = set()
    for asset in WORKLOAD_ASSETS:
        key = asset_key(workload.name, asset)
        records = [
            *instance.fetch_materializations(key, limit=100).records,
            *instance.fetch_observations(key, limit=100).records,
        ]
        for record in records:
            event = record.event_log_entry.asset_materialization or (
                record.event_log_entry.asset_observation
            )
            for name, value in (event.metadata if event is not None else {}).items():
                number = isinstance(value, IntMetadataValue | FloatMetadataValue)
                if number and not name.startswith("dagster/"):
                    found.add((asset, name))
    return {(asset, name) for asset, name in found if name not in figures_of(workload, asset)}


def uploads_observed(instance: DagsterInstance, workload: str) -> list[dict[str, Any]]:
    """The observations of a workload's ``uploads``, the latest first."""
    records = instance.fetch_observations(asset_key(workload, "uploads"), limit=100).records
    events = [record.event_log_entry.asset_observation for record in records]
    return [
        {name: value.value for name, value in event.metadata.items()} for event in events if event
    ]

"""Dagster runs in a test's own process: a tick of the sensors' plain code, and the runs it asks
for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from dagster import DagsterInstance, ExecuteInProcessResult

from orchestration.definitions import defs
from orchestration.launcher import runs_to_request
from orchestration.partitions import add_tenants, tenants_of
from orchestration.private_dagster.chosen_partitions import asset_key
from resources.tenantry_resource import TenantryResource
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.uploads import intake
from tenantry.workloads.schema import Workload, read_workloads

TENANTRY: Final = TenantryResource(stack="tenantry", poll_seconds=0.3, lost_run_seconds=60)


def at_once(workload: Workload) -> Workload:
    """The workload, with packs that do not wait for company."""
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
    instance: DagsterInstance, workload: str, asset: str, tenants: Sequence[ids.TenantId]
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

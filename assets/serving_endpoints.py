"""``serving_endpoint`` and ``asynchronous_endpoint``: made and updated as the YAML says."""

from collections.abc import Callable
from typing import Any

from dagster import AssetKey, AssetsDefinition, AutomationCondition, MaterializeResult, asset

from assets.described import described
from orchestration.private_dagster.chosen_partitions import asset_key
from resources.tenantry_resource import TenantryResource
from tenantry.capacity.new_endpoints import champions_at
from tenantry.hosting import endpoints
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.catalogue import real_time_shape
from tenantry.names import ids
from tenantry.workloads.schema import Workload
from tenantry.workloads.shown_assets import WorkloadAsset


def missing_or_changed() -> AutomationCondition[Any]:
    """The condition holds:

    - once when the asset is missing, even at the very first evaluation;
    - whenever its code version changes;
    - every five minutes while its latest run failed, as after an update that was rolled back.

    ``AutomationCondition.on_missing()`` ignores assets that were missing at its first evaluation.
    """
    missing: AutomationCondition[Any] = AutomationCondition.missing().newly_true()
    failed = AutomationCondition.execution_failed() & AutomationCondition.cron_tick_passed(
        "*/5 * * * *"
    )
    wanted = missing | AutomationCondition.code_version_changed() | failed
    handled = AutomationCondition.newly_requested() | AutomationCondition.newly_updated()
    return wanted.since(handled) & ~AutomationCondition.in_progress()


def serving_endpoint_asset(workload: Workload) -> AssetsDefinition:
    """``serving_endpoint``: the endpoint of the workload's own tier that answers at once."""

    @_endpoint_asset(
        workload,
        "serving_endpoint",
        f"the endpoint that serves every tenant of the {workload.tier} tier from shared machines.",
    )
    def serving_endpoint(tenantry: TenantryResource) -> MaterializeResult[Any]:
        deployment, machines = tenantry.deployment, workload.shared_machines
        shape = real_time_shape(workload, machines.tier)
        serves = []
        if shape.deploys:
            name = ids.workload_name(workload.name)
            endpoint = shape.endpoint_name(deployment.prefix, name, machines)
            serves = champions_at(deployment, name, endpoint)
            if not serves:
                return MaterializeResult(
                    metadata={"endpoint": endpoint, "status": "made with its first model"}
                )
        return _as_result(
            endpoints.ensure_endpoint(deployment, workload, machines, shape, serves=serves)
        )

    return serving_endpoint


def asynchronous_endpoint_asset(workload: Workload) -> AssetsDefinition:
    """``asynchronous_endpoint``: the endpoint for requests that take long or may wait, of a
    workload that has one."""

    @_endpoint_asset(
        workload,
        "asynchronous_endpoint",
        f"the endpoint that answers every tenant of the {workload.tier} tier through S3, later.",
    )
    def asynchronous_endpoint(tenantry: TenantryResource) -> MaterializeResult[Any]:
        return _as_result(
            endpoints.ensure_endpoint(
                tenantry.deployment, workload, workload.shared_machines, ASYNCHRONOUS
            )
        )

    return asynchronous_endpoint


def _endpoint_asset(
    workload: Workload, name: WorkloadAsset, what: str
) -> Callable[..., AssetsDefinition]:
    """The decorator of an endpoint's asset: made when it is missing, updated when the YAML
    changes."""
    return asset(
        key=asset_key(workload.name, name),
        automation_condition=missing_or_changed(),
        code_version=workload.endpoint_version,
        **described(workload, name, what),
    )


def _as_result(endpoint: endpoints.Endpoint) -> MaterializeResult[Any]:
    return MaterializeResult(
        metadata={
            "endpoint": endpoint.name,
            "arn": endpoint.arn,
            "status": endpoint.status,
            "configuration": endpoint.config,
            "instances": endpoint.instances,
            "change": endpoint.change,
        }
    )


def endpoint_keys(workload: Workload) -> list[AssetKey]:
    """The endpoints that a workload's tenants share."""
    names = [
        "serving_endpoint",
        *(["asynchronous_endpoint"] if workload.serving.asynchronous is not None else []),
    ]
    return [asset_key(workload.name, name) for name in names]

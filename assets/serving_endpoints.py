"""``serving_endpoint`` and ``asynchronous_endpoint``: made and updated as the YAML says."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetsDefinition,
    AutomationCondition,
    Failure,
    MaterializeResult,
    asset,
)

from assets.described import described
from orchestration.private_dagster.chosen_partitions import asset_key
from resources.tenantry_resource import TenantryResource
from tenantry.aws.deployment import Deployment
from tenantry.capacity.new_endpoints import champions_at
from tenantry.hosting import endpoints
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.catalogue import real_time_shape
from tenantry.hosting.shapes.shape import Shape
from tenantry.names import ids
from tenantry.workloads.schema import Workload
from tenantry.workloads.shown_assets import WorkloadAsset

CHECK: Final = "endpoint_serves_its_file"
CHECK_DESCRIPTION: Final = "The endpoint serves what the workload's file says."


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
    def serving_endpoint(tenantry: TenantryResource) -> Iterator[Any]:
        deployment, machines = tenantry.deployment, workload.shared_machines
        shape = real_time_shape(workload, machines.tier)
        serves = []
        if shape.deploys:
            name = ids.workload_name(workload.name)
            endpoint = shape.endpoint_name(deployment.prefix, name, machines)
            serves = champions_at(deployment, name, endpoint)
            if not serves:
                yield _result({"endpoint": endpoint, "status": "made with its first model"})
                return
        yield from _in_service(deployment, workload, shape, serves)

    return serving_endpoint


def asynchronous_endpoint_asset(workload: Workload) -> AssetsDefinition:
    """``asynchronous_endpoint``: the endpoint for requests that take long or may wait, of a
    workload that has one."""

    @_endpoint_asset(
        workload,
        "asynchronous_endpoint",
        f"the endpoint that answers every tenant of the {workload.tier} tier through S3, later.",
    )
    def asynchronous_endpoint(tenantry: TenantryResource) -> Iterator[Any]:
        yield from _in_service(tenantry.deployment, workload, ASYNCHRONOUS, ())

    return asynchronous_endpoint


def _endpoint_asset(
    workload: Workload, name: WorkloadAsset, what: str
) -> Callable[..., AssetsDefinition]:
    """The decorator of an endpoint's asset: made when it is missing, updated when the YAML
    changes."""
    key = asset_key(workload.name, name)
    return asset(
        key=key,
        check_specs=[AssetCheckSpec(CHECK, asset=key, description=CHECK_DESCRIPTION)],
        automation_condition=missing_or_changed(),
        code_version=workload.endpoint_version,
        **described(workload, name, what),
    )


def _in_service(
    deployment: Deployment, workload: Workload, shape: Shape, serves: Sequence[Route]
) -> Iterator[Any]:
    """Bring the shared endpoint of a shape into service, as the file says.

    An update that was taken back fails the check, with SageMaker's reason.

    - If the release is at fault, the run ends well: nobody tries the same release again.
    - If there was no machine, the run fails, so that it is tried again.
    """
    machines = workload.shared_machines
    try:
        endpoint = endpoints.ensure_endpoint(deployment, workload, machines, shape, serves=serves)
    except endpoints.EndpointFailedError as error:
        yield AssetCheckResult(
            passed=False,
            check_name=CHECK,
            severity=AssetCheckSeverity.ERROR,
            metadata={"reason": str(error)},
        )
        if not error.judges_the_model:
            raise Failure(str(error)) from error
        yield MaterializeResult(metadata={"change": "taken back", "reason": str(error)})
        return
    yield _result(
        {
            "endpoint": endpoint.name,
            "arn": endpoint.arn,
            "status": endpoint.status,
            "configuration": endpoint.config,
            "instances": endpoint.instances,
            "change": endpoint.change,
        }
    )


def _result(metadata: dict[str, Any]) -> MaterializeResult[Any]:
    return MaterializeResult(
        metadata=metadata, check_results=[AssetCheckResult(passed=True, check_name=CHECK)]
    )


def endpoint_keys(workload: Workload) -> list[AssetKey]:
    """The endpoints that a workload's tenants share."""
    names = [
        "serving_endpoint",
        *(["asynchronous_endpoint"] if workload.serving.asynchronous is not None else []),
    ]
    return [asset_key(workload.name, name) for name in names]

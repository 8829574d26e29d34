"""``endpoint_capacity`` and ``asynchronous_capacity``: how many instances the endpoints have."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AutomationCondition,
    Config,
    Failure,
    MaterializeResult,
    asset,
)
from pydantic import Field

from assets.described import described
from assets.serving_endpoints import missing_or_changed
from orchestration.private_dagster.chosen_partitions import asset_key, metadata_value
from resources.tenantry_resource import TenantryResource
from tenantry.aws.deployment import Deployment
from tenantry.capacity.every_endpoint import (
    NoEndpointOfItsOwnError,
    OtherEndpoints,
    mend_others,
    own_endpoint,
)
from tenantry.capacity.registration import Capacity, Override, register_capacity
from tenantry.capacity.scaled_endpoints import Kind, scaled_endpoint, shape_of
from tenantry.hosting import endpoints
from tenantry.names import ids
from tenantry.shown.capacity_view import (
    CHECK,
    CHECK_DESCRIPTION,
    capacity_metadata,
    others_metadata,
    others_that_differed,
)
from tenantry.workloads.schema import Workload
from tenantry.workloads.shown_assets import WorkloadAsset


class CapacityConfig(Config):
    """What the workload's YAML says, or an operator's number of instances for a time."""

    instances: int | None = Field(
        None, ge=0, le=1000, description="Instances for some hours; empty for what the YAML says."
    )
    hours: float = Field(8.0, gt=0, le=24 * 31, description="How long that number holds.")
    end_override: bool = Field(
        False, description="End such a number now, and return to what the YAML says."
    )
    tenant: str | None = Field(
        None,
        description="The silo tenant whose own endpoint gets that number, or whose number ends; "
        "empty for the shared endpoint.",
    )


def capacity_assets(workload: Workload) -> list[AssetsDefinition]:
    """The capacity of the workload's endpoints: the shared one as metadata, the others in a
    table."""
    made = [_capacity_asset(workload, "endpoint_capacity", "serving_endpoint", "real_time")]
    if workload.serving.asynchronous is not None:
        made.append(
            _capacity_asset(
                workload, "asynchronous_capacity", "asynchronous_endpoint", "asynchronous"
            )
        )
    return made


def capacity_keys(workload: Workload) -> list[AssetKey]:
    """Their keys."""
    names = [
        "endpoint_capacity",
        *(["asynchronous_capacity"] if workload.serving.asynchronous is not None else []),
    ]
    return [asset_key(workload.name, name) for name in names]


def _capacity_asset(
    workload: Workload, name: WorkloadAsset, of: WorkloadAsset, kind: Kind
) -> AssetsDefinition:
    key, of_endpoint = asset_key(workload.name, name), asset_key(workload.name, of)

    @asset(
        key=key,
        deps=[of_endpoint],
        check_specs=[AssetCheckSpec(CHECK, asset=key, description=CHECK_DESCRIPTION)],
        automation_condition=_registered_with_its_endpoint(),
        code_version=workload.capacity_version,
        **described(
            workload, name, "the instances behind its endpoints, and what the shared one costs."
        ),
    )
    def capacity(
        context: AssetExecutionContext, config: CapacityConfig, tenantry: TenantryResource
    ) -> Iterator[MaterializeResult[Any]]:
        deployment = tenantry.deployment
        if config.tenant is not None:
            _give_to_tenant(deployment, workload, kind, config)
        try:
            done = _shared_capacity(deployment, workload, kind, config)
        finally:  # a shared endpoint that fails does not keep the others from following the file
            others = mend_others(deployment, workload, kind, tell=context.log.info)
        shared = scaled_endpoint(deployment.prefix, workload, workload.shared_machines, kind)
        shown = {
            **capacity_metadata(deployment, shared, done),
            **others_metadata(deployment, others),
        }
        yield MaterializeResult(
            metadata={key: metadata_value(key, value) for key, value in shown.items()},
            check_results=[_check(done, others)],
        )

    return capacity


def _shared_capacity(
    deployment: Deployment, workload: Workload, kind: Kind, config: CapacityConfig
) -> Capacity:
    machines = workload.shared_machines
    # A release that cannot be served does not hold up a change of capacity.
    endpoints.ensure_endpoint(
        deployment,
        workload,
        machines,
        shape_of(workload, machines.tier, kind),
        began=datetime.now(UTC),
    )
    shared = scaled_endpoint(deployment.prefix, workload, machines, kind)
    if config.tenant is not None:
        return register_capacity(deployment, shared)
    return register_capacity(
        deployment, shared, override=_override(config), end_override=config.end_override
    )


def _give_to_tenant(
    deployment: Deployment, workload: Workload, kind: Kind, config: CapacityConfig
) -> None:
    """Give a silo tenant's endpoint an operator's number, or end it. Raises ``Failure``."""
    if config.instances is None and not config.end_override:
        raise Failure("tenant needs instances or end_override: give one.", allow_retries=False)
    try:
        own = own_endpoint(deployment, workload, ids.tenant_id(config.tenant), kind)
    except (NoEndpointOfItsOwnError, ids.InvalidIdError) as error:
        raise Failure(str(error), allow_retries=False) from error
    register_capacity(deployment, own, override=_override(config), end_override=config.end_override)


def _override(config: CapacityConfig) -> Override | None:
    if config.instances is None:
        return None
    return Override(config.instances, datetime.now(UTC) + timedelta(hours=config.hours))


def _check(done: Capacity, others: OtherEndpoints) -> AssetCheckResult:
    """A warning about what differed, and an error where an endpoint could not be registered."""
    differed = [*done.differed, *others_that_differed(others)]
    failed = any(one.failure for one in others.looked_at)
    return AssetCheckResult(
        check_name=CHECK,
        passed=not differed,
        severity=AssetCheckSeverity.ERROR if failed else AssetCheckSeverity.WARN,
        metadata={"differed": differed},
    )


def _registered_with_its_endpoint() -> AutomationCondition[Any]:
    """The condition holds when the endpoint is made or updated, or the YAML's section changes."""
    return (
        (missing_or_changed() | AutomationCondition.any_deps_updated()).since(
            AutomationCondition.newly_requested() | AutomationCondition.newly_updated()
        )
        & ~AutomationCondition.any_deps_missing()
        & ~AutomationCondition.any_deps_in_progress()
        & ~AutomationCondition.in_progress()
    )

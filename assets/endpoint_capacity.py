"""``endpoint_capacity`` and ``asynchronous_capacity``: how many instances the endpoints have."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetsDefinition,
    AutomationCondition,
    Config,
    MaterializeResult,
    asset,
)
from pydantic import Field

from assets.described import described
from assets.serving_endpoints import missing_or_changed
from orchestration.private_dagster.chosen_partitions import asset_key, metadata_value
from resources.tenantry_resource import TenantryResource
from tenantry.capacity.registration import Override, register_capacity
from tenantry.capacity.scaled_endpoints import Kind, scaled_endpoint
from tenantry.hosting import endpoints
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.shown.capacity_view import CHECK, CHECK_DESCRIPTION, capacity_metadata
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


def capacity_assets(workload: Workload) -> list[AssetsDefinition]:
    """The capacity of the workload's shared endpoints."""
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
    shape = MULTI_MODEL if kind == "real_time" else ASYNCHRONOUS

    @asset(
        key=key,
        deps=[of_endpoint],
        check_specs=[AssetCheckSpec(CHECK, asset=key, description=CHECK_DESCRIPTION)],
        automation_condition=_registered_with_its_endpoint(),
        code_version=workload.capacity_version,
        **described(workload, name, "the instances behind the endpoint, and what they cost."),
    )
    def capacity(
        config: CapacityConfig, tenantry: TenantryResource
    ) -> Iterator[MaterializeResult[Any]]:
        deployment, machines = tenantry.deployment, workload.shared_machines
        # A release that cannot be served does not hold up a change of capacity.
        endpoints.ensure_endpoint(deployment, workload, machines, shape, began=datetime.now(UTC))
        scaled = scaled_endpoint(deployment.prefix, workload, machines, kind)
        override = (
            None
            if config.instances is None
            else Override(config.instances, datetime.now(UTC) + timedelta(hours=config.hours))
        )
        done = register_capacity(
            deployment, scaled, override=override, end_override=config.end_override
        )
        shown = capacity_metadata(deployment, scaled, done)
        yield MaterializeResult(
            metadata={key: metadata_value(key, value) for key, value in shown.items()},
            check_results=[
                AssetCheckResult(
                    check_name=CHECK,
                    passed=not done.differed,
                    severity=AssetCheckSeverity.WARN,
                    metadata={"differed": list(done.differed)},
                )
            ],
        )

    return capacity


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

"""``endpoint_capacity``: how many instances an endpoint has."""

from datetime import UTC, datetime
from typing import Any

from dagster import AssetsDefinition, Config, MaterializeResult, asset
from pydantic import Field

from assets.described import described
from orchestration.private_dagster.chosen_partitions import asset_key
from resources.tenantry_resource import TenantryResource
from tenantry.hosting import endpoints
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.shown.asset_metadata import capacity_metadata
from tenantry.workloads.schema import Workload


class CapacityConfig(Config):
    """The number of instances that the endpoint gets."""

    instances: int = Field(
        0, ge=0, le=1000, description="Instances; 0 for what the workload's YAML says."
    )


def endpoint_capacity_asset(workload: Workload) -> AssetsDefinition:
    """``endpoint_capacity``: how many instances the endpoint has, as the schedules of the YAML or a
    person say."""

    @asset(
        key=asset_key(workload.name, "endpoint_capacity"),
        deps=[asset_key(workload.name, "serving_endpoint")],
        **described(
            workload, "endpoint_capacity", "the instances behind the endpoint, and what they cost."
        ),
    )
    def endpoint_capacity(
        config: CapacityConfig, tenantry: TenantryResource
    ) -> MaterializeResult[Any]:
        # A release that cannot be served does not hold up a change of capacity.
        endpoint = endpoints.ensure_endpoint(
            tenantry.deployment,
            workload,
            workload.shared_machines,
            MULTI_MODEL,
            began=datetime.now(UTC),
        )
        endpoint = endpoints.set_capacity(
            tenantry.deployment, endpoint.name, config.instances or workload.serving.instances
        )
        return MaterializeResult(
            metadata=capacity_metadata(endpoint, workload.serving.usd_per_hour)
        )

    return endpoint_capacity

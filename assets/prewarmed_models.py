"""``prewarmed_models``: the models that are loaded before they are asked."""

from datetime import UTC, datetime
from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, asset

from assets.described import described
from orchestration.private_dagster.chosen_partitions import asset_key, metadata_value
from resources.tenantry_resource import TenantryResource
from tenantry.capacity.prewarming import prewarm
from tenantry.shown.asset_metadata import prewarming_metadata
from tenantry.workloads.capacity import Prewarming
from tenantry.workloads.schema import Workload


def prewarmed_models_asset(workload: Workload, section: Prewarming) -> AssetsDefinition:
    """The workload's ``prewarmed_models``, materialised by its schedule, and by hand at any
    time."""

    @asset(
        key=asset_key(workload.name, "prewarmed_models"),
        deps=[asset_key(workload.name, name) for name in ("serving_endpoint", "endpoint_capacity")],
        **described(
            workload,
            "prewarmed_models",
            f"models that were asked in the coming {section.hours} hours of earlier days, loaded "
            f"before they are asked today.",
        ),
    )
    def prewarmed_models(
        context: AssetExecutionContext, tenantry: TenantryResource
    ) -> MaterializeResult[Any]:
        done = prewarm(tenantry.deployment, workload, section, datetime.now(UTC))
        context.log.info(str(done))
        shown = prewarming_metadata(done)
        return MaterializeResult(
            metadata={name: metadata_value(name, value) for name, value in shown.items()}
        )

    return prewarmed_models

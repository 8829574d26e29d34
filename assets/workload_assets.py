"""The Dagster assets of a workload, from its YAML: thin over the plain code of ``tenantry``."""

from dagster import AssetsDefinition, AssetSpec, PartitionsDefinition

from assets.batch_predictions import batch_predictions_asset
from assets.endpoint_capacity import capacity_assets
from assets.fleet import fleet_asset
from assets.onboarding import onboarding_assets
from assets.prewarmed_models import prewarmed_models_asset
from assets.serving_endpoints import asynchronous_endpoint_asset, serving_endpoint_asset
from assets.uploads import uploads_asset
from tenantry.workloads.schema import Workload


def assets_of(
    workload: Workload, tenants: PartitionsDefinition[str]
) -> list[AssetsDefinition | AssetSpec]:
    """All assets of a workload."""
    return [
        uploads_asset(workload),
        onboarding_assets(workload, tenants),
        batch_predictions_asset(workload, tenants),
        serving_endpoint_asset(workload),
        *(
            [asynchronous_endpoint_asset(workload)]
            if workload.serving.asynchronous is not None
            else []
        ),
        *capacity_assets(workload),
        *_prewarmed_models(workload),
        fleet_asset(workload),
    ]


def _prewarmed_models(workload: Workload) -> list[AssetsDefinition]:
    section = workload.serving.prewarming
    return [] if section is None else [prewarmed_models_asset(workload, section)]

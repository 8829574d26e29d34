"""The jobs sensors and schedules launch; a person may launch them too."""

from dagster import AssetSelection, define_asset_job
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.chosen_partitions import asset_key
from assets.workload_assets import onboarding_selection
from workloads.schema import Workload


def fine_tuning_job(workload: Workload) -> UnresolvedAssetJobDefinition:
    """From requests to champions, one pack a run."""
    return define_asset_job(
        f"{workload.name}_fine_tuning",
        selection=onboarding_selection(workload).without_checks(),
        description=f"{workload.title}: prepares, trains and registers the requests of one pack.",
        tags={"tenantry/workload": workload.name},
    )


def batch_predictions_job(workload: Workload) -> UnresolvedAssetJobDefinition:
    """A day's predictions for everyone with a model."""
    return define_asset_job(
        f"{workload.name}_batch_predictions",
        selection=AssetSelection.assets(asset_key(workload.name, "batch_predictions")).without_checks(),
        description=f"{workload.title}: one day's predictions for every tenant with a model.",
        tags={"tenantry/workload": workload.name},
    )


def endpoint_capacity_job(workload: Workload) -> UnresolvedAssetJobDefinition:
    """A change of the endpoint's instance count."""
    return define_asset_job(
        f"{workload.name}_endpoint_capacity",
        selection=AssetSelection.assets(asset_key(workload.name, "endpoint_capacity")),
        description=f"{workload.title}: gives the endpoint the instances the hour needs.",
        tags={"tenantry/workload": workload.name},
    )

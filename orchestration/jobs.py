"""The jobs sensors and schedules launch; a person may launch them too."""

from typing import NamedTuple

from dagster import AssetSelection, define_asset_job
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.chosen_partitions import asset_key
from assets.workload_assets import onboarding_selection
from workloads.schema import Workload


class WorkloadJobs(NamedTuple):
    """The jobs of a workload."""

    fine_tuning: UnresolvedAssetJobDefinition
    batch_predictions: UnresolvedAssetJobDefinition
    endpoint_capacity: UnresolvedAssetJobDefinition


def jobs_of(workload: Workload) -> WorkloadJobs:
    """Make the jobs of a workload."""
    return WorkloadJobs(_fine_tuning(workload), _batch_predictions(workload), _endpoint_capacity(workload))


def _fine_tuning(workload: Workload) -> UnresolvedAssetJobDefinition:
    return define_asset_job(
        f"{workload.name}_fine_tuning",
        selection=onboarding_selection(workload).without_checks(),
        description=f"{workload.title}: prepares, trains and registers the requests of one pack.",
        tags={"tenantry/workload": workload.name},
    )


def _batch_predictions(workload: Workload) -> UnresolvedAssetJobDefinition:
    return define_asset_job(
        f"{workload.name}_batch_predictions",
        selection=AssetSelection.assets(asset_key(workload.name, "batch_predictions")).without_checks(),
        description=f"{workload.title}: one day's predictions for every tenant with a model.",
        tags={"tenantry/workload": workload.name},
    )


def _endpoint_capacity(workload: Workload) -> UnresolvedAssetJobDefinition:
    return define_asset_job(
        f"{workload.name}_endpoint_capacity",
        selection=AssetSelection.assets(asset_key(workload.name, "endpoint_capacity")),
        description=f"{workload.title}: gives the endpoint the instances the hour needs.",
        tags={"tenantry/workload": workload.name},
    )

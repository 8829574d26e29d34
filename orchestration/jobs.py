"""The jobs sensors and schedules launch; a person may launch them too."""

from typing import NamedTuple

from dagster import AssetSelection, JobDefinition, OpExecutionContext, define_asset_job, job, op
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.chosen_partitions import asset_key
from assets.workload_assets import BatchConfig, onboarding_selection, predict_day
from resources.dagster_resources import TenantryResource
from workloads.schema import Workload


class WorkloadJobs(NamedTuple):
    """The jobs of a workload."""

    fine_tuning: UnresolvedAssetJobDefinition
    batch_predictions: JobDefinition
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


def batch_step(workload: str) -> str:
    """The name of the step that predicts for everyone, under which its configuration stands."""
    return f"{workload}_predict_everyone"


def _batch_predictions(workload: Workload) -> JobDefinition:
    # A job of a step of its own rather than of the asset: Dagster resolves an asset's upstream partitions as a step starts,
    # and a run for everyone with a model has no partition key to resolve them from.
    @op(
        name=batch_step(workload.name),
        description="Predicts the day for every tenant with a model, many to a transform job.",
    )
    def predict_everyone(context: OpExecutionContext, config: BatchConfig, tenantry: TenantryResource) -> None:
        predict_day(context, config, tenantry, workload, None)

    @job(
        name=f"{workload.name}_batch_predictions",
        description=f"{workload.title}: one day's predictions for every tenant with a model.",
        tags={"tenantry/workload": workload.name},
    )
    def batch_predictions() -> None:
        predict_everyone()

    return batch_predictions


def _endpoint_capacity(workload: Workload) -> UnresolvedAssetJobDefinition:
    return define_asset_job(
        f"{workload.name}_endpoint_capacity",
        selection=AssetSelection.assets(asset_key(workload.name, "endpoint_capacity")),
        description=f"{workload.title}: gives the endpoint the instances the hour needs.",
        tags={"tenantry/workload": workload.name},
    )

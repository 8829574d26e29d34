"""The jobs sensors and schedules launch; a person may launch them too."""

from collections.abc import Sequence
from typing import NamedTuple

from dagster import (
    AssetSelection,
    Config,
    Failure,
    JobDefinition,
    OpExecutionContext,
    define_asset_job,
    job,
    op,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from assets.chosen_partitions import RunReport, asset_key
from assets.endpoint_registration import ArtifactUnusable, roll_back
from assets.retraining import ask_for_retraining
from assets.workload_assets import BatchConfig, onboarding_selection, predict_day, raise_for
from orchestration.partitions import tenants_of
from resources import hosting, keys
from resources.dagster_resources import TenantryResource
from resources.model_registry import ChampionChanged
from workloads.schema import Workload


class WorkloadJobs(NamedTuple):
    """The jobs of a workload."""

    fine_tuning: UnresolvedAssetJobDefinition
    batch_predictions: JobDefinition
    endpoint_capacity: UnresolvedAssetJobDefinition
    rollback: JobDefinition
    retraining: JobDefinition | None

    @property
    def all(self) -> Sequence[JobDefinition | UnresolvedAssetJobDefinition]:
        """Those the workload has."""
        return [made for made in self if made is not None]


class RollbackConfig(Config):
    """Whom to roll back, and why. A person who picked a partition leaves the tenants out."""

    tenants: list[str] = Field(default_factory=list, description="Tenants; empty for the chosen partition.")
    to: str = Field(
        "", description="The version to return to; empty for the champion's predecessor. For one tenant only."
    )
    why: str = Field("", description="Why, as a sentence: it stands in the versions' notes.")


def jobs_of(workload: Workload) -> WorkloadJobs:
    """Make the jobs of a workload."""
    return WorkloadJobs(
        _fine_tuning(workload),
        _batch_predictions(workload),
        _endpoint_capacity(workload),
        _rollback(workload),
        _retraining(workload) if workload.retraining is not None else None,
    )


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


def rollback_step(workload: str) -> str:
    """The name of the step that rolls back, under which its configuration stands."""
    return f"{workload}_roll_back"


def _rollback(workload: Workload) -> JobDefinition:
    @op(
        name=rollback_step(workload.name),
        description="Makes the previous champion of the chosen tenant champion again, once it has answered.",
    )
    def roll_back_chosen(context: OpExecutionContext, config: RollbackConfig, tenantry: TenantryResource) -> None:
        _roll_back_chosen(context, config, tenantry, workload)

    @job(
        name=f"{workload.name}_rollback",
        partitions_def=tenants_of(workload.name),
        description=f"{workload.title}: back to the model before, for the tenant picked as partition.",
        tags={"tenantry/workload": workload.name},
    )
    def rollback() -> None:
        roll_back_chosen()

    return rollback


def _roll_back_chosen(
    context: OpExecutionContext, config: RollbackConfig, tenantry: TenantryResource, workload: Workload
) -> None:
    chosen = config.tenants or ([context.partition_key] if context.has_partition_key else [])
    if not chosen:
        raise Failure("Nobody was chosen: pick a partition, or name tenants in the configuration.", allow_retries=False)
    if config.to and len(chosen) > 1:
        raise Failure("A version is one tenant's: leave `to` empty to roll back several.", allow_retries=False)
    failures: dict[keys.TenantId, str] = {}
    by = f"run {context.run.run_id}"
    with RunReport(context, workload.name) as report:
        for tenant in map(keys.tenant_id, dict.fromkeys(chosen)):
            try:
                champion = roll_back(
                    tenantry.deployment,
                    workload,
                    tenant,
                    to=keys.version_name(config.to) if config.to else None,
                    why=config.why,
                    by=by,
                )
            except (LookupError, ArtifactUnusable, hosting.EndpointFailed, ChampionChanged) as error:
                failures[tenant] = str(error)
                context.log.warning(f"{tenant}: not rolled back: {error}")
                continue
            metadata = {
                "version": champion.version,
                "decision": f"rolled back to {champion.version} from {champion.rolled_back_from or 'another version before'}",
                "champion": champion.version,
                **({"previous": champion.previous} if champion.previous else {}),
                **({"why": config.why} if config.why else {}),
                "endpoint": champion.endpoint,
                "target_model": keys.target_model(tenant, champion.version),
            }
            report.materialized("endpoint_registration", tenant, metadata, champion.version)
    raise_for(failures)


def _retraining(workload: Workload) -> JobDefinition:
    @op(
        name=f"{workload.name}_ask_for_retraining",
        description="Puts a request into the queue for each tenant whose champion is to be challenged.",
    )
    def ask(context: OpExecutionContext, tenantry: TenantryResource) -> None:
        done = ask_for_retraining(tenantry.deployment, workload, by=f"run {context.run.run_id}")
        context.log.info(str(done))
        context.add_output_metadata(
            {"champions": done.champions, "due": done.due, "complete": done.complete, "outcomes": dict(done.outcomes)}
        )

    @job(
        name=f"{workload.name}_retraining",
        description=f"{workload.title}: asks for a challenger of champions that are old or were made otherwise than now.",
        tags={"tenantry/workload": workload.name},
    )
    def retraining() -> None:
        ask()

    return retraining

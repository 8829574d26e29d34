"""The jobs that sensors and schedules launch; a person may launch them, too."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError
from dagster import (
    AssetKey,
    AssetSelection,
    Config,
    Failure,
    JobDefinition,
    OpExecutionContext,
    define_asset_job,
    job,
    op,
)
from pydantic import Field

from assets.batch_predictions import BatchConfig, predict_day
from assets.endpoint_capacity import capacity_keys
from assets.failed_tenants import raise_for
from assets.onboarding import onboarding_selection
from orchestration.partitions import tenants_of
from orchestration.private_dagster.chosen_partitions import RunReport, asset_key
from orchestration.private_dagster.names import UnresolvedAssetJobDefinition
from orchestration.step_names import batch_step, rollback_step, tier_step
from resources.tenantry_resource import TenantryResource
from tenantry.errors import TenantryError
from tenantry.hosting import endpoints
from tenantry.models.registry import ChampionChangedError
from tenantry.names import ids
from tenantry.onboarding.registration import ArtifactUnusableError, roll_back
from tenantry.shown.asset_metadata import rollback_metadata
from tenantry.tenants.tier_changes import change_tier, move_to_its_tier, tier_metadata, tier_of
from tenantry.tenants.unused import remove_unused, unused_endpoints
from tenantry.training.retraining import ask_for_retraining
from tenantry.training.shared_model import ask_for_shared_model
from tenantry.workloads.schema import Workload


class WorkloadJobs(NamedTuple):
    """The jobs of a workload."""

    fine_tuning: UnresolvedAssetJobDefinition
    batch_predictions: JobDefinition
    endpoint_capacity: UnresolvedAssetJobDefinition
    prewarming: UnresolvedAssetJobDefinition | None
    fleet: UnresolvedAssetJobDefinition
    remove_unused: JobDefinition
    rollback: JobDefinition
    tier: JobDefinition | None
    retraining: JobDefinition | None
    shared_model: JobDefinition | None

    @property
    def all(self) -> Sequence[JobDefinition | UnresolvedAssetJobDefinition]:
        """The jobs that the workload has."""
        return [made for made in self if made is not None]


class RollbackConfig(Config):
    """The tenants to roll back, and why. A person who picked a partition leaves the tenants out."""

    tenants: list[str] = Field(
        default_factory=list, description="Tenants; empty for the chosen partition."
    )
    to: str = Field(
        "",
        description="The version to return to; empty for the champion's predecessor. For one "
        "tenant only.",
    )
    why: str = Field("", description="Why, as a sentence: it stands in the versions' notes.")


class TierConfig(Config):
    """The tenants to move to another tier, and that tier. A person who picked a partition leaves
    the tenants out."""

    tenants: list[str] = Field(
        default_factory=list, description="Tenants; empty for the chosen partition."
    )
    tier: Literal["silo", "bridge", "pool"] = Field(
        description="The tier of their requests from now on."
    )
    why: str = Field("", description="Why, as a sentence: it stands beside the setting.")
    move: bool = Field(
        True, description="Serve their present models there at once, not from the next request on."
    )


def jobs_of(workload: Workload) -> WorkloadJobs:
    """Make the jobs of a workload."""
    return WorkloadJobs(
        _fine_tuning(workload),
        _batch_predictions(workload),
        _assets(
            workload,
            "endpoint_capacity",
            capacity_keys(workload),
            "registers what the YAML says about the endpoints' instances",
        ),
        _assets(
            workload,
            "prewarming",
            [asset_key(workload.name, "prewarmed_models")],
            "loads the models that will be asked in the coming hours",
        )
        if workload.serving.prewarming is not None
        else None,
        _assets(
            workload,
            "fleet",
            [asset_key(workload.name, "fleet")],
            "brings the table of all tenants up to date",
        ),
        _remove_unused(workload),
        _rollback(workload),
        _tier(workload) if workload.shared_model is None else None,
        _retraining(workload) if workload.retraining is not None else None,
        _shared_model(workload) if workload.shared_model is not None else None,
    )


def _fine_tuning(workload: Workload) -> UnresolvedAssetJobDefinition:
    return define_asset_job(
        f"{workload.name}_fine_tuning",
        selection=onboarding_selection(workload).without_checks(),
        description=f"{workload.title}: prepares, trains and registers the requests of one pack.",
        tags={"tenantry/workload": workload.name},
    )


def _batch_predictions(workload: Workload) -> JobDefinition:
    # This job has a step of its own rather than the asset. As an asset's step starts, Dagster
    # resolves upstream partitions from the run's partition key, and a run for everyone with a model
    # has none.
    @op(
        name=batch_step(workload.name),
        description="Predicts the day for every tenant with a model, many to a transform job.",
    )
    def predict_everyone(
        context: OpExecutionContext, config: BatchConfig, tenantry: TenantryResource
    ) -> None:
        predict_day(context, config, tenantry, workload, None)

    @job(
        name=f"{workload.name}_batch_predictions",
        description=f"{workload.title}: one day's predictions for every tenant with a model.",
        tags={"tenantry/workload": workload.name},
    )
    def batch_predictions() -> None:
        predict_everyone()

    return batch_predictions


def _assets(
    workload: Workload, name: str, keys: Sequence[AssetKey], what: str
) -> UnresolvedAssetJobDefinition:
    """A job that materialises some assets of the workload."""
    return define_asset_job(
        f"{workload.name}_{name}",
        selection=AssetSelection.assets(*keys),
        description=f"{workload.title}: {what}.",
        tags={"tenantry/workload": workload.name},
    )


def _remove_unused(workload: Workload) -> JobDefinition:
    after = workload.serving.remove_unused_after_days

    @op(
        name=f"{workload.name}_remove_unused_endpoints",
        description=f"Removes endpoints, configurations, models and silo tenants' roles that were "
        f"unused for {after} days.",
    )
    def remove(context: OpExecutionContext, tenantry: TenantryResource) -> None:
        now = datetime.now(UTC)
        removed = remove_unused(tenantry.deployment, workload, now, after_days=after)
        for one in removed:
            context.log.info(f"removed {one.kind} {one.name}, unused since {one.since:%Y-%m-%d}")
        waiting = unused_endpoints(tenantry.deployment, workload, now)
        for one in waiting:
            context.log.info(f"endpoint {one.name} is unused since {one.since:%Y-%m-%d %H:%M} UTC")
        context.add_output_metadata(
            {
                "removed": Counter(one.kind for one in removed),
                "endpoints_that_serve_nobody": len(waiting),
            }
        )

    @job(
        name=f"{workload.name}_remove_unused",
        description=f"{workload.title}: removes what has served nobody for {after} days.",
        tags={"tenantry/workload": workload.name},
    )
    def remove_unused_job() -> None:
        remove()

    return remove_unused_job


def _rollback(workload: Workload) -> JobDefinition:
    @op(
        name=rollback_step(workload.name),
        description="Makes the previous champion of the chosen tenant champion again, once it has "
        "answered.",
    )
    def roll_back_chosen(
        context: OpExecutionContext, config: RollbackConfig, tenantry: TenantryResource
    ) -> None:
        _roll_back_chosen(context, config, tenantry, workload)

    @job(
        name=f"{workload.name}_rollback",
        partitions_def=tenants_of(workload.name),
        description=f"{workload.title}: back to the model before, for the tenant picked as "
        f"partition.",
        tags={"tenantry/workload": workload.name},
    )
    def rollback() -> None:
        roll_back_chosen()

    return rollback


def _roll_back_chosen(
    context: OpExecutionContext,
    config: RollbackConfig,
    tenantry: TenantryResource,
    workload: Workload,
) -> None:
    chosen = chosen_tenants(context, config.tenants)
    if config.to and len(chosen) > 1:
        raise Failure(
            "A version is one tenant's: leave `to` empty to roll back several.", allow_retries=False
        )
    failures: dict[ids.ModelId, str] = {}
    by = f"run {context.run.run_id}"
    with RunReport(context, workload.name) as report:
        for tenant in chosen:
            try:
                champion = roll_back(
                    tenantry.deployment,
                    workload,
                    tenant,
                    to=ids.version_name(config.to) if config.to else None,
                    why=config.why,
                    by=by,
                )
            except (
                LookupError,
                ArtifactUnusableError,
                endpoints.EndpointFailedError,
                ChampionChangedError,
            ) as error:
                failures[tenant] = str(error)
                context.log.warning(f"{tenant}: not rolled back: {error}")
                continue
            metadata = rollback_metadata(champion, by=by, why=config.why)
            report.materialized("endpoint_registration", tenant, metadata, champion.version)
    raise_for(failures)


def _tier(workload: Workload) -> JobDefinition:
    @op(
        name=tier_step(workload.name),
        description="Gives the chosen tenant a tier of its own: its present model is served there "
        "from now on, and requests taken in from now on are made there.",
    )
    def set_tier_of_chosen(
        context: OpExecutionContext, config: TierConfig, tenantry: TenantryResource
    ) -> None:
        by = f"run {context.run.run_id}"
        failures: dict[ids.ModelId, str] = {}
        with RunReport(context, workload.name) as report:
            models = chosen_tenants(context, config.tenants)
            for tenant in dict.fromkeys(map(ids.tenant_of, models)):
                stands = change_tier(
                    tenantry.deployment, workload, tenant, config.tier, by=by, why=config.why
                )
                if config.move:
                    try:
                        move_to_its_tier(tenantry.deployment, workload, tenant)
                    except (TenantryError, ClientError, BotoCoreError) as error:
                        failures[tenant] = f"{type(error).__name__}: {error}"
                        context.log.warning(f"{tenant}: served as before: {error}")
                    stands = tier_of(tenantry.deployment, workload, tenant)
                metadata = tier_metadata(stands, by=by, why=config.why)
                report.observed(
                    "endpoint_registration", tenant, metadata, f"{tenant}: tier {config.tier}"
                )
                report.info(stands.what_moves_when)
        raise_for(failures)

    @job(
        name=f"{workload.name}_tier",
        partitions_def=tenants_of(workload.name),
        description=f"{workload.title}: another tier for the tenant picked as partition.",
        tags={"tenantry/workload": workload.name},
    )
    def tier() -> None:
        set_tier_of_chosen()

    return tier


def chosen_tenants(context: OpExecutionContext, tenants: Sequence[str]) -> list[ids.ModelId]:
    """The tenants the configuration names, or the partition that was picked. Raises ``Failure``
    where there is neither."""
    chosen = tenants or ([context.partition_key] if context.has_partition_key else [])
    if not chosen:
        raise Failure(
            "No tenant was chosen: pick a partition, or name tenants in the configuration.",
            allow_retries=False,
        )
    return [ids.model_id(tenant) for tenant in dict.fromkeys(chosen)]


def _retraining(workload: Workload) -> JobDefinition:
    @op(
        name=f"{workload.name}_ask_for_retraining",
        description="Puts a request into the queue for each tenant whose champion is to be "
        "challenged.",
    )
    def ask(context: OpExecutionContext, tenantry: TenantryResource) -> None:
        done = ask_for_retraining(tenantry.deployment, workload, by=f"run {context.run.run_id}")
        context.log.info(str(done))
        context.add_output_metadata(
            {
                "champions": done.champions,
                "due": done.due,
                "complete": done.complete,
                "outcomes": dict(done.outcomes),
            }
        )

    @job(
        name=f"{workload.name}_retraining",
        description=f"{workload.title}: asks for a challenger of champions that are old or were "
        f"made otherwise than now.",
        tags={"tenantry/workload": workload.name},
    )
    def retraining() -> None:
        ask()

    return retraining


def _shared_model(workload: Workload) -> JobDefinition:
    @op(
        name=f"{workload.name}_ask_for_shared_model",
        description="Puts a request into the queue for the model of all tenants' present data, "
        "unless there is one of them.",
    )
    def ask(context: OpExecutionContext, tenantry: TenantryResource) -> None:
        asked = ask_for_shared_model(
            tenantry.deployment, workload, by=f"run {context.run.run_id}", why="it is asked for"
        )
        if asked is None:
            context.log.info("nothing to ask for: too few tenants have data, or one is on its way")
        else:
            context.log.info(f"request {asked.request} is {asked.status}")

    @job(
        name=f"{workload.name}_shared_model",
        description=f"{workload.title}: asks for the shared model of all tenants' present data.",
        tags={"tenantry/workload": workload.name},
    )
    def shared_model() -> None:
        ask()

    return shared_model

"""The Dagster assets of a workload, made from its YAML: thin over the plain code beside this
module."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    AutomationCondition,
    BackfillPolicy,
    Config,
    Failure,
    MaterializeResult,
    OpExecutionContext,
    PartitionsDefinition,
    asset,
    multi_asset,
)
from pydantic import Field

from orchestration.private_dagster.chosen_partitions import (
    RunReport,
    asset_key,
    outputs_are_reported_already,
    plan,
)
from resources.tenantry_resource import TenantryResource
from tenantry.aws.request_budget import BudgetSpentError
from tenantry.batch.predictions import predict
from tenantry.hosting import endpoints
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names import ids, tiers
from tenantry.onboarding.member import Member, members_by_hand, owed_members
from tenantry.onboarding.onboarding import Onboarding, failures_in_words
from tenantry.onboarding.pack import PackAtWork
from tenantry.requests.queue import RequestQueue
from tenantry.shown.asset_metadata import capacity_metadata
from tenantry.shown.report import ONBOARDING, AssetName
from tenantry.training.packed_job import FinishedJob, JobFailedError, NoCapacityYetError, Train
from tenantry.workloads.schema import Workload


class PackedRequest(Config):
    """A request in a pack."""

    tenant: str
    request: str


class OnboardingConfig(Config):
    """What the launcher asks a run to do. A person leaves it empty and chooses partitions
    instead."""

    pack: str = Field("", description="The pack's id; empty when partitions were chosen by hand.")
    requests: list[PackedRequest] = Field(
        default_factory=list, description="The requests of the pack."
    )


class BatchConfig(Config):
    """Which day to predict."""

    day: str = Field("", description="The date, YYYY-MM-DD; empty for today (UTC).")


class CapacityConfig(Config):
    """How many instances the endpoint gets."""

    instances: int = Field(
        0, ge=0, le=1000, description="Instances; 0 for what the workload's YAML says."
    )


def onboarding_assets(workload: Workload, tenants: PartitionsDefinition[str]) -> AssetsDefinition:
    """``training_data``, ``fine_tuned_artifact`` and ``endpoint_registration`` of every tenant.

    One step makes them, so that a tenant moves on as soon as its own part is ready, and so that one
    run can serve any set of tenants; each asset can also be materialised alone.
    """
    common: dict[str, Any] = {
        "group_name": workload.name,
        "owners": list(workload.owners),
        "skippable": True,
        "partitions_def": tenants,
    }
    kinds = sorted(kind for kind in workload.kinds if kind != "sagemaker")
    specs = [
        AssetSpec(
            asset_key(workload.name, "training_data"),
            description=f"{workload.title}: the tenant's latest upload, checked, repaired where "
            f"documented, and prepared.",
            kinds={"s3", *kinds[:1]},
            **common,
        ),
        AssetSpec(
            asset_key(workload.name, "fine_tuned_artifact"),
            deps=[asset_key(workload.name, "training_data")],
            description=f"{workload.title}: the tenant's own model, an immutable versioned archive "
            f"with its score.",
            kinds={"sagemaker", *kinds[1:2]},
            **common,
        ),
        AssetSpec(
            asset_key(workload.name, "endpoint_registration"),
            deps=[asset_key(workload.name, "fine_tuned_artifact")],
            description=f"{workload.title}: the model under its endpoint, asked once, and champion "
            f"if it is not worse.",
            kinds={"sagemaker", "dynamodb"},
            **common,
        ),
    ]

    @multi_asset(
        name=onboarding_step(workload.name),
        specs=specs,
        can_subset=True,
        partitions_def=tenants,
        backfill_policy=BackfillPolicy.single_run(),
    )
    def onboarding(
        context: AssetExecutionContext, config: OnboardingConfig, tenantry: TenantryResource
    ) -> Iterator[MaterializeResult[Any]]:
        selected = context.op_execution_context.selected_asset_keys
        stages = frozenset[AssetName](
            name for name in ONBOARDING if asset_key(workload.name, name) in selected
        )
        failures = _onboard(context.op_execution_context, config, tenantry, workload, stages)
        raise_for(failures)
        outputs_are_reported_already(context)
        yield from ()

    return onboarding


def onboarding_step(workload: str) -> str:
    """The name of the step that onboards, under which its configuration stands."""
    return f"{workload}_onboarding"


def raise_for(failures: Mapping[ids.TenantId, str]) -> None:
    """Fail the run when tenants failed, so that they show as failed; the others stay
    materialised."""
    if failures:
        raise Failure(
            f"{len(failures)} of the tenants failed; the others are "
            f"done.\n{failures_in_words(failures)}",
            allow_retries=False,
        )


def _onboard(
    context: OpExecutionContext,
    config: OnboardingConfig,
    tenantry: TenantryResource,
    workload: Workload,
    stages: frozenset[AssetName],
) -> dict[ids.TenantId, str]:
    deployment = tenantry.deployment
    queue = RequestQueue(deployment, by=f"run {context.run.run_id}")
    report = RunReport(context, workload.name)
    failures: dict[ids.TenantId, str] = {}
    registered = 0
    for pack, tier, members in _packs(context, config, queue, workload, failures):
        assets = [asset_key(workload.name, stage) for stage in ONBOARDING if stage in stages]
        plan(context, assets, [member.tenant for member in members])
        at_work = PackAtWork(deployment, workload, pack, tier, report, stages, queue.by)
        going = Onboarding(at_work, _train(context, tenantry))
        try:
            going.run(members)
        except NoCapacityYetError as error:
            raise Failure(str(error), allow_retries=False) from error
        except JobFailedError as error:
            report.info(str(error))
        failures |= going.failures
        registered += going.registered
    calls = sum(deployment.aws_calls.values())
    context.log.info(
        f"{registered} tenants registered, {len(failures)} failed; {calls} calls to AWS by this "
        f"process"
    )
    return failures


def _packs(
    context: OpExecutionContext,
    config: OnboardingConfig,
    queue: RequestQueue,
    workload: Workload,
    failures: dict[ids.TenantId, str],
) -> Iterator[tuple[ids.PackId, tiers.Tier, Sequence[Member]]]:
    """The pack the launcher named, or packs of the partitions a person chose: silo tenants alone,
    others by tier."""
    name = ids.workload_name(workload.name)
    if config.pack:
        pack = ids.pack_id(config.pack)
        wanted = [
            (ids.tenant_id(entry.tenant), ids.request_id(entry.request))
            for entry in config.requests
        ]
        members = owed_members(queue.get_many(wanted, name), pack)
        context.log.info(
            f"pack {pack}: {len(members)} of {len(wanted)} requests are still to be worked on"
        )
        if members:
            yield pack, members[0].request.tier, members
        return
    chosen = [ids.tenant_id(key) for key in context.partition_keys]
    groups: dict[str, list[Member]] = {}
    for tenant, member in members_by_hand(queue, workload, chosen, context.run.run_id):
        if member is None:
            failures[tenant] = "it never uploaded anything usable; upload first"
            continue
        group = str(tenant) if member.request.tier == "silo" else member.request.tier
        groups.setdefault(group, []).append(member)
    for group, together in groups.items():
        pack = ids.pack_id_of([context.run.run_id, group])
        yield pack, together[0].request.tier, together


def _train(context: OpExecutionContext, tenantry: TenantryResource) -> Train:
    def train(request: Any, on_message: Any) -> FinishedJob:
        from pipes_sagemaker.client import (
            TrainingJobDiffersError,
            TrainingJobFailedError,
            TrainingJobResourceLimitExceededError,
        )

        try:
            done = tenantry.training_client().run(
                context=context, create_training_job_params=request, on_custom_message=on_message
            )
        except TrainingJobFailedError as error:
            raise JobFailedError(str(error), error.failure_class) from error
        except TrainingJobDiffersError as error:
            # The workload's YAML changed under a pack; its next try has another name.
            raise JobFailedError(str(error)) from error
        except (TrainingJobResourceLimitExceededError, BudgetSpentError) as error:
            raise NoCapacityYetError(f"{error} The requests went back to the queue.") from error
        return FinishedJob(request["TrainingJobName"], dict(done.metadata))

    return train


def batch_predictions_asset(
    workload: Workload, tenants: PartitionsDefinition[str]
) -> AssetsDefinition:
    """``batch_predictions``, by hand for chosen tenants; the schedule's job predicts for
    everyone."""

    @asset(
        key=asset_key(workload.name, "batch_predictions"),
        deps=[asset_key(workload.name, "endpoint_registration")],
        partitions_def=tenants,
        group_name=workload.name,
        owners=list(workload.owners),
        kinds={"sagemaker", "s3"},
        output_required=False,
        backfill_policy=BackfillPolicy.single_run(),
        description=f"{workload.title}: a day's prediction, made by the tenant's champion in a "
        f"batch transform."
        f" The schedule {workload.name}_batch_predictions_schedule predicts for everyone.",
    )
    def batch_predictions(
        context: AssetExecutionContext, config: BatchConfig, tenantry: TenantryResource
    ) -> Iterator[MaterializeResult[Any]]:
        chosen = [ids.tenant_id(key) for key in context.op_execution_context.partition_keys]
        predict_day(context.op_execution_context, config, tenantry, workload, chosen)
        yield from ()

    return batch_predictions


def predict_day(
    context: OpExecutionContext,
    config: BatchConfig,
    tenantry: TenantryResource,
    workload: Workload,
    tenants: Sequence[ids.TenantId] | None,
) -> None:
    """Predict a day in a Dagster run, for tenants or (None) for everyone with a model. Raises
    ``Failure`` if some failed."""
    with RunReport(context, workload.name) as report:
        failures = predict(
            tenantry.deployment,
            workload,
            tenants,
            date.fromisoformat(config.day) if config.day else datetime.now(UTC).date(),
            context.run.run_id,
            report,
            poll=tenantry.poll_seconds,
            starting=lambda served: plan(
                context, [asset_key(workload.name, "batch_predictions")], served
            ),
        )
    raise_for(failures)


def _missing_or_changed() -> AutomationCondition[Any]:
    """Once when the asset is missing, the very first time it is looked at included, and whenever
    its code version changes; again every five minutes while its latest run failed: an update that
    was rolled back, say.

    ``AutomationCondition.on_missing()`` leaves alone what was missing at its first evaluation.
    """
    missing: AutomationCondition[Any] = AutomationCondition.missing().newly_true()
    failed = AutomationCondition.execution_failed() & AutomationCondition.cron_tick_passed(
        "*/5 * * * *"
    )
    wanted = missing | AutomationCondition.code_version_changed() | failed
    handled = AutomationCondition.newly_requested() | AutomationCondition.newly_updated()
    return wanted.since(handled) & ~AutomationCondition.in_progress()


def serving_endpoint_asset(workload: Workload) -> AssetsDefinition:
    """``serving_endpoint``: the multi-model endpoint of the workload's own tier."""

    @_endpoint_asset(
        workload,
        "serving_endpoint",
        f"the endpoint that serves every tenant of the {workload.tier} tier from shared machines.",
    )
    def serving_endpoint(tenantry: TenantryResource) -> MaterializeResult[Any]:
        return _as_result(
            endpoints.ensure_endpoint(
                tenantry.deployment, workload, workload.shared_machines, MULTI_MODEL
            )
        )

    return serving_endpoint


def asynchronous_endpoint_asset(workload: Workload) -> AssetsDefinition:
    """``asynchronous_endpoint``: the endpoint for requests that take long or may wait, of a
    workload that has one."""

    @_endpoint_asset(
        workload,
        "asynchronous_endpoint",
        f"the endpoint that answers every tenant of the {workload.tier} tier by and by, through "
        f"S3.",
    )
    def asynchronous_endpoint(tenantry: TenantryResource) -> MaterializeResult[Any]:
        return _as_result(
            endpoints.ensure_endpoint(
                tenantry.deployment, workload, workload.shared_machines, ASYNCHRONOUS
            )
        )

    return asynchronous_endpoint


def _endpoint_asset(
    workload: Workload, name: str, description: str
) -> Callable[..., AssetsDefinition]:
    """The decorator of an endpoint's asset: made when it is missing, updated when the YAML
    changes."""
    return asset(
        key=asset_key(workload.name, name),
        group_name=workload.name,
        owners=list(workload.owners),
        kinds={"sagemaker"},
        automation_condition=_missing_or_changed(),
        code_version=workload.endpoint_version,
        description=f"{workload.title}: {description}",
    )


def _as_result(endpoint: endpoints.Endpoint) -> MaterializeResult[Any]:
    return MaterializeResult(
        metadata={
            "endpoint": endpoint.name,
            "arn": endpoint.arn,
            "status": endpoint.status,
            "configuration": endpoint.config,
            "instances": endpoint.instances,
            "change": endpoint.made,
        }
    )


def endpoint_capacity_asset(workload: Workload) -> AssetsDefinition:
    """``endpoint_capacity``: how many instances the endpoint has, as the schedules of the YAML or a
    person say."""

    @asset(
        key=asset_key(workload.name, "endpoint_capacity"),
        deps=[asset_key(workload.name, "serving_endpoint")],
        group_name=workload.name,
        owners=list(workload.owners),
        kinds={"sagemaker"},
        description=f"{workload.title}: the instances behind the endpoint, and what they cost.",
    )
    def endpoint_capacity(
        config: CapacityConfig, tenantry: TenantryResource
    ) -> MaterializeResult[Any]:
        # A release that cannot be served holds up no change of capacity.
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


def assets_of(workload: Workload, tenants: PartitionsDefinition[str]) -> list[AssetsDefinition]:
    """All assets of a workload."""
    return [
        onboarding_assets(workload, tenants),
        batch_predictions_asset(workload, tenants),
        serving_endpoint_asset(workload),
        *(
            [asynchronous_endpoint_asset(workload)]
            if workload.serving.asynchronous is not None
            else []
        ),
        endpoint_capacity_asset(workload),
    ]


def onboarding_selection(workload: Workload) -> AssetSelection:
    """The three assets from upload to champion."""
    return AssetSelection.assets(*(asset_key(workload.name, name) for name in ONBOARDING))


def endpoint_selection(workload: Workload) -> AssetSelection:
    """The endpoints a workload has."""
    names = [
        "serving_endpoint",
        *(["asynchronous_endpoint"] if workload.serving.asynchronous is not None else []),
    ]
    return AssetSelection.assets(*(asset_key(workload.name, name) for name in names))

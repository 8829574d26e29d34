"""``training_data``, ``fine_tuned_artifact`` and ``endpoint_registration``: one step makes them,
from a tenant's upload to its champion."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    BackfillPolicy,
    Config,
    Failure,
    MaterializeResult,
    OpExecutionContext,
    PartitionsDefinition,
    multi_asset,
)
from pydantic import Field

from assets.described import described
from assets.failed_tenants import raise_for
from assets.serving_endpoints import endpoint_keys
from orchestration.private_dagster.chosen_partitions import (
    RunReport,
    asset_key,
    outputs_are_reported_already,
    plan,
)
from resources.tenantry_resource import TenantryResource
from tenantry.aws.deployment import Deployment
from tenantry.aws.request_budget import BudgetSpentError
from tenantry.batch.periods import Period
from tenantry.batch.predictions import predict
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, tiers
from tenantry.names.purposes import purpose_named
from tenantry.onboarding.member import Member, members_by_hand, owed_members
from tenantry.onboarding.onboarding import Onboarding
from tenantry.onboarding.pack import PackAtWork
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import RequestKey
from tenantry.shown.report import ONBOARDING, AssetName
from tenantry.training.packed_job import FinishedJob, JobFailedError, NoCapacityYetError, Train
from tenantry.training.shared_model import ask_for_shared_model
from tenantry.workloads.schema import Workload


class PackedRequest(Config):
    """A request in a pack. ``purpose`` is that of its upload."""

    tenant: str
    request: str
    purpose: str = "training"


class OnboardingConfig(Config):
    """The launcher's task for a run. A person leaves it empty and chooses partitions instead."""

    pack: str = Field("", description="The pack's id; empty when partitions were chosen by hand.")
    requests: list[PackedRequest] = Field(
        default_factory=list, description="The requests of the pack."
    )


def onboarding_assets(workload: Workload, tenants: PartitionsDefinition[str]) -> AssetsDefinition:
    """``training_data``, ``fine_tuned_artifact`` and ``endpoint_registration`` of every tenant.

    One step makes them, for two reasons: a tenant moves on as soon as its own part is ready, and
    one run can serve any set of tenants. Each asset can also be materialised alone.
    """
    common: dict[str, Any] = {"skippable": True, "partitions_def": tenants}
    specs = [
        AssetSpec(
            asset_key(workload.name, "training_data"),
            deps=[asset_key(workload.name, "uploads")],
            **described(
                workload,
                "training_data",
                "the tenant's latest upload, checked, repaired where documented, and prepared.",
            ),
            **common,
        ),
        AssetSpec(
            asset_key(workload.name, "fine_tuned_artifact"),
            deps=[asset_key(workload.name, "training_data")],
            **described(
                workload,
                "fine_tuned_artifact",
                "the tenant's own model, an immutable versioned archive with its score.",
            ),
            **common,
        ),
        AssetSpec(
            asset_key(workload.name, "endpoint_registration"),
            deps=[asset_key(workload.name, "fine_tuned_artifact"), *endpoint_keys(workload)],
            **described(
                workload,
                "endpoint_registration",
                "the model under its endpoint, asked once, and champion if it is not worse.",
            ),
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


def onboarding_selection(workload: Workload) -> AssetSelection:
    """The three assets from upload to champion."""
    return AssetSelection.assets(*(asset_key(workload.name, name) for name in ONBOARDING))


def _onboard(
    context: OpExecutionContext,
    config: OnboardingConfig,
    tenantry: TenantryResource,
    workload: Workload,
    stages: frozenset[AssetName],
) -> dict[ids.ModelId, str]:
    deployment = tenantry.deployment
    queue = RequestQueue(deployment, by=f"run {context.run.run_id}")
    report = RunReport(context, workload.name)
    failures: dict[ids.ModelId, str] = {}
    registered = refused = 0
    for pack, tier, members in _packs(context, config, queue, workload, failures, report):
        _announce(context, workload, stages, members)
        at_work = PackAtWork(deployment, workload, pack, tier, report, stages, queue.by)
        going = Onboarding(
            at_work,
            _train(context, tenantry),
            partial(_predict, context, tenantry, workload, report, pack),
        )
        try:
            going.run(members)
        except NoCapacityYetError as error:
            raise Failure(str(error), allow_retries=False) from error
        except JobFailedError as error:
            report.info(str(error))
        failures |= going.failures
        registered += going.registered
        if workload.shared_model is not None and any(member.appends for member in members):
            _ask_for_first(deployment, workload, queue.by)
        if not config.pack:  # a person waits for each of these tenants
            failures |= going.refusals
        refused += len(going.refusals)
    calls = sum(deployment.aws_calls.values())
    context.log.info(
        f"{registered} tenants registered, {refused} refused, {len(failures)} failed; {calls} "
        f"calls to AWS by this process"
    )
    return failures


def _announce(
    context: OpExecutionContext,
    workload: Workload,
    stages: frozenset[AssetName],
    members: Sequence[Member],
) -> None:
    """Show the members' partitions as in progress. A model that was trained elsewhere has no
    training data, and data for inference make no model."""
    assets = [asset_key(workload.name, stage) for stage in ONBOARDING if stage in stages]
    data = asset_key(workload.name, "training_data")
    trained = [m.tenant for m in members if not m.imported and not m.appends]
    appended = [member.tenant for member in members if member.appends]
    imported = [member.tenant for member in members if member.imported]
    if trained:
        plan(context, assets, trained)
    if appended and data in assets:
        plan(context, [data], appended)
    if imported:
        plan(context, [asset for asset in assets if asset != data], imported)


def _packs(
    context: OpExecutionContext,
    config: OnboardingConfig,
    queue: RequestQueue,
    workload: Workload,
    failures: dict[ids.ModelId, str],
    report: RunReport,
) -> Iterator[tuple[ids.PackId, tiers.Tier, Sequence[Member]]]:
    """The pack the launcher named, or packs of the partitions a person chose: silo tenants alone,
    others by tier."""
    name = ids.workload_name(workload.name)
    if config.pack:
        pack = ids.pack_id(config.pack)
        wanted = [
            RequestKey(
                ids.model_id(entry.tenant),
                ids.request_id(entry.request),
                purpose_named(entry.purpose),
            )
            for entry in config.requests
        ]
        members = owed_members(queue.get_many(wanted, name), pack)
        context.log.info(
            f"pack {pack}: {len(members)} of {len(wanted)} requests are still to be worked on"
        )
        if members:
            yield pack, members[0].request.tier, members
        return
    chosen = [ids.model_id(key) for key in context.partition_keys]
    groups: dict[str, list[Member]] = {}
    for tenant, member in members_by_hand(queue, workload, chosen, context.run.run_id):
        if member is None:
            failures[tenant] = "it never uploaded anything usable; upload first"
            report.failed("training_data", tenant, failures[tenant])
            continue
        group = str(tenant) if member.request.tier == "silo" else member.request.tier
        groups.setdefault(group, []).append(member)
    for group, together in groups.items():
        first = together[0].request
        alone = first.tenant if first.tier == "silo" else None
        yield ids.pack_id_of([context.run.run_id, group], alone), first.tier, together


def _ask_for_first(deployment: Deployment, workload: Workload, by: str) -> None:
    """Ask for the shared model as soon as there are data for the first one."""
    name = ids.workload_name(workload.name)
    if ModelRegistry(deployment).champion(ids.SHARED, name) is None:
        ask_for_shared_model(deployment, workload, by=by, why="the first data are there")


def _predict(
    context: OpExecutionContext,
    tenantry: TenantryResource,
    workload: Workload,
    report: RunReport,
    pack: ids.PackId,
    period: Period,
    tenants: Sequence[ids.ModelId],
) -> None:
    """Predict a period for tenants whose data were appended. The report has each one's failure; the
    data stay appended."""
    assets = [asset_key(workload.name, "batch_predictions")]
    predict(
        tenantry.deployment,
        workload,
        tenants,
        period,
        f"{pack} {period}",
        report,
        poll=tenantry.settings.poll_seconds,
        starting=lambda served: plan(context, assets, served),
    )


def _train(context: OpExecutionContext, tenantry: TenantryResource) -> Train:
    def train(request: Any, messages: str, on_message: Any) -> FinishedJob:
        from pipes_sagemaker.client import (
            TrainingJobDiffersError,
            TrainingJobFailedError,
            TrainingJobResourceLimitExceededError,
        )

        try:
            done = tenantry.training_client(messages).run(
                context=context, create_training_job_params=request, on_custom_message=on_message
            )
        except TrainingJobFailedError as error:
            raise JobFailedError(str(error), error.failure_class) from error
        except TrainingJobDiffersError as error:
            # The workload's YAML changed under a pack; its next try has another name.
            raise JobFailedError(str(error)) from error
        except (TrainingJobResourceLimitExceededError, BudgetSpentError) as error:
            raise NoCapacityYetError(f"{error} The requests went back to the queue.") from error
        told = {name: getattr(value, "value", value) for name, value in done.metadata.items()}
        return FinishedJob(
            request["TrainingJobName"],
            f"{told['Billable Seconds']} s billed on {told['Instance Count']} × "
            f"{told['Instance Type']}",
        )

    return train

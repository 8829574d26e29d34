"""An operator's actions on the command line, as jobs: retry, cancel, pause, resume, redrive."""

from collections.abc import Sequence

from dagster import AssetObservation, Config, Failure, JobDefinition, OpExecutionContext, job, op
from pydantic import Field

from assets.failed_tenants import raise_for
from orchestration.jobs import chosen_tenants
from orchestration.partitions import tenants_of
from orchestration.private_dagster.chosen_partitions import asset_key
from resources.tenantry_resource import TenantryResource
from tenantry.names import ids
from tenantry.requests.newest import newest_of
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import OPEN, NotTheirTurnError, Request
from tenantry.requests.workload_controls import WorkloadControls
from tenantry.shown.asset_metadata import claims_metadata
from tenantry.tenants.wind_down import wind_down
from tenantry.uploads import intake
from tenantry.workloads.schema import Workload, read_workloads


class RetryConfig(Config):
    """The tenants whose latest request is tried again. A person who picked a partition leaves the
    tenants out."""

    tenants: list[str] = Field(
        default_factory=list, description="Tenants; empty for the chosen partition."
    )
    all_dead_lettered: bool = Field(
        False, description="Every dead-lettered request of the workload instead."
    )
    why: str = Field(
        "retried in the UI", description="Why, as a sentence: it stands in the requests' history."
    )


class CancelConfig(Config):
    """The tenants whose unfinished requests are taken out. A person who picked a partition leaves
    the tenants out."""

    tenants: list[str] = Field(
        default_factory=list, description="Tenants; empty for the chosen partition."
    )
    why: str = Field(
        "cancelled in the UI", description="Why, as a sentence: it stands in the requests' history."
    )


class PauseConfig(Config):
    """Why a workload is paused."""

    why: str = Field(
        "paused in the UI", description="Why, as a sentence: the status and the asset show it."
    )


def operator_jobs_of(workload: Workload) -> Sequence[JobDefinition]:
    """The jobs with which a person steers a workload's requests."""
    name = ids.workload_name(workload.name)
    tags = {"tenantry/workload": workload.name}

    @op(
        name=f"{name}_retry_requests",
        description="Gives requests all their tries again, from now on.",
    )
    def retry_requests(
        context: OpExecutionContext, config: RetryConfig, tenantry: TenantryResource
    ) -> None:
        queue = RequestQueue(tenantry.deployment, by=f"run {context.run.run_id}")
        failures: dict[ids.ModelId, str] = {}
        if config.all_dead_lettered:
            rows: Sequence[Request] = queue.with_status(name, "dead_lettered")
        else:
            rows = [
                row
                for tenant in chosen_tenants(context, config.tenants)
                for row in _latest(queue, name, tenant, failures)
            ]
        for row in rows:
            try:
                queue.retry(row, why=config.why)
            except NotTheirTurnError as error:
                failures[row.tenant] = str(error)
        context.log.info(f"{len(rows)} requests looked at, {len(failures)} not retried")
        raise_for(failures)

    @job(
        name=f"{name}_retry",
        description=f"{workload.title}: tries requests again.",
        tags=tags,
        partitions_def=tenants_of(workload.name),
    )
    def retry() -> None:
        retry_requests()

    @op(
        name=f"{name}_cancel_requests",
        description="Takes unfinished requests out of the queue; their packs go on.",
    )
    def cancel_requests(
        context: OpExecutionContext, config: CancelConfig, tenantry: TenantryResource
    ) -> None:
        queue = RequestQueue(tenantry.deployment, by=f"run {context.run.run_id}")
        failures: dict[ids.ModelId, str] = {}
        for tenant in chosen_tenants(context, config.tenants):
            rows = [row for row in queue.of_tenant(name, tenant) if row.status in OPEN]
            if not rows:
                failures[tenant] = "it has no unfinished request"
            for row in rows:
                try:
                    queue.cancel(row, why=config.why)
                except NotTheirTurnError as error:
                    failures[tenant] = str(error)
        raise_for(failures)

    @job(
        name=f"{name}_cancel",
        description=f"{workload.title}: takes unfinished requests out of the queue.",
        tags=tags,
        partitions_def=tenants_of(workload.name),
    )
    def cancel() -> None:
        cancel_requests()

    @op(
        name=f"{name}_pause_workload",
        description="Claims no further requests; packs on their way go on.",
    )
    def pause_workload(
        context: OpExecutionContext, config: PauseConfig, tenantry: TenantryResource
    ) -> None:
        by = f"run {context.run.run_id}"
        WorkloadControls(tenantry.deployment, by=by).pause(name, config.why)
        observed = claims_metadata(paused=True, by=by, why=config.why)
        context.log_event(AssetObservation(asset_key(name, "uploads"), metadata=observed))

    @job(
        name=f"{name}_pause",
        description=f"{workload.title}: claims no further requests.",
        tags=tags,
    )
    def pause() -> None:
        pause_workload()

    @op(name=f"{name}_resume_workload", description="Claims requests again.")
    def resume_workload(context: OpExecutionContext, tenantry: TenantryResource) -> None:
        by = f"run {context.run.run_id}"
        controls = WorkloadControls(tenantry.deployment, by=by)
        was_paused = controls.paused(name) is not None
        controls.resume(name)
        context.log.info("it goes on" if was_paused else "it was not paused")
        if was_paused:
            observed = claims_metadata(paused=False, by=by)
            context.log_event(AssetObservation(asset_key(name, "uploads"), metadata=observed))

    @job(name=f"{name}_resume", description=f"{workload.title}: claims requests again.", tags=tags)
    def resume() -> None:
        resume_workload()

    return [retry, cancel, pause, resume]


def _latest(
    queue: RequestQueue,
    workload: ids.WorkloadName,
    tenant: ids.ModelId,
    failures: dict[ids.ModelId, str],
) -> list[Request]:
    """The tenant's latest request, where it has any."""
    newest = newest_of(queue.of_tenant(workload, tenant))
    if newest is None:
        failures[tenant] = "it has no request; it never uploaded for this workload"
        return []
    return [newest]


class WindDownConfig(Config):
    """The workload to end."""

    workload: str = Field(description="Its name; its YAML file must be gone.")
    delete_data: bool = Field(
        False, description="Delete its uploads, models, predictions and rows, too."
    )


@op(
    description="Cancels the open requests of a workload whose YAML is gone, and deletes its "
    "endpoints."
)
def end_workload(
    context: OpExecutionContext, config: WindDownConfig, tenantry: TenantryResource
) -> None:
    """The step of ``wind_down_workload``."""
    name = ids.workload_name(config.workload)
    if name in read_workloads().names:
        raise Failure(
            f"{name}.yaml is still there: remove it, reload the definitions, and launch this "
            f"again.",
            allow_retries=False,
        )
    done = wind_down(
        tenantry.deployment, name, by=f"run {context.run.run_id}", delete_data=config.delete_data
    )
    context.add_output_metadata(
        {
            "cancelled": len(done.cancelled),
            "endpoints": done.endpoints,
            "configurations": done.configurations,
            "models": done.models,
            "objects": done.objects,
            "rows": done.rows,
        }
    )
    if done.moved_on:
        raise Failure(
            f"{len(done.moved_on)} requests moved on in this moment; launch this again.",
            allow_retries=False,
        )


@job(
    description="Ends a workload whose YAML is gone: cancels its open requests and deletes its "
    "endpoints."
)
def wind_down_workload() -> None:
    """Does the same as ``tenantry wind-down``."""
    end_workload()


@op(description="Sends the events in the uploads' dead-letter queue back to be taken in.")
def send_dead_letters_back(context: OpExecutionContext, tenantry: TenantryResource) -> None:
    """The step of ``redrive_uploads``."""
    moved = 0
    for moved in intake.redrive(tenantry.deployment):  # noqa: B007 - the last count is shown
        pass
    context.log.info(f"{moved} events were sent back")
    context.add_output_metadata({"sent_back": moved})


@job(description="Sends events of uploads that could not be taken in back to the queue.")
def redrive_uploads() -> None:
    """For all workloads: their uploads share one queue."""
    send_dead_letters_back()

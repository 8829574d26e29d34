"""The job by which a person starts, judges, promotes or ends a tenant's trial."""

from collections.abc import Mapping
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError
from dagster import Config, Failure, JobDefinition, OpExecutionContext, job, op
from pydantic import Field

from assets.failed_tenants import raise_for
from orchestration.jobs import chosen_tenants
from orchestration.partitions import tenants_of
from orchestration.private_dagster.chosen_partitions import RunReport
from orchestration.step_names import trial_step
from resources.tenantry_resource import TenantryResource
from tenantry.aws.deployment import Deployment
from tenantry.errors import TenantryError
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.rows import now
from tenantry.trials.running import (
    Ended,
    TrialRefusedError,
    end,
    ended_metadata,
    promote,
    start,
    started_metadata,
)
from tenantry.trials.verdict import verdict_metadata, verdict_of
from tenantry.workloads.schema import Workload


class TrialConfig(Config):
    """What becomes of a tenant's trial. A person who picked a partition leaves the tenants out."""

    action: Literal["start", "verdict", "promote", "end"] = Field(
        "verdict", description="Start one, judge it, make its version champion, or end it."
    )
    tenants: list[str] = Field(
        default_factory=list, description="Tenants; empty for the chosen partition."
    )
    version: str = Field("", description="To start: the version to try. For one tenant only.")
    percent: int = Field(20, description="To start: its share of the requests, 1 to 50.")
    why: str = Field("", description="Why, as a sentence: it stands in the versions' notes.")


def trial_job_of(workload: Workload) -> JobDefinition:
    """The job ``{workload}_trial``."""

    @op(
        name=trial_step(workload.name),
        description="Lets a second version answer a share of the chosen tenant's requests; judges, "
        "promotes or ends it.",
    )
    def steer_trial(
        context: OpExecutionContext, config: TrialConfig, tenantry: TenantryResource
    ) -> None:
        chosen = chosen_tenants(context, config.tenants)
        if config.action == "start" and (not config.version or len(chosen) > 1):
            raise Failure(
                "To start a trial, name one tenant and its `version`.", allow_retries=False
            )
        by = f"run {context.run.run_id}"
        failures: dict[ids.ModelId, str] = {}
        with RunReport(context, workload.name) as report:
            for tenant in chosen:
                try:
                    metadata, crowned = _steered(tenantry.deployment, workload, tenant, config, by)
                except (TenantryError, ClientError, BotoCoreError) as error:
                    failures[tenant] = f"{type(error).__name__}: {error}"
                    context.log.warning(f"{tenant}: {error}")
                    continue
                if crowned is not None:
                    report.materialized("endpoint_registration", tenant, metadata, crowned)
                else:
                    said = f"{tenant}: {metadata['decision']}"
                    report.observed("endpoint_registration", tenant, metadata, said)
        raise_for(failures)

    @job(
        name=f"{workload.name}_trial",
        partitions_def=tenants_of(workload.name),
        description=f"{workload.title}: a second version on a share of the requests of the tenant "
        f"picked as partition.",
        tags={"tenantry/workload": workload.name},
    )
    def trial() -> None:
        steer_trial()

    return trial


def _steered(
    deployment: Deployment, workload: Workload, tenant: ids.ModelId, config: TrialConfig, by: str
) -> tuple[Mapping[str, Any], ids.Version | None]:
    """Do what the configuration says. Returns what Dagster shows, and the version that became
    champion, if one did."""
    match config.action:
        case "start":
            version = ids.version_name(config.version)
            champion = start(
                deployment, workload, tenant, version, percent=config.percent, by=by, why=config.why
            )
            metadata = started_metadata(champion, version, config.percent, by=by, why=config.why)
            return metadata, None
        case "promote":
            done = promote(deployment, workload, tenant, by=by, why=config.why)
            if isinstance(done, Ended):
                shown = ended_metadata(done, by=by, why=config.why)
                return shown, done.champion.version
            return {"decision": f"{done.version} is the champion already"}, None
        case "end":
            ended = end(deployment, workload, tenant, by=by, why=config.why)
            if ended is None:
                return {"decision": "no version was on trial"}, None
            return ended_metadata(ended, by=by, why=config.why), None
        case "verdict":
            served = ModelRegistry(deployment).champion(tenant, ids.workload_name(workload.name))
            if served is None or served.trial is None:
                raise TrialRefusedError(f"no version of {tenant} is on trial")
            return verdict_metadata(
                verdict_of(deployment, workload, served, served.trial, now())
            ), None

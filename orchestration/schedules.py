"""Batch predictions, re-training, endpoint capacity and pre-warming, at the times the workload's
YAML says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    JobDefinition,
    RunConfig,
    RunRecord,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    schedule,
)

from assets.batch_predictions import BatchConfig
from orchestration.jobs import WorkloadJobs
from orchestration.private_dagster.names import UnresolvedAssetJobDefinition
from orchestration.step_names import batch_step
from tenantry.workloads.batches import Batch
from tenantry.workloads.schema import Workload

DUE_TAG: Final = "tenantry/due"
"""The moment a run was scheduled for, in UTC. Runs that were asked for again have it, too."""
_EVERY_HOUR: Final = "35 * * * *"


def _nothing(_: datetime) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Scheduled:
    """A job and its times. ``config`` and ``tags`` give those of the run of a moment (in
    ``timezone``).

    Only the latest moment of a ``group`` counts, because each run replaces the effect of the one
    before. Where ``each_counts``, every moment does, as each has predictions of its own.
    """

    name: str
    group: str
    workload: str
    job: JobDefinition | UnresolvedAssetJobDefinition
    cron: str
    timezone: str
    description: str
    config: Callable[[datetime], RunConfig | None] = lambda _: None
    tags: Callable[[datetime], Mapping[str, str]] = field(default=_nothing)
    each_counts: bool = False

    def run_at(self, moment: datetime, after: str = "") -> RunRequest:
        """The run of a moment; ``after`` names the lost run that it makes up for."""
        due = _due(moment)
        return RunRequest(
            run_key=f"{self.name} {due} {after}".strip(),
            job_name=self.job.name,
            run_config=self.config(moment),
            tags={**self.tags(moment), DUE_TAG: due},
        )

    def runs_of(self, instance: DagsterInstance, moment: datetime, most: int) -> list[RunRecord]:
        """The existing runs of a moment, newest first."""
        return list(
            instance.get_run_records(
                RunsFilter(
                    job_name=self.job.name, tags={**self.tags(moment), DUE_TAG: _due(moment)}
                ),
                limit=most,
            )
        )

    def definition(self) -> ScheduleDefinition:
        """The schedule for Dagster; it runs by default."""

        @schedule(
            name=self.name,
            job=self.job,
            cron_schedule=self.cron,
            execution_timezone=self.timezone,
            default_status=DefaultScheduleStatus.RUNNING,
            description=self.description,
        )
        def scheduled(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
            moment = context.scheduled_execution_time
            if self.runs_of(context.instance, moment, 1):
                return SkipReason(f"sensor lost_scheduled_runs asked for {_due(moment)} already")
            return self.run_at(moment)

        return scheduled


def _due(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def scheduled_of(workload: Workload, jobs: WorkloadJobs) -> list[Scheduled]:
    """A workload's scheduled jobs."""
    return [
        *(
            _batch(workload, jobs, batch, cron)
            for batch in workload.batches
            if (cron := batch.cron)
        ),
        *_capacity(workload, jobs),
        *_prewarming(workload, jobs),
        *_retraining(workload, jobs),
        *_shared_model(workload, jobs),
        _fleet(workload, jobs),
        _remove_unused(workload, jobs),
    ]


def _fleet(workload: Workload, jobs: WorkloadJobs) -> Scheduled:
    return Scheduled(
        name=f"{workload.name}_fleet_schedule",
        group=f"{workload.name} fleet",
        workload=workload.name,
        job=jobs.fleet,
        cron=_EVERY_HOUR,
        timezone="UTC",
        description=f"{workload.title}: the table of all tenants, and what is wrong with them.",
    )


def _remove_unused(workload: Workload, jobs: WorkloadJobs) -> Scheduled:
    return Scheduled(
        name=f"{workload.name}_remove_unused_schedule",
        group=f"{workload.name} unused endpoints",
        workload=workload.name,
        job=jobs.remove_unused,
        cron="50 * * * *",
        timezone="UTC",
        description=f"{workload.title}: removes endpoints that have served nobody for "
        f"{workload.serving.remove_unused_after_days} days, and what updates left.",
    )


def _batch(workload: Workload, jobs: WorkloadJobs, batch: Batch, cron: str) -> Scheduled:
    def config(moment: datetime) -> RunConfig:
        asked = BatchConfig(batch=batch.name, day=moment.date().isoformat())
        return RunConfig({batch_step(workload.name): asked})

    return Scheduled(
        name=f"{workload.name}_{batch.name}_batch_schedule",
        group=f"{workload.name} {batch.name} batch",
        workload=workload.name,
        job=jobs.batch_predictions,
        cron=cron,
        timezone=batch.timezone,
        description=f"{workload.title}: predicts for every tenant with a model ({batch.name}).",
        config=config,
        tags=lambda moment: {
            "tenantry/batch": batch.name,
            "tenantry/day": moment.date().isoformat(),
        },
        each_counts=True,
    )


def _capacity(workload: Workload, jobs: WorkloadJobs) -> list[Scheduled]:
    """A run at each time of the timetables, and one every hour. Application Auto Scaling changes
    the bounds by itself; the runs show them, and mend what differs from the YAML."""
    serving = workload.serving
    sections = {"": serving.capacity, "_of_silo": serving.silo_capacity}
    if serving.asynchronous is not None:
        sections["_asynchronous"] = serving.asynchronous.capacity
        sections["_asynchronous_of_silo"] = serving.asynchronous.silo_capacity
    changes = dict[tuple[str, str], str]()
    for of_section, section in sections.items():
        for change in section.timetable if section is not None else ():
            # Sections may give changes at different times one name; each schedule has its own.
            taken = change.name in changes.values()
            name = change.name + of_section if taken else change.name
            changes.setdefault((change.cron, change.timezone), name)
    times = [
        (name, cron, timezone, f"shows the change {name.replace('_', ' ')}")
        for (cron, timezone), name in changes.items()
    ]
    times.append(("hourly", _EVERY_HOUR, "UTC", "mends what differs from the YAML"))
    return [
        Scheduled(
            name=f"{workload.name}_endpoint_capacity_{name}",
            group=f"{workload.name} endpoint capacity",
            workload=workload.name,
            job=jobs.endpoint_capacity,
            cron=cron,
            timezone=timezone,
            description=f"{workload.title}: {what}.",
        )
        for name, cron, timezone, what in times
    ]


def _prewarming(workload: Workload, jobs: WorkloadJobs) -> list[Scheduled]:
    section = workload.serving.prewarming
    if section is None or jobs.prewarming is None:
        return []
    return [
        Scheduled(
            name=f"{workload.name}_prewarming_schedule",
            group=f"{workload.name} pre-warming",
            workload=workload.name,
            job=jobs.prewarming,
            cron=section.cron,
            timezone=section.timezone,
            description=f"{workload.title}: loads the models that were asked in the {section.hours}"
            f" hours from now on of earlier days, at most {section.most}.",
        )
    ]


def _retraining(workload: Workload, jobs: WorkloadJobs) -> list[Scheduled]:
    if workload.retraining is None or jobs.retraining is None:
        return []
    most = workload.retraining.max_at_once
    return [
        Scheduled(
            name=f"{workload.name}_retraining_schedule",
            group=f"{workload.name} re-training",
            workload=workload.name,
            job=jobs.retraining,
            cron=workload.retraining.cron,
            timezone=workload.retraining.timezone,
            description=f"{workload.title}: asks for challengers of old champions, at most {most}.",
        )
    ]


def _shared_model(workload: Workload, jobs: WorkloadJobs) -> list[Scheduled]:
    section = workload.shared_model
    if section is None or jobs.shared_model is None:
        return []
    return [
        Scheduled(
            name=f"{workload.name}_shared_model_schedule",
            group=f"{workload.name} shared model",
            workload=workload.name,
            job=jobs.shared_model,
            cron=section.cron,
            timezone=section.timezone,
            description=f"{workload.title}: asks for the shared model of all tenants' data.",
        )
    ]

"""Batch predictions, re-training and endpoint capacity, at the times the workload's YAML says."""

from dagster import (
    DefaultScheduleStatus,
    RunConfig,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    schedule,
)

from assets.workload_assets import BatchConfig, CapacityConfig
from orchestration.jobs import WorkloadJobs, batch_step
from workloads.schema import Capacity, Workload


def schedules_of(workload: Workload, jobs: WorkloadJobs) -> list[ScheduleDefinition]:
    """The schedules of a workload; all run by default."""
    return [
        _batch_schedule(workload, jobs),
        *(_capacity_schedule(workload, jobs, change) for change in workload.serving.capacity),
        *_retraining_schedules(workload, jobs),
    ]


def _batch_schedule(workload: Workload, jobs: WorkloadJobs) -> ScheduleDefinition:
    @schedule(
        name=f"{workload.name}_batch_predictions_schedule",
        job=jobs.batch_predictions,
        cron_schedule=workload.batch.cron,
        execution_timezone=workload.batch.timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=f"{workload.title}: predicts the day for every tenant with a model.",
    )
    def batch_predictions_schedule(context: ScheduleEvaluationContext) -> RunRequest:
        day = context.scheduled_execution_time.date().isoformat()
        config = RunConfig({batch_step(workload.name): BatchConfig(day=day)})
        return RunRequest(run_key=day, run_config=config, tags={"tenantry/day": day})

    return batch_predictions_schedule


def _capacity_schedule(workload: Workload, jobs: WorkloadJobs, change: Capacity) -> ScheduleDefinition:
    return ScheduleDefinition(
        name=f"{workload.name}_endpoint_capacity_{change.name}",
        job=jobs.endpoint_capacity,
        cron_schedule=change.cron,
        execution_timezone=change.timezone,
        run_config=RunConfig({f"{workload.name}__endpoint_capacity": CapacityConfig(instances=change.instances)}),
        default_status=DefaultScheduleStatus.RUNNING,
        description=f"{workload.title}: {change.instances} instances, {change.name.replace('_', ' ')}.",
    )


def _retraining_schedules(workload: Workload, jobs: WorkloadJobs) -> list[ScheduleDefinition]:
    if workload.retraining is None or jobs.retraining is None:
        return []
    return [
        ScheduleDefinition(
            name=f"{workload.name}_retraining_schedule",
            job=jobs.retraining,
            cron_schedule=workload.retraining.cron,
            execution_timezone=workload.retraining.timezone,
            default_status=DefaultScheduleStatus.RUNNING,
            description=f"{workload.title}: asks for challengers of old champions, at most {workload.retraining.most_at_once}.",
        )
    ]

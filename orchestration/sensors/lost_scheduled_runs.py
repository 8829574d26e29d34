"""Asks again for scheduled runs that were lost."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from dagster import (
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from orchestration.jobs import WorkloadJobs
from orchestration.overdue import GivenUp, Look, overdue
from orchestration.schedules import scheduled_of
from resources.tenantry_resource import TenantryResource
from tenantry.aws.notices import tell_operators
from tenantry.workloads.schema import Workload

_OVERDUE_SECONDS: Final = 30


def lost_scheduled_runs_sensor(
    workloads: Mapping[str, Workload], jobs: Mapping[str, WorkloadJobs]
) -> SensorDefinition:
    """``lost_scheduled_runs``, over all workloads and their jobs."""
    scheduled = [
        each for name, workload in workloads.items() for each in scheduled_of(workload, jobs[name])
    ]

    @sensor(
        name="lost_scheduled_runs",
        minimum_interval_seconds=_OVERDUE_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        jobs=list({each.job.name: each.job for each in scheduled}.values()),
        description="Asks again for what a schedule asked for when its run never came, was killed, "
        "or could not be launched.",
    )
    def lost_scheduled_runs(
        context: SensorEvaluationContext, tenantry: TenantryResource
    ) -> Iterator[RunRequest | SkipReason]:
        now = datetime.now(UTC)
        look = Look.parse(context.cursor, now)
        asked = 0
        for found in overdue(context.instance, scheduled, look, now):
            if isinstance(found, GivenUp):
                moment = f"{found.moment:%Y-%m-%d %H:%M %Z}"
                what = (
                    f"{found.scheduled.name} of {moment} was lost {found.runs} times"
                    if found.runs
                    else f"{found.scheduled.name} of {moment} and before it never came"
                )
                context.log.error(what)
                tell_operators(
                    tenantry.deployment,
                    f"{found.scheduled.workload}: a scheduled run was given up",
                    f"{what}, and is not asked for again. Launch it by hand when what killed it is "
                    f"mended.",
                )
            else:
                asked += 1
                yield found
        context.update_cursor(look.cursor())
        if not asked:
            yield SkipReason("everything scheduled has run, runs, or is given time to")

    return lost_scheduled_runs

"""Tells the operators about failed runs."""

import json

from dagster import (
    DefaultSensorStatus,
    RunFailureSensorContext,
    SensorDefinition,
    run_failure_sensor,
)

from resources.tenantry_resource import TenantryResource
from tenantry.aws.notices import tell_operators


def failed_runs_sensor() -> SensorDefinition:
    """``failed_runs``, over all jobs."""

    @run_failure_sensor(
        name="failed_runs",
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Tells the operators of every run that failed.",
    )
    def failed_runs(context: RunFailureSensorContext, tenantry: TenantryResource) -> None:
        run = context.dagster_run
        message = context.failure_event.message or "no message"
        details = json.dumps(
            {"run": run.run_id, "job": run.job_name, "tags": dict(run.tags)}, indent=1
        )
        tell_operators(
            tenantry.deployment, f"{run.job_name} failed", f"{message[:4000]}\n\n{details[:8000]}"
        )

    return failed_runs

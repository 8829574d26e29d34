"""Ends trials whose version fails too often."""

from collections.abc import Mapping

from dagster import (
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from orchestration.sensors.ticks import RECONCILE_SECONDS
from resources.tenantry_resource import TenantryResource
from tenantry.trials import running
from tenantry.workloads.schema import Workload


def failing_trials_sensor(workloads: Mapping[str, Workload]) -> SensorDefinition:
    """``failing_trials``, over all workloads."""

    @sensor(
        name="failing_trials",
        minimum_interval_seconds=RECONCILE_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Ends trials whose version fails too often, and tells the operators.",
    )
    def failing_trials(context: SensorEvaluationContext, tenantry: TenantryResource) -> SkipReason:
        ended = 0
        for workload in workloads.values():
            for done in running.guard(tenantry.deployment, workload):
                ended += 1
                context.log.warning(
                    f"{workload.name}, {done.champion.tenant}: the trial of {done.trial.version} "
                    f"was ended, as it failed too often"
                )
        return SkipReason(
            f"{ended} trials ended, as their versions failed too often"
            if ended
            else "no version on trial fails too often"
        )

    return failing_trials

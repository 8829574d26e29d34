"""Brings failures of asynchronous requests to their tenants."""

from dagster import (
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from orchestration.sensors.ticks import SHOW_SECONDS
from resources.tenantry_resource import TenantryResource
from tenantry.serving import asynchronous


def asynchronous_failures_sensor() -> SensorDefinition:
    """``asynchronous_failures``, over all workloads."""

    @sensor(
        name="asynchronous_failures",
        minimum_interval_seconds=SHOW_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Brings failures of asynchronous requests, which SageMaker puts in one place, "
        "each to its own tenant.",
    )
    def asynchronous_failures(
        context: SensorEvaluationContext, tenantry: TenantryResource
    ) -> SkipReason:
        delivered = asynchronous.deliver_failures(tenantry.deployment)
        for failure in delivered:
            context.log.warning(f"{failure.workload}, {failure.tenant}: {failure.reason}")
        return SkipReason(
            f"{len(delivered)} failures delivered"
            if delivered
            else "no asynchronous request failed"
        )

    return asynchronous_failures

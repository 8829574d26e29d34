"""Turns uploads whose events came into requests."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from dagster import (
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from orchestration.partitions import add_tenants
from orchestration.sensors.observed_uploads import observe_uploads
from orchestration.sensors.ticks import TICK_SECONDS
from resources.tenantry_resource import TenantryResource
from tenantry.uploads import intake
from tenantry.workloads.schema import Workload

# with its last handful a tick stays under five, however much waits in the queue
_DRAIN_SECONDS: Final = 2.5


class UploadsNotTakenInError(RuntimeError):
    """Not one of the uploads whose events came could be taken in; the code server's log says why.
    Their events stay."""


def new_uploads_sensor(workloads: Mapping[str, Workload]) -> SensorDefinition:
    """``new_uploads``, over all workloads."""

    @sensor(
        name="new_uploads",
        minimum_interval_seconds=TICK_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Takes finished uploads off the SQS queue that S3 fills: each becomes a "
        "request, or a refusal with its reason.",
    )
    def new_uploads(context: SensorEvaluationContext, tenantry: TenantryResource) -> SkipReason:
        done = intake.drain_queue(
            tenantry.deployment,
            workloads,
            partial(add_tenants, context.instance),
            max_seconds=_DRAIN_SECONDS,
        )
        for key, reason in done.refused:
            context.log.warning(f"refused {key}: {reason}")
        observe_uploads(context.instance, done)
        if done.failed and not (done.accepted or done.repeated or done.refused):
            raise UploadsNotTakenInError(str(done))
        return SkipReason(str(done) if done.messages else "no new uploads")

    return new_uploads

"""Reports workloads whose files cannot be used."""

from dagster import DefaultSensorStatus, SensorDefinition, SkipReason, sensor

from orchestration.sensors.ticks import RECONCILE_SECONDS
from tenantry.workloads.schema import Workloads


class UnreadableWorkloadsError(RuntimeError):
    """Files of workloads cannot be used; the message names file, line, field and cure."""


def unreadable_workloads_sensor(workloads: Workloads) -> SensorDefinition:
    """``unreadable_workloads``, over all workloads."""

    @sensor(
        name="unreadable_workloads",
        minimum_interval_seconds=RECONCILE_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Fails while a workload's file cannot be used, and names file, line, field "
        "and cure.",
    )
    def unreadable_workloads() -> SkipReason:
        if workloads.unreadable:
            faults = "\n".join(workloads.unreadable.values())
            raise UnreadableWorkloadsError(
                f"{faults}\nMend the file, and reload the code location. Until then uploads wait, "
                f"and what serves goes on."
            )
        return SkipReason("every workload's file can be used")

    return unreadable_workloads

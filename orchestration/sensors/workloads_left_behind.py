"""Reports a workload whose YAML is gone while some of its requests or endpoints are left."""

from dagster import DefaultSensorStatus, SensorDefinition, SkipReason, sensor

from orchestration.sensors.ticks import RECONCILE_SECONDS
from resources.tenantry_resource import TenantryResource
from tenantry.tenants.wind_down import left_behind, note_workloads
from tenantry.workloads.schema import Workloads


class WorkloadsLeftBehindError(RuntimeError):
    """A workload's YAML is gone, but not its requests or endpoints; the message names them, and the
    cure."""


def workloads_left_behind_sensor(workloads: Workloads) -> SensorDefinition:
    """``workloads_left_behind``: workloads beyond those that the product offers."""

    @sensor(
        name="workloads_left_behind",
        minimum_interval_seconds=RECONCILE_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Fails while a workload whose YAML was removed has open requests or endpoints, "
        "and says what to do.",
    )
    def workloads_left_behind(tenantry: TenantryResource) -> SkipReason:
        # ``names`` includes workloads whose files cannot be used: these are not removed ones.
        note_workloads(tenantry.deployment, workloads.names)
        left = left_behind(tenantry.deployment, workloads.names)
        if left:
            raise WorkloadsLeftBehindError("\n".join(map(str, left)))
        return SkipReason("nothing is left of a workload that is offered no more")

    return workloads_left_behind

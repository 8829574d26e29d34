"""Turns requests into packs, and packs into runs."""

from collections.abc import Iterator, Mapping

from dagster import (
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from orchestration.jobs import WorkloadJobs
from orchestration.launcher import fail_lost_runs, runs_to_request
from orchestration.sensors.ticks import TICK_SECONDS
from resources.tenantry_resource import TenantryResource
from tenantry.requests.queue import RequestQueue
from tenantry.workloads.schema import Workload


def fine_tuning_launcher_sensor(
    workloads: Mapping[str, Workload], jobs: Mapping[str, WorkloadJobs]
) -> SensorDefinition:
    """``fine_tuning_launcher``, over all workloads and their jobs."""

    @sensor(
        name="fine_tuning_launcher",
        minimum_interval_seconds=TICK_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        jobs=[jobs[name].fine_tuning for name in workloads],
        description="Claims due requests, packs them, and asks for one run per pack; takes up "
        "packs whose run died, and fails lost runs.",
    )
    def fine_tuning_launcher(
        context: SensorEvaluationContext, tenantry: TenantryResource
    ) -> Iterator[RunRequest | SkipReason]:
        fail_lost_runs(context.instance, tenantry.settings.lost_run_seconds)
        queue = RequestQueue(tenantry.deployment, by="sensor fine_tuning_launcher")
        asked, troubles = 0, list[Exception]()
        for workload in workloads.values():
            try:
                for request in runs_to_request(
                    context.instance,
                    queue,
                    workload,
                    lost_run_seconds=tenantry.settings.lost_run_seconds,
                ):
                    asked += 1
                    yield request
            except Exception as error:  # one workload's trouble must not hold up the others
                context.log.exception(
                    f"the requests of {workload.name} could not be looked at; trying again next "
                    f"tick"
                )
                troubles.append(error)
        if troubles and not asked:
            raise troubles[0]
        if not asked:
            yield SkipReason(
                "nothing is due, all packs that may run at once are running, or the workloads are "
                "paused"
            )

    return fine_tuning_launcher

"""Sensors: they turn uploads into requests and requests into packs, find lost events, and report
failures."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from dagster import SensorDefinition

from orchestration.jobs import WorkloadJobs
from orchestration.sensors.asynchronous_failures import asynchronous_failures_sensor
from orchestration.sensors.endpoints_follow_the_yaml import endpoints_follow_the_yaml_sensor
from orchestration.sensors.failed_runs import failed_runs_sensor
from orchestration.sensors.failing_trials import failing_trials_sensor
from orchestration.sensors.fine_tuning_launcher import fine_tuning_launcher_sensor
from orchestration.sensors.lost_scheduled_runs import lost_scheduled_runs_sensor
from orchestration.sensors.lost_uploads import lost_uploads_sensor
from orchestration.sensors.new_uploads import new_uploads_sensor
from orchestration.sensors.operator_events import operator_events_sensor
from orchestration.sensors.unreadable_workloads import unreadable_workloads_sensor
from orchestration.sensors.workloads_left_behind import workloads_left_behind_sensor
from tenantry.workloads.schema import Workloads


def sensors_of(
    workloads: Workloads, jobs: Mapping[str, WorkloadJobs], lost_uploads_grace: timedelta
) -> Sequence[SensorDefinition]:
    """All sensors; all run by default.

    Args:
        workloads: those that the product offers.
        jobs: each workload's.
        lost_uploads_grace: how long an event may take before its upload counts as lost. Listings
            overlap by as much.
    """
    return [
        new_uploads_sensor(workloads),
        lost_uploads_sensor(workloads, lost_uploads_grace),
        fine_tuning_launcher_sensor(workloads, jobs),
        asynchronous_failures_sensor(),
        operator_events_sensor(),
        failing_trials_sensor(workloads),
        lost_scheduled_runs_sensor(workloads, jobs),
        workloads_left_behind_sensor(workloads),
        unreadable_workloads_sensor(workloads),
        failed_runs_sensor(),
        # Dagster refuses a sensor that watches nothing.
        *([endpoints_follow_the_yaml_sensor(workloads)] if len(workloads) else []),
    ]

"""Everything Dagster loads: the assets, jobs, sensors, schedules and checks of all workloads."""

import os

from dagster import Definitions

from assets.workload_assets import assets_of
from orchestration.checks import checks_of
from orchestration.jobs import batch_predictions_job, endpoint_capacity_job, fine_tuning_job
from orchestration.partitions import tenants_of
from orchestration.schedules import schedules_of
from orchestration.sensors import sensors_of
from resources.dagster_resources import TenantryResource
from resources.deployment import DEFAULT_STACK, STACK_VARIABLE
from workloads.schema import read_workloads

_WORKLOADS = read_workloads()

defs = Definitions(
    assets=[asset for workload in _WORKLOADS.values() for asset in assets_of(workload, tenants_of(workload.name))],
    asset_checks=[check for workload in _WORKLOADS.values() for check in checks_of(workload)],
    jobs=[
        job(workload)
        for workload in _WORKLOADS.values()
        for job in (fine_tuning_job, batch_predictions_job, endpoint_capacity_job)
    ],
    schedules=[schedule for workload in _WORKLOADS.values() for schedule in schedules_of(workload)],
    sensors=sensors_of(_WORKLOADS),
    resources={
        "tenantry": TenantryResource(
            stack=os.environ.get(STACK_VARIABLE, DEFAULT_STACK),
            poll_seconds=float(os.environ.get("TENANTRY_POLL_SECONDS", "15")),
            lost_run_seconds=float(os.environ.get("TENANTRY_LOST_RUN_SECONDS", "90")),
        )
    },
)

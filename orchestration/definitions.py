"""Everything Dagster loads: the assets, jobs, sensors, schedules and checks of all workloads."""

import os
import warnings
from datetime import timedelta

from dagster import BetaWarning, Definitions, PreviewWarning, in_process_executor

from assets.workload_assets import assets_of
from orchestration.checks import checks_of
from orchestration.jobs import jobs_of
from orchestration.operator_jobs import operator_jobs_of, redrive_uploads, wind_down_workload
from orchestration.partitions import tenants_of
from orchestration.schedules import scheduled_of
from orchestration.sensors import sensors_of
from resources.tenantry_resource import TenantryResource
from tenantry.aws.deployment import DEFAULT_STACK, STACK_VARIABLE
from tenantry.workloads.schema import read_workloads

_WORKLOADS = read_workloads()
_JOBS = {name: jobs_of(workload) for name, workload in _WORKLOADS.items()}


def _definitions() -> Definitions:
    with warnings.catch_warnings():
        # Partitioned asset checks are in preview, single-run backfills and owners of sensors in
        # beta; Dagster's version is pinned, and tests of them notice a change.
        warnings.simplefilter("ignore", PreviewWarning)
        warnings.simplefilter("ignore", BetaWarning)
        made = Definitions(
            assets=[
                asset
                for workload in _WORKLOADS.values()
                for asset in assets_of(workload, tenants_of(workload.name))
            ],
            asset_checks=[
                check for workload in _WORKLOADS.values() for check in checks_of(workload)
            ],
            jobs=[
                *(job for jobs in _JOBS.values() for job in jobs.all),
                *(job for workload in _WORKLOADS.values() for job in operator_jobs_of(workload)),
                redrive_uploads,
                wind_down_workload,
            ],
            schedules=[
                each.definition()
                for name, workload in _WORKLOADS.items()
                for each in scheduled_of(workload, _JOBS[name])
            ],
            sensors=sensors_of(
                _WORKLOADS,
                _JOBS,
                timedelta(seconds=float(os.environ.get("TENANTRY_LOST_UPLOADS_SECONDS", "300"))),
            ),
            # a run has one or few steps; a process for each would cost seconds and win nothing
            executor=in_process_executor,
            resources={
                "tenantry": TenantryResource(
                    stack=os.environ.get(STACK_VARIABLE, DEFAULT_STACK),
                    poll_seconds=float(os.environ.get("TENANTRY_POLL_SECONDS", "15")),
                    lost_run_seconds=float(os.environ.get("TENANTRY_LOST_RUN_SECONDS", "90")),
                    training_job_rate=float(os.environ.get("TENANTRY_TRAINING_JOB_RATE", "1")),
                    training_job_burst=int(os.environ.get("TENANTRY_TRAINING_JOB_BURST", "3")),
                )
            },
        )
        made.get_repository_def()  # resolved here, where those warnings are known; it is kept
        return made


defs = _definitions()

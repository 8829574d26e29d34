"""The definitions of the product's workloads: each one's own, and those that all share."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from dagster import BetaWarning, Definitions, PreviewWarning, in_process_executor

from assets.unreadable_workloads import unreadable_workload_assets
from assets.workload_assets import assets_of
from orchestration.checks import checks_of
from orchestration.jobs import WorkloadJobs, jobs_of
from orchestration.operator_jobs import operator_jobs_of, redrive_uploads, wind_down_workload
from orchestration.partitions import tenants_of
from orchestration.schedules import scheduled_of
from orchestration.sensors import sensors_of
from orchestration.trial_jobs import trial_job_of
from resources.tenantry_resource import Settings, TenantryResource
from tenantry.aws.deployment import DEFAULT_STACK, STACK_VARIABLE
from tenantry.workloads.schema import Workload, Workloads


@contextmanager
def known_warnings_left_out() -> Iterator[None]:
    """Leave out the warnings about features that are used knowingly.

    Partitioned asset checks are in preview; single-run backfills, owners of sensors and references
    to code are in beta. Dagster's version is pinned, and tests of these features notice a change.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)
        warnings.simplefilter("ignore", BetaWarning)
        yield


def workload_definitions(workload: Workload, jobs: WorkloadJobs) -> Definitions:
    """A workload's own assets, checks, jobs and schedules."""
    return Definitions(
        assets=assets_of(workload, tenants_of(workload.name)),
        asset_checks=checks_of(workload),
        jobs=[*jobs.all, *operator_jobs_of(workload), trial_job_of(workload)],
        schedules=[each.definition() for each in scheduled_of(workload, jobs)],
    )


def resources() -> Mapping[str, Any]:
    """The resources by which runs and sensors reach the cloud, as the environment says."""
    return {
        "tenantry": TenantryResource(
            settings=Settings(
                stack=os.environ.get(STACK_VARIABLE, DEFAULT_STACK),
                poll_seconds=float(os.environ.get("TENANTRY_POLL_SECONDS", "15")),
                lost_run_seconds=float(os.environ.get("TENANTRY_LOST_RUN_SECONDS", "90")),
                training_job_rate=float(os.environ.get("TENANTRY_TRAINING_JOB_RATE", "1")),
                training_job_burst=int(os.environ.get("TENANTRY_TRAINING_JOB_BURST", "3")),
            )
        )
    }


def shared_definitions(workloads: Workloads, jobs: Mapping[str, WorkloadJobs]) -> Definitions:
    """The definitions that all workloads share: sensors, the jobs over all, resources, and an asset
    for each workload that cannot be used."""
    return Definitions(
        assets=unreadable_workload_assets(workloads.unreadable),
        jobs=[redrive_uploads, wind_down_workload],
        sensors=sensors_of(
            workloads,
            jobs,
            timedelta(seconds=float(os.environ.get("TENANTRY_LOST_UPLOADS_SECONDS", "300"))),
        ),
        # a run has one or few steps; a process for each would cost seconds and win nothing
        executor=in_process_executor,
        resources=resources(),
    )


def all_definitions(workloads: Workloads) -> Definitions:
    """Everything, of all workloads whose files can be used."""
    with known_warnings_left_out():
        jobs = {name: jobs_of(workload) for name, workload in workloads.items()}
        made = Definitions.merge(
            *(workload_definitions(workload, jobs[name]) for name, workload in workloads.items()),
            shared_definitions(workloads, jobs),
        )
        made.get_repository_def()  # resolved here, where those warnings are known; it is kept
        return made

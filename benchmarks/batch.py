"""Batch: a night's predictions of a whole fleet, churn over many rows, and dynamic batching.

    python -m benchmarks.batch
    python -m benchmarks.batch --only fleet --tenants 10000

`fleet` is a night's batch: each tenant's own model predicts its next days, in packed transform
jobs. A job for each tenant is measured beside it. All parts are real: the local cloud, Dagster and
its run, transform jobs in containers, the table of results. The tenants are those of
``benchmarks.fleet``; getting them their models is not measured. The time runs from the launch of
Dagster's run until it ends. Each of the tenants asked for has a prediction of the day then. The
naive way is the same product with one tenant in a job, two jobs at once. CPU seconds are those of
all processes; peak memory is that of all together.

`churn` is training and scoring beside plain XGBoost (``benchmarks.churn``), and `batching` is the
churn server with dynamic batching and without (``benchmarks.batching``).

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks import batching, churn
from benchmarks.fleet import WORKLOAD, tenants_of, upload, wait_until_served, workloads_with
from benchmarks.processes import ProcessWatch, everything_running
from infrastructure.dagster_processes import DagsterProcesses
from orchestration.step_names import batch_step
from tenantry.aws.deployment import Deployment
from tenantry.hosting import endpoints
from tenantry.hosting.shapes.catalogue import real_time_shape
from tenantry.serving.client import TenantClient
from tenantry.workloads.folder import FOLDER
from tenantry.workloads.schema import Workload, read_workloads

_ASKED: Final = 50
_HOURS: Final = 24
PARTS: Final = ("fleet", "churn", "batching")
_MODEL_ROWS: Final = 160_000
"""About as many rows make the model that dynamic batching is measured with."""


class BatchFailedError(RuntimeError):
    """The batch's run failed, or a prediction is missing."""


@dataclass(frozen=True)
class Figures:
    """The figures of one way of predicting."""

    tenants: int
    seconds: float
    transform_jobs: int
    aws_calls: int
    cpu_seconds: dict[str, float]
    peak_memory_mb: dict[str, int]

    @property
    def seconds_per_tenant(self) -> float:
        """Over the whole run."""
        return self.seconds / self.tenants


def measure(workloads: Path, tenants: int, timeout: float) -> Figures:
    """Predict a day for this many tenants, with the workloads of a folder, on a separate cloud.

    Raises:
        NotServedError: some tenants have no model after ``timeout`` seconds.
        BatchFailedError: the batch's run fails, takes longer than ``timeout`` seconds, or leaves a
            tenant out.
    """
    workload = read_workloads(workloads)[WORKLOAD]
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-batch-") as state,
        everything_running(Path(state), {"TENANTRY_WORKLOADS": str(workloads)}) as (
            deployment,
            dagster,
            proxies,
        ),
    ):
        machines = workload.shared_machines
        endpoints.ensure_endpoint(
            deployment, workload, machines, real_time_shape(workload, machines.tier)
        )
        began = time.monotonic()
        upload(deployment, tenants, began)
        wait_until_served(deployment, tenants, began, timeout)
        day, jobs_before = datetime.now(UTC).date(), _transform_jobs(deployment)
        watch = ProcessWatch()
        watch.start()
        calls_before = sum(proxy.requests for proxy in proxies)
        began = time.monotonic()
        _predict(dagster, day, timeout)
        seconds = time.monotonic() - began
        calls = sum(proxy.requests for proxy in proxies) - calls_before
        watch.stop()
        _look(deployment, workload, tenants, day)
        return Figures(
            tenants=tenants,
            seconds=seconds,
            transform_jobs=_transform_jobs(deployment) - jobs_before,
            aws_calls=calls,
            cpu_seconds=watch.cpu_seconds,
            peak_memory_mb=dict(watch.peaks),
        )


def _predict(dagster: DagsterProcesses, day: date, timeout: float) -> None:
    config = {"ops": {batch_step(WORKLOAD): {"config": {"day": day.isoformat()}}}}
    began = time.monotonic()
    run = dagster.launch(f"{WORKLOAD}_batch_predictions", config, {"tenantry/day": day.isoformat()})
    while (status := dagster.run_status(run)) not in {"SUCCESS", "FAILURE", "CANCELED"}:
        if time.monotonic() - began > timeout:
            raise BatchFailedError(f"run {run} is {status} after {timeout:.0f} s")
        time.sleep(0.5)
    if status != "SUCCESS":
        raise BatchFailedError(f"run {run} is {status}: {dagster.why_failed(run)}")


def _look(deployment: Deployment, workload: Workload, tenants: int, day: date) -> None:
    """Some tenants look at the prediction of the day, like their app. Raises ``BatchFailedError``
    for one that is not whole."""
    asked = tenants_of(tenants)[:: max(1, tenants // _ASKED)]
    for tenant in asked:
        with TenantClient(deployment, workload, tenant) as client:
            (answer,) = client.predictions(day)
        if len(answer["mean"]) < _HOURS:
            raise BatchFailedError(f"{tenant} has a prediction of {len(answer['mean'])} hours")
    print(f"{len(asked)} of {tenants} tenants looked at their prediction", flush=True)


def _transform_jobs(deployment: Deployment) -> int:
    pages = deployment.sagemaker.get_paginator("list_transform_jobs").paginate()
    return sum(len(page["TransformJobSummaries"]) for page in pages)


def _alone(folder: Path) -> Path:
    """The workload with a transform job for each tenant."""
    file = workloads_with(folder) / f"{WORKLOAD}.yaml"
    document: dict[str, Any] = yaml.safe_load(file.read_text())
    document["batches"][0] |= {"tenants_per_job": 1, "max_jobs_at_once": 2}
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return folder


def _fleet(tenants: int, naive_tenants: int, timeout: float) -> dict[str, object]:
    """All figures of the fleet's night, beside the naive way's."""
    with tempfile.TemporaryDirectory(prefix="tenantry-batch-") as folder:
        print(f"the naive way: {naive_tenants} tenants, a transform job each", flush=True)
        naive = measure(_alone(Path(folder, "naive")), naive_tenants, timeout)
        print(f"{naive.seconds_per_tenant:.2f} s a tenant", flush=True)
        print(f"the fleet: {tenants} tenants in packed jobs", flush=True)
        fleet = measure(workloads_with(Path(folder, "packed")), tenants, timeout)
    return {
        "tenants": fleet.tenants,
        "seconds": round(fleet.seconds, 1),
        "transform_jobs": fleet.transform_jobs,
        "aws_calls_per_tenant": round(fleet.aws_calls / fleet.tenants, 1),
        "cpu_s_per_tenant": round(Counter(fleet.cpu_seconds).total() / fleet.tenants, 4),
        "over_naive": round(naive.seconds_per_tenant / fleet.seconds_per_tenant, 1),
        "naive_seconds_per_tenant": round(naive.seconds_per_tenant, 2),
        "naive_cpu_s_per_tenant": round(Counter(naive.cpu_seconds).total() / naive.tenants, 3),
        "naive_transform_jobs": naive.transform_jobs,
        "peak_memory_mb": fleet.peak_memory_mb.get("all", 0),
        "cpu_s_by_process": fleet.cpu_seconds,
        "peak_memory_mb_by_process": fleet.peak_memory_mb,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts alone")
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument(
        "--naive", type=int, default=20, help="tenants of the naive way (%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=7200, help="seconds, each way of the fleet (%(default)s)"
    )
    parser.add_argument(
        "--churn-rows", type=int, default=1_000_000, help="about as many (%(default)s)"
    )
    parser.add_argument("--trees", type=int, default=100, help="of churn's models (%(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of churn and of batching (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=5, help="of load, each turn of batching (%(default)s)"
    )
    told = parser.parse_args(arguments)
    if min(told.tenants, told.naive, told.trees, told.rounds) < 1:
        parser.error("--tenants, --naive, --trees and --rounds must be at least 1")
    if told.churn_rows < churn.FEWEST_ROWS:
        parser.error(f"--churn-rows must be at least {churn.FEWEST_ROWS}")
    figures: dict[str, object] = {}
    if "fleet" in told.only:
        figures |= _fleet(told.tenants, told.naive, told.timeout)
    workload = read_workloads(FOLDER)["churn"]
    if "churn" in told.only:
        with tempfile.TemporaryDirectory(prefix="tenantry-batch-") as folder:
            rows = told.churn_rows
            figures |= churn.measure(workload, Path(folder), rows, told.trees, told.rounds)
    if "batching" in told.only:
        with tempfile.TemporaryDirectory(prefix="tenantry-batch-") as folder:
            archive = churn.trained(workload, Path(folder), min(told.churn_rows, _MODEL_ROWS))
            figures |= batching.measure(workload, archive, told.seconds, told.rounds)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

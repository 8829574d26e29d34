"""The time and cost of onboarding N tenants, from the first upload until the last tenant can be
served.

All parts are real: the local cloud, Dagster's daemon and its sensors, packed training jobs,
endpoint registration.

    python -m benchmarks.onboarding --tenants 100 --data FILE

FILE has columns customer_id, timestamp, consumption. With more tenants than customers, further
tenants take later windows of the same customers. A proxy counts the calls of Tenantry's own
processes to AWS, without SageMaker's own reads and writes for a job.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks.processes import ProcessWatch, everything_running
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import Workload, read_workloads

WORKLOAD: Final = ids.workload_name("energy")
WEEK_HOURS: Final = 168


def uploads_of(data: Path, tenants: int) -> list[tuple[ids.TenantId, bytes]]:
    """Each tenant's CSV file. Raises ``ValueError`` for a file without the three columns."""
    import pyarrow.compute as compute
    from pyarrow import csv, parquet

    table = parquet.read_table(data) if data.suffix == ".parquet" else csv.read_csv(data)
    missing = {"customer_id", "timestamp", "consumption"} - set(table.column_names)
    if missing:
        raise ValueError(f"{data.name} lacks the column {sorted(missing)[0]}")
    customers = sorted(str(value) for value in compute.unique(table["customer_id"]).to_pylist())
    parts = {
        c: table.filter(compute.equal(table["customer_id"], c)).select(["timestamp", "consumption"])
        for c in customers[:tenants]
    }
    files = []
    for number in range(tenants):
        customer, window = customers[number % len(customers)], number // len(customers)
        sink = io.BytesIO()
        csv.write_csv(parts[customer].slice(window * WEEK_HOURS), sink)
        files.append((ids.tenant_id(f"{customer.lower()}-w{window}"), sink.getvalue()))
    return files


def onboard(
    deployment: Deployment,
    workload: Workload,
    files: list[tuple[ids.TenantId, bytes]],
    timeout: float,
) -> float:
    """Upload, and wait until every tenant is served. Returns the seconds. Raises
    ``TimeoutError``."""
    queue, registry = RequestQueue(deployment), ModelRegistry(deployment)
    parameters = {"timezone": "Europe/London", "country": "GB"}

    def upload(entry: tuple[ids.TenantId, bytes]) -> None:
        with TenantClient(deployment, workload, entry[0]) as client:
            client.upload({"consumption.csv": entry[1]}, parameters)

    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upload, files))
    print(f"{len(files)} uploads in {time.monotonic() - began:.1f} s", flush=True)
    shown = 0.0
    while True:
        served = len(registry.champions(WORKLOAD))
        seconds = time.monotonic() - began
        if served >= len(files):
            return seconds
        if seconds - shown > 15:
            shown = seconds
            states = Counter(request.status for request in queue.open(WORKLOAD))
            print(f"{seconds:5.0f} s: {served} served; open: {dict(states)}", flush=True)
        if seconds > timeout:
            raise TimeoutError(f"{served} of {len(files)} tenants served after {seconds:.0f} s")
        time.sleep(1.0)


def training_cpu_seconds(deployment: Deployment) -> float:
    """The sum of CPU seconds in all tasks' outcomes."""
    total = 0.0
    pages = deployment.s3.get_paginator("list_objects_v2").paginate(
        Bucket=deployment.data_bucket, Prefix=f"checkpoints/{WORKLOAD}/"
    )
    for page in pages:
        for entry in page.get("Contents", []):
            if entry["Key"].endswith(".json"):
                outcome = json.loads(
                    objects.read_bytes(deployment.s3, deployment.data_bucket, entry["Key"], 1 << 20)
                )
                total += outcome["cpu_seconds"]
    return total


def main() -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onboarding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tenants", type=int, default=100)
    parser.add_argument("--data", type=Path, required=True, help="CSV or Parquet")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds (%(default)s)")
    arguments = parser.parse_args()
    workload = read_workloads()[WORKLOAD]
    files = uploads_of(arguments.data, arguments.tenants)
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-onboarding-") as state,
        everything_running(Path(state)) as (deployment, dagster, proxies),
    ):
        watch = ProcessWatch()
        watch.start()
        seconds = onboard(deployment, workload, files, arguments.timeout)
        calls = sum(proxy.requests for proxy in proxies)
        watch.stop()
        runs = dagster.graphql("{ runsOrError { ... on Runs { count } } }")["runsOrError"]["count"]
        jobs = sum(
            len(page["TrainingJobSummaries"])
            for page in deployment.sagemaker.get_paginator("list_training_jobs").paginate()
        )
        cpu = training_cpu_seconds(deployment)
    figures = {
        "tenants": arguments.tenants,
        "seconds": round(seconds, 1),
        "seconds_per_tenant": round(seconds / arguments.tenants, 3),
        "create_training_job_calls": jobs,
        "aws_calls_per_tenant": round(calls / arguments.tenants, 1),
        "dagster_runs": runs,
        "training_cpu_s_per_tenant": round(cpu / arguments.tenants, 4),
        "peak_memory_mb": watch.peaks["all"],
        "peak_memory_mb_by_process": dict(watch.peaks),
        "cpu_s_by_process": watch.cpu_seconds,
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

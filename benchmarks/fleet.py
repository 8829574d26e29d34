"""A whole fleet at once: thousands of tenants upload, and each gets its own model. The naive way is
measured beside it.

    python -m benchmarks.fleet --tenants 10000

All parts are real: the local cloud, Dagster's daemon and its sensors, packed training jobs,
endpoint registration. The series are small and synthetic: four and a half weeks of hours. The naive
way is the same product with packs of one: a Dagster run and a training job for each tenant, as many
at once as the Dagster instance allows.

The time runs from the first upload until the last tenant has a champion; in both ways the endpoint
is already in service. A proxy counts the calls of Dagster's processes to AWS, without SageMaker's
own reads and writes for a job. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from dagster import DagsterInstance
from numpy.typing import NDArray

from benchmarks.processes import ProcessWatch, everything_running
from containers.forecast.consumption.synthetic import generate, last_midnight
from infrastructure.dagster_processes import DagsterProcesses
from tenantry.aws.deployment import Deployment
from tenantry.hosting import endpoints
from tenantry.hosting.shapes.catalogue import real_time_shape
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.uploads import manifests
from tenantry.workloads.folder import FOLDER
from tenantry.workloads.schema import Workload, read_workloads

WORKLOAD: Final = ids.workload_name("energy")
PARAMETERS: Final = {"timezone": "Europe/London", "country": "GB"}
SENSORS: Final = ("fine_tuning_launcher", "new_uploads")
_DAYS: Final = 32
# customers with their own habits; each tenant is one of them with its own level
_HABITS: Final = 64
_ASKED: Final = 50  # tenants who ask their model for a forecast at the end
_HARMLESS_SECONDS: Final = 120.0  # no open request, although not every tenant is served


class NotServedError(RuntimeError):
    """Tenants were left without a model."""


@dataclass(frozen=True)
class Figures:
    """The figures of one way of onboarding."""

    tenants: int
    seconds: float
    create_training_job_calls: int
    aws_calls: int
    dagster_runs: int
    tick_seconds: dict[str, list[float]]  # of each sensor
    peak_memory_mb: dict[str, int]
    cpu_seconds: dict[str, float]

    @property
    def tenants_per_minute(self) -> float:
        """Over the whole time."""
        return self.tenants / self.seconds * 60


class Customers:
    """The tenants' files: hourly consumption, generated on request from the synthetic customers'
    habits."""

    def __init__(self) -> None:
        end = last_midnight()
        frame = generate(_HABITS, end - timedelta(days=_DAYS), end, seed=11)
        times = frame.timestamp[: _DAYS * 24].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        self._times: list[str] = times.tolist()
        self._habits: NDArray[np.float64] = frame.consumption.to_numpy().reshape(
            _HABITS, _DAYS * 24
        )

    def file_of(self, number: int) -> bytes:
        """The CSV file of a tenant."""
        level = 0.5 + 0.001 * (number // _HABITS)
        values = np.round(self._habits[number % _HABITS] * level, 3).tolist()
        lines = [f"{moment},{value}" for moment, value in zip(self._times, values, strict=True)]
        return ("timestamp,consumption\n" + "\n".join(lines) + "\n").encode()


def tenants_of(count: int) -> list[ids.TenantId]:
    """The tenants' ids."""
    return [ids.tenant_id(f"fleet-{number:06d}") for number in range(count)]


def measure(workloads: Path, tenants: int, timeout: float) -> Figures:
    """Onboard this many tenants with the workloads of a folder, on a separate cloud and Dagster.

    Raises:
        NotServedError: some tenants have no model, or onboarding took longer than ``timeout``
            seconds.
    """
    workload = read_workloads(workloads)[WORKLOAD]
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-fleet-") as state,
        everything_running(Path(state), {"TENANTRY_WORKLOADS": str(workloads)}) as (
            deployment,
            dagster,
            proxies,
        ),
    ):
        machines = workload.shared_machines
        shape = real_time_shape(workload, machines.tier)
        endpoints.ensure_endpoint(deployment, workload, machines, shape)
        watch = ProcessWatch()
        watch.start()
        calls_before = sum(proxy.requests for proxy in proxies)
        began = time.monotonic()
        with ThreadPoolExecutor(1) as aside:
            uploading = aside.submit(upload, deployment, tenants, began)
            wait_until_served(deployment, tenants, began, timeout)
            uploading.result()
        seconds = time.monotonic() - began
        calls = sum(proxy.requests for proxy in proxies) - calls_before
        watch.stop()
        _ask(deployment, workload, tenants)
        return Figures(
            tenants=tenants,
            seconds=seconds,
            create_training_job_calls=_training_jobs(deployment),
            aws_calls=calls,
            dagster_runs=_runs(dagster, workload),
            tick_seconds=_tick_seconds(dagster),
            peak_memory_mb=dict(watch.peaks),
            cpu_seconds=watch.cpu_seconds,
        )


def upload(deployment: Deployment, tenants: int, began: float) -> None:
    """Upload every tenant's file. ``began`` is a moment of ``time.monotonic``, for what is said."""
    customers = Customers()

    def put(entry: tuple[int, ids.TenantId]) -> None:
        number, tenant = entry
        files = {"consumption.csv": customers.file_of(number)}
        manifests.put_upload(
            deployment, WORKLOAD, tenant, ids.upload_id("first"), files, PARAMETERS
        )

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(put, enumerate(tenants_of(tenants))):
            pass
    print(f"{time.monotonic() - began:6.0f} s: {tenants} uploads are done", flush=True)


def wait_until_served(deployment: Deployment, tenants: int, began: float, timeout: float) -> None:
    """Wait for each tenant's champion; poll less often for more tenants, because polling takes
    measured time. Raises ``NotServedError`` after ``timeout`` seconds, or if no request is open."""
    queue, registry = RequestQueue(deployment), ModelRegistry(deployment)
    pause, nothing_open_since = 1.0 + tenants / 1000, 0.0
    shown = began
    while True:
        time.sleep(pause)
        now = time.monotonic()
        # Count the backlog itself only when no request is in a pack.
        counts = Counter(request.status for request in queue.in_packs(WORKLOAD)) or Counter(
            {status: count for status, count in queue.counts(WORKLOAD).items() if count}
        )
        if now - shown > 15:
            shown = now
            print(f"{now - began:6.0f} s: {dict(counts) or 'nothing is open'}", flush=True)
        if counts.keys() - {"dead_lettered"}:
            nothing_open_since = 0.0
        else:
            served = len(registry.champions(WORKLOAD))
            if served >= tenants:
                return
            nothing_open_since = nothing_open_since or now
            if now - nothing_open_since > _HARMLESS_SECONDS:
                raise NotServedError(
                    f"{served} of {tenants} tenants have a model, and nothing is open: {counts}"
                )
        if now - began > timeout:
            raise NotServedError(
                f"not all of {tenants} tenants had a model after {timeout:.0f} s: {counts}"
            )


def _ask(deployment: Deployment, workload: Workload, tenants: int) -> None:
    """Some tenants ask for a forecast, like their app. A missing forecast raises an error."""
    asked = tenants_of(tenants)[:: max(1, tenants // _ASKED)]
    for tenant in asked:
        with TenantClient(deployment, workload, tenant) as client:
            client.predict({"period": 1})
    print(f"{len(asked)} of {tenants} tenants asked for a forecast and got one", flush=True)


def _training_jobs(deployment: Deployment) -> int:
    pages = deployment.sagemaker.get_paginator("list_training_jobs").paginate()
    return sum(len(page["TrainingJobSummaries"]) for page in pages)


def _runs(dagster: DagsterProcesses, workload: Workload) -> int:
    query = (
        "query Count($job: String!) { runsOrError(filter: {pipelineName: $job}) { ... on Runs "
        "{ count } } }"
    )
    found: int = dagster.graphql(query, {"job": f"{workload.name}_fine_tuning"})["runsOrError"][
        "count"
    ]
    return found


def _tick_seconds(dagster: DagsterProcesses) -> dict[str, list[float]]:
    """The duration of each evaluation of the two busiest sensors, from Dagster's own records."""
    os.environ["DAGSTER_HOME"] = str(dagster.home)
    with DagsterInstance.from_config(str(dagster.home)) as instance:
        states = [
            state for state in instance.all_instigator_state() if state.instigator_name in SENSORS
        ]
        ticks = {
            s.instigator_name: instance.get_ticks(s.instigator_origin_id, s.selector_id)
            for s in states
        }
    return {
        name: [tick.end_timestamp - tick.timestamp for tick in of_sensor if tick.end_timestamp]
        for name, of_sensor in ticks.items()
    }


def p95(values: Sequence[float]) -> float:
    """The 95th percentile. Raises ``StatisticsError`` for fewer than two values."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def workloads_with(folder: Path, **pack: int) -> Path:
    """A folder with only the energy workload, whose ``training.pack`` gets the given values."""
    folder.mkdir()
    document: dict[str, Any] = yaml.safe_load((FOLDER / f"{WORKLOAD}.yaml").read_text())
    document["training"]["pack"] |= pack
    instances = -(
        -document["training"]["pack"]["max_tenants"] // document["training"]["tenants_per_instance"]
    )
    document["training"]["max_instances"] = max(document["training"]["max_instances"], instances)
    (folder / f"{WORKLOAD}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder


def main() -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument(
        "--naive", type=int, default=20, help="tenants of the naive way (%(default)s)"
    )
    parser.add_argument(
        "--pack", type=int, help="most tenants of a pack; by default what the workload's YAML says"
    )
    parser.add_argument(
        "--timeout", type=float, default=7200, help="seconds, each way (%(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.tenants < 1 or arguments.naive < 1:
        parser.error("--tenants and --naive must be at least 1")
    with tempfile.TemporaryDirectory(prefix="tenantry-fleet-") as folder:
        packed = workloads_with(
            Path(folder, "packed"), **({"max_tenants": arguments.pack} if arguments.pack else {})
        )
        alone = workloads_with(
            Path(folder, "naive"), max_tenants=1, max_at_once=100, wait_seconds=0
        )
        print(
            f"the naive way: {arguments.naive} tenants, a run and a training job each", flush=True
        )
        naive = measure(alone, arguments.naive, arguments.timeout)
        print(
            f"{naive.tenants_per_minute:.1f} tenants a minute in {naive.dagster_runs} runs",
            flush=True,
        )
        print(f"the fleet: {arguments.tenants} tenants in packs", flush=True)
        fleet = measure(packed, arguments.tenants, arguments.timeout)
    kinds: Counter[str] = Counter(fleet.cpu_seconds)
    figures = {
        "tenants": fleet.tenants,
        "seconds": round(fleet.seconds, 1),
        "tenants_per_minute": round(fleet.tenants_per_minute, 1),
        "create_training_job_calls": fleet.create_training_job_calls,
        "aws_calls_per_tenant": round(fleet.aws_calls / fleet.tenants, 1),
        "dagster_runs": fleet.dagster_runs,
        "sensor_tick_p95_s": round(p95([*chain.from_iterable(fleet.tick_seconds.values())]), 2),
        "sensor_tick_longest_s": round(max(chain.from_iterable(fleet.tick_seconds.values())), 2),
        "sensor_tick_p95_s_by_sensor": {
            name: round(p95(ticks), 2) for name, ticks in fleet.tick_seconds.items()
        },
        "tenants_per_minute_over_naive": round(
            fleet.tenants_per_minute / naive.tenants_per_minute, 1
        ),
        "naive_tenants_per_minute": round(naive.tenants_per_minute, 2),
        "naive_dagster_runs": naive.dagster_runs,
        "cpu_s_per_tenant": round(kinds.total() / fleet.tenants, 4),
        "cpu_s_by_process": fleet.cpu_seconds,
        "peak_memory_mb_by_process": fleet.peak_memory_mb,
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

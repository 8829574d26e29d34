"""How long it takes, and what it costs, to onboard N tenants: from the first upload to the last tenant servable.

Everything is the real thing: the local cloud, Dagster's daemon and its sensors, packed training jobs, endpoint registration.

    python -m benchmarks.onboarding --tenants 100 --data FILE

FILE has columns customer_id, timestamp, consumption. With more tenants than customers, further tenants take later windows of
the same customers. Calls to AWS are those of Tenantry's own processes, counted on their way by a proxy; what SageMaker itself
reads and writes for a job is not among them.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from demo.dagster_processes import ROOT, DagsterProcesses, dagster_processes
from infrastructure.deploy import deploy
from infrastructure.local_cloud import free_port, running
from resources import keys, storage
from resources.client import TenantClient
from resources.deployment import Deployment
from resources.model_registry import ModelRegistry
from resources.request_queue import RequestQueue
from workloads.schema import Workload, read_workloads

WORKLOAD: Final = keys.workload_name("energy")
WEEK_HOURS: Final = 168
_REQUEST_LINE: Final = re.compile(rb"(?:GET|PUT|POST|DELETE|HEAD) \S{1,8000} HTTP/1\.1\r\n")


class CountingProxy:
    """Passes TCP on to a port and counts the HTTP requests that go by."""

    def __init__(self, target: int) -> None:
        self.target, self.port, self.requests = target, free_port(), 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="counting-proxy", daemon=True)

    def start(self) -> None:
        """Listen, in a thread of its own."""
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", self.port))
        self._loop.run_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self._pump(reader, up_writer, count=True), self._pump(up_reader, writer, count=False))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool) -> None:
        try:
            while chunk := await reader.read(1 << 18):
                if count:
                    # botocore sends a request's line and headers in one piece, at the start of what it writes.
                    self.requests += len(_REQUEST_LINE.findall(chunk))
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


class ProcessWatch:
    """What each kind of child process used: the most memory (RSS, MB) at one moment, and CPU seconds.

    CPU time is seen once a second, so a process's last second is missed.
    """

    def __init__(self) -> None:
        self.peaks: Counter[str] = Counter()
        self._cpu: dict[int, tuple[str, float, float]] = {}  # process id: kind, CPU seconds at first sight, and now
        self._cpu_seen = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="process-watch", daemon=True)

    def start(self) -> None:
        """Look once a second."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stopped.set()
        self._thread.join()

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds by kind, since the watch began."""
        used: Counter[str] = Counter()
        for kind, began, now in self._cpu.values():
            used[kind] += now - began  # type: ignore[assignment]  # a Counter adds floats as well
        return {kind: round(seconds, 1) for kind, seconds in used.items()}

    def _watch(self) -> None:
        while not self._stopped.wait(1.0):
            held: Counter[str] = Counter()
            for process in psutil.Process().children(recursive=True):
                try:
                    kind, times = _kind(process), process.cpu_times()
                    held[kind] += round(process.memory_info().rss / 1e6)
                except psutil.Error:
                    continue
                used = times.user + times.system
                began = self._cpu[process.pid][1] if process.pid in self._cpu else (used if not self._cpu_seen else 0.0)
                self._cpu[process.pid] = (kind, began, used)
            self._cpu_seen = True
            held["all"] = sum(held.values())
            for kind, megabytes in held.items():
                self.peaks[kind] = max(self.peaks[kind], megabytes)


def _kind(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    kinds = {
        "ministack": "ministack", "local_sagemaker": "local_sagemaker", "forecast/train": "training", "forecast/serve": "serving",
        "dagster-webserver": "webserver", "dagster_webserver": "webserver", "dagster-daemon": "daemon", "dagster._daemon": "daemon",
        "api grpc": "code_server", "multiprocessing": "runs",
    }  # fmt: skip
    return next((kind for words, kind in kinds.items() if words in line), "other")


def uploads_of(data: Path, tenants: int) -> list[tuple[keys.TenantId, bytes]]:
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
        files.append((keys.tenant_id(f"{customer.lower()}-w{window}"), sink.getvalue()))
    return files


@contextmanager
def everything_running(state: Path) -> Iterator[tuple[Deployment, DagsterProcesses, list[CountingProxy]]]:
    """The local cloud and Dagster, whose calls go through counting proxies."""
    with running(state / "cloud", ROOT / "containers") as cloud:
        os.environ.update(cloud.environment)
        deploy()
        proxies = [CountingProxy(cloud.ministack_port), CountingProxy(cloud.sagemaker_port)]
        for proxy in proxies:
            proxy.start()
        ministack, sagemaker = (f"http://127.0.0.1:{proxy.port}" for proxy in proxies)
        environment = {
            **cloud.environment,
            "AWS_ENDPOINT_URL": ministack,
            # The outputs of the stack hold the queue's own address, so it needs no rewriting: SQS is called through the proxy.
            "AWS_ENDPOINT_URL_SAGEMAKER": sagemaker,
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": sagemaker,
            "TENANTRY_POLL_SECONDS": "1",
        }
        with dagster_processes(state / "dagster", free_port(), environment) as dagster:
            yield Deployment.from_stack(), dagster, proxies


def onboard(
    deployment: Deployment, workload: Workload, files: list[tuple[keys.TenantId, bytes]], timeout: float
) -> float:
    """Upload, wait until every tenant is served. Returns seconds. Raises ``TimeoutError``."""
    queue, registry = RequestQueue(deployment), ModelRegistry(deployment)
    parameters = {"timezone": "Europe/London", "country": "GB"}

    def upload(entry: tuple[keys.TenantId, bytes]) -> None:
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
    """What all tasks' outcomes say they took, CPU seconds."""
    total = 0.0
    pages = deployment.s3.get_paginator("list_objects_v2").paginate(
        Bucket=deployment.data_bucket, Prefix=f"checkpoints/{WORKLOAD}/"
    )
    for page in pages:
        for entry in page.get("Contents", []):
            if entry["Key"].endswith(".json"):
                outcome = json.loads(storage.read_bytes(deployment.s3, deployment.data_bucket, entry["Key"], 1 << 20))
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

"""How long quiet tenants wait while one tenant floods the product with uploads.

    python -m benchmarks.fairness

The benchmark has two runs, in which quiet tenants upload one after the other, each once. In the
first they are alone. In the second another tenant uploads a thousand different files at once just
before them. Intake, queue and launcher are real, on the local cloud. Only training is simulated: a
pack's requests are registered after as many seconds as a job of its size takes. A wait lasts from
the upload until a pack claims the tenant's request.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from dagster import DagsterInstance

from infrastructure.deploy import deploy
from infrastructure.local_cloud import running
from orchestration.launcher import runs_to_request
from tenantry.aws.deployment import Deployment
from tenantry.names import ids, tiers
from tenantry.requests.newest import newest_of_each_tenant
from tenantry.requests.packing import plan_packs
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import IN_A_PACK, Request
from tenantry.serving.client import TenantClient
from tenantry.uploads import intake
from tenantry.workloads.schema import Workload, read_workloads
from tenantry.workloads.sections import Pack, Scheduling

ROOT: Final = Path(__file__).resolve().parents[1]
WORKLOAD: Final = ids.workload_name("energy")
FLOODER: Final = ids.tenant_id("flooder")
TICK_SECONDS: Final = 5.0  # of the sensors


def p95(waits: Sequence[float]) -> float:
    """The 95th percentile, in the unit of the waits."""
    return statistics.quantiles(waits, n=20, method="inclusive")[-1] if len(waits) > 1 else waits[0]


# ---- the simulation ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrival:
    """A request that becomes known ``at`` seconds after the start."""

    tenant: ids.TenantId
    at: float
    tier: tiers.Tier = "bridge"
    first: bool = False


def simulated_waits(
    arrivals: Sequence[Arrival],
    limits: Pack,
    scheduling: Scheduling,
    *,
    job_seconds: float,
    tenant_seconds: float,
    tick: float = TICK_SECONDS,
    until: float = 100_000.0,
) -> dict[tuple[ids.TenantId, float], float]:
    """How long each request waits to be claimed, when packs are planned as in the launcher.

    Args:
        arrivals: the tenants and times of the requests.
        limits: the workload's, for packs.
        scheduling: the workload's, for the order of tenants.
        job_seconds: a job's fixed seconds.
        tenant_seconds: the seconds that each tenant in a job adds.
        tick: seconds between two looks of the launcher.
        until: when to stop, in simulated seconds.

    Returns:
        Seconds by tenant and arrival, without requests that a newer one superseded.

    Raises:
        RuntimeError: a tenant was still waiting at the end.
    """
    epoch = datetime(2026, 1, 1, tzinfo=UTC)
    coming = sorted(arrivals, key=lambda arrival: arrival.at)
    pending: list[Request] = []
    jobs: list[tuple[float, list[Request]]] = []  # a job's end, and its requests
    waits: dict[tuple[ids.TenantId, float], float] = {}
    asked: dict[ids.RequestId, Arrival] = {}
    now, seen = 0.0, 0
    while seen < len(coming) or pending or jobs:
        if now > until:
            raise RuntimeError(
                f"{len(pending)} requests are still waiting after {until:.0f} simulated seconds"
            )
        jobs = [job for job in jobs if job[0] > now]
        while seen < len(coming) and coming[seen].at <= now:
            arrival = coming[seen]
            moment, number = epoch + timedelta(seconds=arrival.at), ids.RequestId(f"{seen:032x}")
            asked[number] = arrival
            pending.append(
                Request(
                    number,
                    arrival.tenant,
                    WORKLOAD,
                    "pending",
                    "",
                    None,
                    arrival.tier,
                    moment,
                    moment,
                    moment,
                    content=number,
                    first=arrival.first,
                )
            )
            seen += 1
        pending, _ = newest_of_each_tenant(pending)
        on_their_way = [request for _, requests in jobs for request in requests]
        moment = epoch + timedelta(seconds=now)
        free = limits.max_at_once - len(jobs)
        for pack in plan_packs(pending, on_their_way, limits, scheduling, moment, max_packs=free):
            claimed = {request.request for request in pack.requests}
            pending = [request for request in pending if request.request not in claimed]
            ends = now + job_seconds + tenant_seconds * len(claimed)
            jobs.append(
                (
                    ends,
                    [
                        replace(request, pack=pack.pack, status="claimed")
                        for request in pack.requests
                    ],
                )
            )
            for request in claimed:
                arrival = asked[request]
                waits[arrival.tenant, arrival.at] = now - arrival.at
        now += tick
    return waits


# ---- the real queue ------------------------------------------------------------------------------


class TrainingStandIn:
    """Registers each claimed pack's requests after the seconds its job would take."""

    def __init__(self, queue: RequestQueue, job_seconds: float, tenant_seconds: float) -> None:
        self._queue, self._job_seconds, self._tenant_seconds = queue, job_seconds, tenant_seconds
        self._ends: dict[ids.PackId, float] = {}

    def tick(self) -> None:
        """Finish the packs whose time is over."""
        packs: dict[ids.PackId, list[Request]] = {}
        for row in self._queue.in_packs(WORKLOAD):
            if row.pack is not None:
                packs.setdefault(row.pack, []).append(row)
        for pack, rows in packs.items():
            ends = self._ends.setdefault(
                pack, time.monotonic() + self._job_seconds + self._tenant_seconds * len(rows)
            )
            if time.monotonic() < ends:
                continue
            for row in rows:
                trained = (
                    row
                    if row.status == "trained"
                    else self._queue.try_move(row, "trained", why="trained")
                )
                if trained is not None:
                    self._queue.try_move(trained, "registered", why="registered")


def upload(deployment: Deployment, workload: Workload, tenant: ids.TenantId, content: str) -> float:
    """Upload like the product's app; returns the clock time of the completed upload."""
    with TenantClient(deployment, workload, tenant) as client:
        client.upload({"consumption.csv": content.encode()}, {})
    return time.time()


def measured_waits(
    deployment: Deployment,
    workload: Workload,
    instance: DagsterInstance,
    name: str,
    *,
    quiet: int,
    seconds: float,
    flood: int,
    job_seconds: float,
    tenant_seconds: float,
) -> dict[ids.TenantId, float]:
    """How long each quiet tenant waits. ``seconds`` is the time over which they upload; ``flood``
    is the number of the flooder's uploads."""
    queue = RequestQueue(deployment, by="benchmark")
    tenants = [ids.tenant_id(f"{name}-{number:03d}") for number in range(quiet)]
    moments = random.Random(4)
    pauses = sorted(moments.uniform(0, seconds) for _ in tenants)
    uploaded: dict[ids.TenantId, float] = {}
    if flood:
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda n: upload(deployment, workload, FLOODER, f"{name} {n}"), range(flood)
                )
            )
    began = time.monotonic()

    def come() -> None:
        for tenant, pause in zip(tenants, pauses, strict=True):
            time.sleep(max(0.0, began + pause - time.monotonic()))
            uploaded[tenant] = upload(deployment, workload, tenant, name)

    coming = threading.Thread(target=come, name="quiet-tenants", daemon=True)
    coming.start()
    training = TrainingStandIn(queue, job_seconds, tenant_seconds)
    claimed: dict[ids.TenantId, float] = {}
    looks = began
    while len(claimed) < quiet:
        if time.monotonic() - began > 20 * seconds + 600:
            raise TimeoutError(f"{quiet - len(claimed)} quiet tenants were not served")
        intake.drain_queue(deployment, {workload.name: workload}, lambda *_: None, max_seconds=20.0)
        training.tick()
        for _ in runs_to_request(instance, queue, workload, lost_run_seconds=1e9):
            pass
        known = {
            tenant: row
            for tenant in tenants
            if tenant not in claimed
            for row in queue.of_tenant(WORKLOAD, tenant)
        }
        for tenant, row in known.items():
            moments_of = [c["at"] for c in row.history if c["status"] == "claimed"]
            if moments_of and row.status in {*IN_A_PACK, "registered"}:
                claimed[tenant] = (
                    datetime.fromisoformat(moments_of[0]).timestamp() - uploaded[tenant]
                )
        looks += TICK_SECONDS
        time.sleep(max(0.0, looks - time.monotonic()))
        looks = max(looks, time.monotonic())
    coming.join()
    return claimed


def main() -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fairness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quiet", type=int, default=60, help="quiet tenants (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=90, help="over which they come (%(default)s)"
    )
    parser.add_argument(
        "--flood", type=int, default=1000, help="uploads of the flooding tenant (%(default)s)"
    )
    parser.add_argument(
        "--job-seconds", type=float, default=12, help="what a job takes (%(default)s)"
    )
    parser.add_argument(
        "--tenant-seconds",
        type=float,
        default=0.2,
        help="what each tenant in it adds (%(default)s)",
    )
    arguments = parser.parse_args()
    workload = read_workloads()[WORKLOAD]
    # Accept the whole flood and train as much of it as gets a turn, so that the daily limit does
    # not reduce it.
    scheduling = workload.scheduling.model_copy(update={"max_per_tenant_a_day": None})
    workload = workload.model_copy(update={"scheduling": scheduling})
    common = {
        "quiet": arguments.quiet,
        "seconds": arguments.seconds,
        "job_seconds": arguments.job_seconds,
        "tenant_seconds": arguments.tenant_seconds,
    }
    waits = {}
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-fairness-") as state,
        running(Path(state, "cloud"), ROOT / "containers") as cloud,
    ):
        os.environ.update(cloud.environment)
        with DagsterInstance.local_temp(
            state, overrides={"telemetry": {"enabled": False}}
        ) as instance:
            for name, flood in (("alone", 0), ("beside", arguments.flood)):
                cloud.reset()
                deploy()
                found = measured_waits(
                    Deployment.from_stack(), workload, instance, name, flood=flood, **common
                )
                waits[name] = list(found.values())
                print(
                    f"{name}: median {statistics.median(waits[name]):.1f} s, p95 "
                    f"{p95(waits[name]):.1f} s",
                    flush=True,
                )
    figures = {
        "quiet_tenants": arguments.quiet,
        "flood": arguments.flood,
        "p50_wait_alone_s": round(statistics.median(waits["alone"]), 2),
        "p50_wait_beside_flood_s": round(statistics.median(waits["beside"]), 2),
        "p95_wait_alone_s": round(p95(waits["alone"]), 2),
        "p95_wait_beside_flood_s": round(p95(waits["beside"]), 2),
        "p95_wait_ratio": round(p95(waits["beside"]) / p95(waits["alone"]), 3),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

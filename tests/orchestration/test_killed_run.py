"""A run process killed in the middle of a pack loses nothing: the sensors continue the pack where
it stopped."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from orchestration.launcher import PACK_TAG
from orchestration.partitions import tenants_of
from orchestration.private_dagster.chosen_partitions import asset_key
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import Workload
from tests.conftest import LiveDagster

ENERGY = ids.workload_name("energy")
TENANTS = [f"killed-{number:02d}" for number in range(16)]


def wait_for(what: str, condition: Callable[[], bool], seconds: float, every: float = 0.5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(every)


def run_process(instance: DagsterInstance, run_id: str) -> int:
    """The process that executes a run, as Dagster's own event names it."""
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT):
        found = re.search(r"\(pid: (\d+)\)", entry.get_dagster_event().message or "")
        if found:
            return int(found[1])
    raise AssertionError(f"run {run_id} never told its process")


def served_in_dagster(instance: DagsterInstance, tenants: list[ids.TenantId]) -> bool:
    key = asset_key("energy", "endpoint_registration")
    found = instance.get_status_by_partition(key, tenants, tenants_of("energy")) or {}
    return all(found.get(tenant) == AssetPartitionStatus.MATERIALIZED for tenant in tenants)


def training_jobs(live: LiveDagster) -> set[str]:
    pages = live.deployment.sagemaker.get_paginator("list_training_jobs").paginate()
    return {job["TrainingJobName"] for page in pages for job in page["TrainingJobSummaries"]}


@pytest.mark.timeout(900)
def test_a_killed_run_is_taken_up_and_every_tenant_is_registered_once(
    live_dagster: LiveDagster,
    energy: Workload,
    consumption: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(live_dagster.dagster.home))
    deployment = live_dagster.deployment
    queue, registry = RequestQueue(deployment), ModelRegistry(deployment)
    tenants = [ids.tenant_id(name) for name in TENANTS]
    jobs_before = training_jobs(live_dagster)
    for number, tenant in enumerate(tenants):
        # Every tenant's file differs by a few hours, so that each request is different.
        lines = consumption[f"tenant-{number % 6}"].splitlines(keepends=True)
        with TenantClient(deployment, energy, tenant) as client:
            client.upload(
                {"consumption.csv": b"".join(lines[: len(lines) - number])},
                {"timezone": "Europe/London"},
            )

    def latest() -> list[Request]:
        return [rows[-1] for tenant in tenants if (rows := queue.of_tenant(ENERGY, tenant))]

    def in_the_middle() -> bool:
        statuses = Counter(request.status for request in latest())
        assert statuses["registered"] < len(tenants), "the pack was over before it could be killed"
        return statuses["registered"] >= 1 and statuses["training"] >= 1

    wait_for("some tenants registered, some not", in_the_middle, 300, every=0.05)
    packs = {str(request.pack) for request in latest() if request.status in {"training", "trained"}}
    registered_before = {request.tenant for request in latest() if request.status == "registered"}

    with DagsterInstance.from_config(str(live_dagster.dagster.home)) as instance:
        filters = RunsFilter(tags={PACK_TAG: sorted(packs)}, statuses=[DagsterRunStatus.STARTED])
        killed = [record.dagster_run.run_id for record in instance.get_run_records(filters)]
        assert killed, "no run of an unfinished pack was alive"
        for run_id in killed:
            os.kill(run_process(instance, run_id), signal.SIGKILL)

        wait_for(
            "every tenant registered",
            lambda: (
                len(rows := latest()) == len(tenants)
                and all(row.status == "registered" for row in rows)
            ),
            400,
        )

        for run_id in killed:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            assert run.status == DagsterRunStatus.FAILURE
        wait_for("every tenant materialised", lambda: served_in_dagster(instance, tenants), 60)

    for tenant in tenants:
        (request,) = queue.of_tenant(ENERGY, tenant)
        assert [change["status"] for change in request.history].count("registered") == 1
        assert request.attempt == 1, "a run that died is not the tenant's failure"
        (version,) = registry.versions(tenant, ENERGY)
        champion = registry.champion(tenant, ENERGY)
        assert champion is not None
        assert (champion.version, champion.turn) == (version.version, 1)
    assert registered_before, "the kill came in the middle"
    assert {str(request.job) for request in latest()} == training_jobs(
        live_dagster
    ) - jobs_before, "each request was trained by one job, and no other job was made"


class _LosesAnAnswer(BaseHTTPRequestHandler):
    """Passes requests on to Dagster, but closes the connection instead of the first answer about a
    launch."""

    dagster = ""
    lost = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.dagster}/graphql", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - loopback
            content = answer.read()
        if b"launchRun" in body and not type(self).lost:
            type(self).lost += 1
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    # http.server requires this name.
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_a_launch_whose_answer_was_lost_is_found_and_not_repeated(
    live_dagster: LiveDagster,
) -> None:
    _LosesAnAnswer.dagster = live_dagster.dagster.url
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _LosesAnAnswer)
    thread = Thread(target=proxy.serve_forever)
    thread.start()
    try:
        through = replace(live_dagster.dagster, url=f"http://127.0.0.1:{proxy.server_address[1]}")
        launched = through.launch("energy_retraining", {})
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
    assert _LosesAnAnswer.lost == 1
    query = """{ runsOrError(filter: {pipelineName: "energy_retraining"}) {
        ... on Runs { results { runId } } } }"""
    runs = live_dagster.dagster.graphql(query)["runsOrError"]["results"]
    assert [run["runId"] for run in runs] == [launched]

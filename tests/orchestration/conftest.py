"""A separate Dagster instance for each test, and tenants that upload real (small) data."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from dagster import DagsterInstance

from containers.forecast.consumption.synthetic import generate
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import Workload, read_workloads
from tests.conftest import RECENT_UNTIL
from tests.orchestration.running import at_once

DAYS = 70


@pytest.fixture(scope="session")
def energy() -> Workload:
    return read_workloads()["energy"]


@pytest.fixture
def workload(energy: Workload) -> Workload:
    """Energy, with packs that do not wait for further requests."""
    return at_once(energy)


@pytest.fixture
def queue(deployment: Deployment) -> RequestQueue:
    return RequestQueue(deployment, by="test")


@pytest.fixture(scope="session")
def consumption() -> dict[str, bytes]:
    """CSV files of six synthetic customers, ten weeks of hours each."""
    frame = generate(6, RECENT_UNTIL - timedelta(days=DAYS), RECENT_UNTIL, seed=3)
    files = {}
    for number, (_, rows) in enumerate(frame.groupby("customer_id", sort=True)):
        sink = io.StringIO()
        pd.DataFrame(rows[["timestamp", "consumption"]]).to_csv(sink, index=False)
        files[f"tenant-{number}"] = sink.getvalue().encode()
    return files


@pytest.fixture
def dagster_instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(
        str(tmp_path), overrides={"telemetry": {"enabled": False}}
    ) as instance:
        yield instance


Upload = Callable[[str, bytes], ids.TenantId]


@pytest.fixture
def upload(deployment: Deployment, energy: Workload) -> Upload:
    """Uploads a consumption file like a tenant's app."""

    def put(tenant: str, file: bytes) -> ids.TenantId:
        who = ids.tenant_id(tenant)
        with TenantClient(deployment, energy, who) as client:
            client.upload({"consumption.csv": file}, {"timezone": "Europe/London", "country": "GB"})
        return who

    return put

"""One local cloud for the whole test session, emptied for each test that uses it, and another one
with a live Dagster for each module that needs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import settings

from containers.forecast.consumption.preparation import prepare
from containers.forecast.consumption.synthetic import generate, last_midnight
from infrastructure.dagster_processes import DagsterProcesses, dagster_processes
from infrastructure.deploy import deploy
from infrastructure.local_cloud import LocalCloud, free_port, running
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import Endpoint, ensure_endpoint
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names.tiers import Shared
from tenantry.workloads.folder import FOLDER
from tenantry.workloads.schema import Workload, read_workloads

ROOT = Path(__file__).resolve().parents[1]
TODAY = last_midnight()
TRAINED_UNTIL = datetime(2025, 4, 1, tzinfo=UTC)
"""The fixed end of the data of ``trained_forecasts``; requests to them name their start."""

RECENT_UNTIL = TODAY - timedelta(days=14 + (TODAY.weekday() - 3) % 7)
"""The end of data for models that are asked from today on: a Thursday, so that weeks look alike on
every day."""


# A shell without job control starts `make test &` with SIGINT ignored, and the programs under test
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)  # after slow tests are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with tests that take minutes first; such tests have their own time limits. At the
    end, one of them would leave the other worker idle."""
    long = {item.path for item in items if item.get_closest_marker("timeout")}
    items.sort(key=lambda item: item.path not in long)


# A busy machine is no defect. Each run draws other examples.
settings.register_profile("tenantry", deadline=None, max_examples=50)
settings.load_profile("tenantry")


@pytest.fixture(scope="session")
def local_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """ministack and local_sagemaker, started once; ``os.environ`` points every AWS SDK at them."""
    with running(tmp_path_factory.mktemp("local-cloud"), ROOT / "containers") as cloud:
        before = dict(os.environ)
        os.environ.update(cloud.environment)
        try:
            yield cloud
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture
def empty_cloud(local_cloud: LocalCloud) -> LocalCloud:
    """The empty local cloud."""
    local_cloud.reset()
    return local_cloud


@pytest.fixture(scope="session")
def aws_session(local_cloud: LocalCloud) -> boto3.Session:
    """One session for all tests, so that the services' descriptions are read only once, which takes
    longer than most tests."""
    return boto3.Session()


@pytest.fixture
def deployment(empty_cloud: LocalCloud, aws_session: boto3.Session) -> Deployment:
    """The stack, applied to an empty local cloud. It takes a quarter of a second, so each test gets
    its own."""
    deploy()
    return replace(Deployment.from_stack(), session=aws_session)


@dataclass(frozen=True)
class TrainedForecast:
    """The result of the forecast container's own training for a tenant: the archive and the
    outcome."""

    archive: bytes
    outcome: dict[str, Any]


@pytest.fixture(scope="session")
def trained_forecasts(tmp_path_factory: pytest.TempPathFactory) -> list[TrainedForecast]:
    """Three tenants' forecasts from ninety days of data, trained by the forecast container once for
    the whole session."""
    base = tmp_path_factory.mktemp("trained-forecasts")
    frame = generate(3, TRAINED_UNTIL - timedelta(days=90), TRAINED_UNTIL)
    tasks = []
    for number, (_, rows) in enumerate(frame.groupby("customer_id")):
        tenant, raw = f"tenant-{number}", base / f"{number}.csv"
        rows.to_csv(raw, index=False)
        prepared = base / "input/data/training" / tenant / "v1"
        prepared.mkdir(parents=True)
        prepare([raw], prepared, {"timezone": "Europe/London"})
        tasks.append(
            {
                "task": f"{number:032x}",
                "tenant": tenant,
                "version": "v1",
                "tier": "bridge",
                "shard": 0,
                "data": f"{tenant}/v1",
                "parameters": {"timezone": "Europe/London"},
            }
        )
    documents = {
        "input/data/tasks/tasks.json": {
            "format": 1,
            "workload": "energy",
            "pack": "p-1",
            "tasks": tasks,
        },
        "input/config/hyperparameters.json": {"frequency": "auto"},
        "input/config/resourceconfig.json": {"current_host": "algo-1", "hosts": ["algo-1"]},
    }
    for name, document in documents.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(json.dumps(document))
    for name in ("checkpoints", "model", "output"):
        (base / name).mkdir()
    environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(base)}
    command = [sys.executable, str(ROOT / "containers/forecast/train")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = [base / "checkpoints" / str(task["tenant"]) / "v1" for task in tasks]
    return [
        TrainedForecast(
            path.with_suffix(".tar.gz").read_bytes(),
            json.loads(path.with_suffix(".json").read_text()),
        )
        for path in made
    ]


@pytest.fixture(scope="module")
def serving(local_cloud: LocalCloud) -> tuple[Deployment, Workload, Endpoint]:
    """The stack on an emptied cloud with the bridge tier's endpoint in service, shared by a
    module's tests."""
    local_cloud.reset()
    deploy()
    deployment = Deployment.from_stack()
    energy = read_workloads()["energy"]
    return deployment, energy, ensure_endpoint(deployment, energy, Shared("bridge"), MULTI_MODEL)


@dataclass(frozen=True)
class LiveDagster:
    """Dagster's processes with running sensors, on a local cloud that nothing resets.

    ``environment`` points an AWS SDK at that cloud; ``deployment`` is the stack on it.
    """

    cloud: LocalCloud
    dagster: DagsterProcesses
    deployment: Deployment
    environment: Mapping[str, str]


@pytest.fixture(scope="module")
def live_dagster_processes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[LocalCloud, DagsterProcesses]]:
    """A separate local cloud and Dagster; tests use ``live_dagster``.

    They end with the module: their daemon, sensors and code server take a quarter of a core.
    """
    folder = tmp_path_factory.mktemp("live-dagster")
    with running(folder / "cloud", ROOT / "containers") as cloud:
        with pytest.MonkeyPatch.context() as variables:
            _point_at(cloud, variables)
            deploy()
        patience = {
            "TENANTRY_POLL_SECONDS": "0.5",
            "TENANTRY_LOST_RUN_SECONDS": "30",
            "TENANTRY_WORKLOADS": str(_energy_alone(folder / "workloads")),
        }
        with dagster_processes(
            folder / "dagster", free_port(), {**cloud.environment, **patience}
        ) as dagster:
            yield cloud, dagster


def _energy_alone(folder: Path) -> Path:
    """A folder of workloads with only energy, because the endpoints of portraits would load torch
    twice without use."""
    folder.mkdir(parents=True)
    shutil.copy(FOLDER / "energy.yaml", folder)
    return folder


@pytest.fixture
def live_dagster(
    live_dagster_processes: tuple[LocalCloud, DagsterProcesses], monkeypatch: pytest.MonkeyPatch
) -> LiveDagster:
    """The live Dagster; ``os.environ`` points every AWS SDK at its cloud while the test runs.

    A module's tests share its cloud, so each uses its own tenants.
    """
    cloud, dagster = live_dagster_processes
    _point_at(cloud, monkeypatch)
    return LiveDagster(cloud, dagster, Deployment.from_stack(), cloud.environment)


def _point_at(cloud: LocalCloud, variables: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment.items():
        variables.setenv(name, value)

"""PostgreSQL as Dagster's storage, set by one variable: a real server, real runs, and each tenant's
status in the UI."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetCheckKey, DagsterEventType, DagsterInstance
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from infrastructure.dagster_processes import INSTANCE
from infrastructure.local_cloud import free_port, start_process, stop_process
from orchestration.private_dagster.chosen_partitions import asset_key
from orchestration.private_dagster.dagster_storage import STORAGE_VARIABLE, UnusableStorageError
from orchestration.private_dagster.postgres_event_log import BatchedPostgresEventLogStorage
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.workloads.schema import Workload
from tests.orchestration.conftest import Upload
from tests.orchestration.running import at_once, metadata_of, onboard, statuses, take_in

ENERGY = ids.workload_name("energy")


def postgres_program(name: str) -> str | None:
    """A program of Debian's packages: on the PATH, or in the folder of the newest version."""
    found = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3])
    )
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server for the tests. Yields the URL of an empty database."""
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    if initdb is None or server is None:
        if os.environ.get("TENANTRY_POSTGRES_REQUIRED"):
            pytest.fail("initdb and postgres are missing; install Debian's package postgresql")
        pytest.skip("initdb and postgres are missing; install Debian's package postgresql")
    # The server refuses to run as root, and other users cannot read pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="tenantry-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        user = next(name for name in ("postgres", "nobody") if _exists(name))
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        as_user = ["setpriv", f"--reuid={user}", "--clear-groups", "--pdeathsig=TERM"]
    port = free_port()
    data = folder / "data"
    log = tmp_path_factory.mktemp("postgres") / "server.log"
    subprocess.run(
        [
            *as_user,
            initdb,
            "--pgdata",
            str(data),
            "--username",
            "dagster",
            "--auth",
            "trust",
            "--no-sync",
        ],
        check=True,
        capture_output=True,
        cwd="/",
    )
    process = start_process(
        [
            *as_user,
            server,
            "-D",
            str(data),
            "-p",
            str(port),
            "-k",
            str(folder),
            "-h",
            "127.0.0.1",
            "-c",
            "fsync=off",
        ],
        log,
        dict(os.environ),
        cwd=Path("/"),
    )
    try:
        url = f"postgresql+psycopg2://dagster@127.0.0.1:{port}/postgres"
        _wait_until_ready(url, process, log)
        yield url
    finally:
        stop_process(process)
        shutil.rmtree(folder)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    engine, deadline = create_engine(url), time.monotonic() + 60
    while True:
        try:
            with engine.connect():
                break
        except OperationalError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    engine.dispose()


@pytest.fixture
def instance(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    """The product's Dagster instance, with only the variable changed."""
    shutil.copyfile(INSTANCE, tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv(STORAGE_VARIABLE, postgres)
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def test_tenants_are_onboarded_and_each_partition_has_its_own_status(
    deployment: Deployment,
    instance: DagsterInstance,
    energy: Workload,
    upload: Upload,
    consumption: dict[str, bytes],
    tmp_path: Path,
) -> None:
    assert isinstance(instance.event_log_storage, BatchedPostgresEventLogStorage)
    assert isinstance(instance.run_storage, PostgresRunStorage)
    assert isinstance(instance.schedule_storage, PostgresScheduleStorage)
    good = [upload(f"tenant-{number}", consumption[f"tenant-{number}"]) for number in range(3)]
    bad = upload("short", b"".join(consumption["tenant-0"].splitlines(keepends=True)[:50]))
    assert take_in(deployment, instance).accepted == 4
    (result,) = onboard(deployment, instance, at_once(energy))
    assert result.success, "operators cannot mend an owner's upload"

    assert statuses(instance, "energy", "training_data", [*good, bad]) == dict.fromkeys(
        good, "MATERIALIZED"
    ) | {bad: "FAILED"}
    served = statuses(instance, "energy", "endpoint_registration", [*good, bad])
    assert served == dict.fromkeys(good, "MATERIALIZED") | {bad: "FAILED"}
    artifacts = metadata_of(instance, "energy", "fine_tuned_artifact")
    assert set(artifacts.pop("short")) == {"tenant", "not_made"}
    assert set(artifacts) == set(good)
    kinds = [entry.dagster_event_type for entry in instance.all_logs(result.run_id)]
    assert kinds.count(DagsterEventType.ASSET_MATERIALIZATION) == 9 + 3, (
        "and a reason for each asset"
    )
    checks = instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(asset_key("energy", "training_data"), "data_quality"), limit=10
    )
    found = {
        e.partition: e.passed
        for check in checks
        if check.event and (e := check.event.asset_check_evaluation)
    }
    assert found == dict.fromkeys(good, True) | {bad: False}
    assert [row.status for row in RequestQueue(deployment).of_tenant(ENERGY, good[0])] == [
        "registered"
    ]
    assert not list(tmp_path.glob("**/*.db")), "nothing went to SQLite"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://dagster@127.0.0.1/dagster",
        "postgresql+psycopg2://dagster@127.0.0.1",
        "no url",
        "sqlite:///x.db",
    ],
)
def test_a_url_dagster_cannot_use_is_refused_with_the_cure(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(INSTANCE, tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv(STORAGE_VARIABLE, url)
    with (
        pytest.raises(
            UnusableStorageError, match=r"postgresql\+psycopg2://user:password@host:5432/dagster"
        ),
        DagsterInstance.from_config(str(tmp_path)) as instance,
    ):
        instance.event_log_storage  # noqa: B018 - the first access creates the storage

"""A workload with an unusable file: the others go on, the fault is reported, and nothing of its
tenants is refused, lost or wound down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, Definitions, build_sensor_context

from orchestration.operator_jobs import wind_down_workload
from orchestration.sensors.new_uploads import UploadsNotTakenInError
from orchestration.sensors.unreadable_workloads import UnreadableWorkloadsError
from orchestration.workload_definitions import all_definitions
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.tenants.wind_down import left_behind, note_workloads
from tenantry.uploads.intake import find_lost_uploads
from tenantry.workloads.folder import FOLDER, FOLDER_VARIABLE
from tenantry.workloads.schema import Workloads, read_workloads
from tests.conftest import ROOT
from tests.orchestration.conftest import Upload
from tests.orchestration.running import TENANTRY
from tests.tenantry.command_line.conftest import caller, document, now_of, pending

ENERGY, PORTRAITS = ids.workload_name("energy"), ids.workload_name("portraits")
FAULT = r"energy\.yaml:\n  line \d+, tire: there is no such field; did you mean tier\?"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of workloads, with a spoiled energy.yaml."""
    place = tmp_path / "workloads"
    place.mkdir()
    energy = (FOLDER / "energy.yaml").read_text()
    (place / "energy.yaml").write_text(energy.replace("\ntier: bridge", "\ntier: pool\ntire: x"))
    (place / "portraits.yaml").write_text((FOLDER / "portraits.yaml").read_text())
    monkeypatch.setenv(FOLDER_VARIABLE, str(place))
    return place


def mend(folder: Path) -> Workloads:
    (folder / "energy.yaml").write_text((FOLDER / "energy.yaml").read_text())
    return read_workloads().all_readable()


Tick = Callable[[Definitions, str], str]


@pytest.fixture
def tick(dagster_instance: DagsterInstance) -> Tick:
    """A tick of a sensor, as in the daemon; returns its message."""

    def evaluate(made: Definitions, sensor: str) -> str:
        with build_sensor_context(
            dagster_instance,
            resources={"tenantry": TENANTRY},
            repository_def=made.get_repository_def(),
        ) as context:
            return str(made.resolve_sensor_def(sensor).evaluate_tick(context).skip_message)

    return evaluate


def test_the_others_load_and_it_is_told_of_where_people_look(folder: Path, tick: Tick) -> None:
    made = all_definitions(read_workloads())
    jobs = {job.name for job in made.get_repository_def().get_all_jobs()}
    assert "portraits_fine_tuning" in jobs
    assert "redrive_uploads" in jobs
    assert not [name for name in jobs if name.startswith("energy")]
    spec = made.resolve_asset_graph().get(AssetKey(["unreadable_workloads", "energy"]))
    assert "tire: there is no such field; did you mean tier?" in (spec.description or "")
    with pytest.raises(UnreadableWorkloadsError, match=FAULT):
        tick(made, "unreadable_workloads")
    mended = all_definitions(mend(folder))
    assert tick(mended, "unreadable_workloads") == "every workload's file can be used"
    assert "unreadable_workloads" not in {
        key.path[0] for key in mended.resolve_asset_graph().get_all_asset_keys()
    }


def test_the_code_location_loads_where_no_file_can_be_used_and_logs_every_fault(
    folder: Path,
) -> None:
    (folder / "portraits.yaml").write_text("name: [")
    done = subprocess.run(
        [sys.executable, "-c", "from orchestration.definitions import defs"],
        cwd=ROOT,
        env={**os.environ, FOLDER_VARIABLE: str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "did you mean tier?" in done.stderr
    assert "portraits.yaml: not valid YAML" in done.stderr


def test_a_strict_look_fails_and_says_why(folder: Path) -> None:
    def check() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tenantry.workloads", "check", str(folder)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    bad = check()
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "did you mean tier?" in bad.stderr
    assert "Traceback" not in bad.stderr
    mend(folder)
    good = check()
    assert (good.returncode, good.stderr) == (0, "")
    assert "2 workloads can be used: energy, portraits" in good.stdout


def test_its_uploads_wait_and_are_taken_in_when_its_file_is_mended(
    deployment: Deployment, folder: Path, tick: Tick, upload: Upload, queue: RequestQueue
) -> None:
    deployment.sqs.purge_queue(QueueUrl=deployment.uploads_queue_url)  # S3's own first event
    acme = upload("acme", b"timestamp,consumption\n")
    bad = all_definitions(read_workloads())
    with pytest.raises(UploadsNotTakenInError, match="1 could not be taken in and stay"):
        tick(bad, "new_uploads")
    assert queue.of_tenant(ENERGY, acme) == [], "neither accepted nor refused"
    listing = find_lost_uploads(
        deployment,
        read_workloads(),
        lambda *_: None,
        since=datetime.min.replace(tzinfo=UTC),
        until=datetime.now(UTC) + timedelta(seconds=2),
    )
    assert (listing.done.failed, listing.done.refused) == (1, []), "it is listed again"

    good, deadline = all_definitions(mend(folder)), time.monotonic() + 60
    while not queue.of_tenant(ENERGY, acme) and time.monotonic() < deadline:
        tick(good, "new_uploads")
        time.sleep(0.5)
    (row,) = queue.of_tenant(ENERGY, acme)
    assert row.status == "pending"


@pytest.mark.usefixtures("folder")
def test_it_is_not_taken_for_a_workload_that_was_removed(
    deployment: Deployment, queue: RequestQueue, dagster_instance: DagsterInstance, tick: Tick
) -> None:
    note_workloads(deployment, ["energy", "portraits"])
    row = pending(queue, "acme")
    bad = all_definitions(read_workloads())
    assert tick(bad, "workloads_left_behind").startswith("nothing is left of a workload")
    tick(bad, "fine_tuning_launcher")
    assert [left.workload for left in left_behind(deployment, ["portraits"])] == ["energy"], (
        "it is still known, so that its removal would be told"
    )
    call = caller(deployment)
    assert "energy.yaml is still there" in call("wind-down", "energy", "--yes", status=1).stderr
    done = wind_down_workload.execute_in_process(
        instance=dagster_instance,
        run_config={"ops": {"end_workload": {"config": {"workload": "energy"}}}},
        resources={"tenantry": TENANTRY},
        raise_on_error=False,
    )
    assert not done.success
    assert now_of(queue, row).status == "pending"


@pytest.mark.usefixtures("folder")
def test_the_command_line_says_why_it_is_left_out_and_serves_the_others(
    deployment: Deployment,
) -> None:
    call = caller(deployment)
    told = call("pause", "energy", "--why", "x", status=1).stderr
    assert "did you mean tier?" in told
    assert "Traceback" not in told
    shown = call("status")
    assert "Left out, as its file cannot be used: energy.yaml" in shown.stderr
    assert "portraits" in shown.stdout
    found = document(call("status", "--json"))
    assert "did you mean tier?" in found["unreadable"]["energy"]
    assert [one["workload"] for one in found["workloads"]] == ["portraits"]
    assert json.loads(call("pause", "portraits", "--why", "x", "--json").stdout)["paused"]

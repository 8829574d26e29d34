"""Every process writes JSON lines if ``TENANTRY_LOG_FORMAT`` asks for them, and refuses unknown
formats."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from contracts.logs import JsonFormatter, log_environment, log_fields
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.training.jobs import create_training_job_request, rungs
from tenantry.uploads.intake import drain_queue
from tenantry.uploads.manifests import put_upload
from tenantry.workloads.schema import read_workloads
from tests.containers.runtime.serving import folder_model, free_port, serving, start
from tests.containers.runtime.test_packed_training import Job

ROOT: Final = Path(__file__).resolve().parents[2]
ENERGY: Final = ids.workload_name("energy")


def lines_of(output: str) -> list[dict[str, Any]]:
    """The lines of a log; each is a JSON object with the fields of every line."""
    lines = [json.loads(line) for line in output.splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta()
        assert {"level", "logger", "message"} <= set(line)
    return lines


def about(lines: list[dict[str, Any]], words: str) -> dict[str, Any]:
    """The only line with these words."""
    (found,) = (line for line in lines if words in line["message"])
    return found


@pytest.fixture
def json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTRY_LOG_FORMAT", "json")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """This process's log within the fixture, as JSON lines."""
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    yield sink
    logging.getLogger().removeHandler(handler)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_line_has_the_fields_of_the_blocks_around_it_and_its_own(written: io.StringIO) -> None:
    log = logging.getLogger("tenantry.somewhere")
    with log_fields(workload="energy", tenant="acme"), log_fields(request="r-1", pack=None):
        log.error("two\nlines of %s", "text", extra={"tenant": "globex"})
    try:
        int("no number")
    except ValueError:
        log.exception("it failed")
    inside, outside = lines_of(written.getvalue())
    moment = datetime.fromisoformat(inside.pop("time"))
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=5)
    assert inside == {
        "level": "ERROR",
        "logger": "tenantry.somewhere",
        "message": "two\nlines of text",
        "workload": "energy",
        "tenant": "globex",
        "request": "r-1",
    }
    assert outside["exception"].splitlines()[-1].startswith("ValueError: ")
    assert "tenant" not in outside


def test_a_training_container_writes_json_lines(tmp_path: Path, json_lines: None) -> None:
    job = Job(tmp_path / "ml")
    job.task("acme", [1, 2])
    job.misbehaving("globex", "silent")
    status, output = job.run()
    assert status == 0
    lines = lines_of(output)
    assert {(line["workload"], line["pack"]) for line in lines} == {("energy", "p-1")}
    finished = about(lines, "status=succeeded")
    assert (finished["tenant"], finished["request"]) == ("acme", "t-acme")
    assert about(lines, "status=failed")["tenant"] == "globex"


def test_a_serving_container_tells_whose_request_failed(tmp_path: Path, json_lines: None) -> None:
    with serving(tmp_path, SAGEMAKER_MULTI_MODEL="true") as server:
        model = folder_model(tmp_path / "m")
        (model / "card.json").write_text(json.dumps({"workload": "energy", "tenant": "acme"}))
        server.load("m", model)
        other = folder_model(tmp_path / "o")
        (other / "card.json").write_text('{"tenant": "no tenant\'s id"}')
        server.load("o", other)
        for name in ("m", "o"):
            assert server.invoke(name, {"misbehave": "raise"})[0] == 500
        server.process.terminate()
        lines = lines_of(server.process.communicate(timeout=20)[0])
    assert about(lines, "model_loaded model='m'")["tenant"] == "acme"
    failed = [line for line in lines if line["message"].startswith("request_failed")]
    assert [(line.get("workload"), line.get("tenant")) for line in failed] == [
        ("energy", "acme"),
        (None, None),
    ]


def test_the_intake_tells_whose_upload_cannot_be_taken_in(
    deployment: Deployment, written: io.StringIO
) -> None:
    put_upload(deployment, ENERGY, ids.tenant_id("acme"), ids.upload_id("u1"), {"a.csv": b"x"})

    def broken(*_: object, **_more: object) -> None:
        raise ConnectionError("the tables are down")

    deployment.dynamodb.meta.events.register("before-call.dynamodb", broken)
    try:
        drain_queue(deployment, read_workloads(), broken, max_seconds=20)
    finally:
        deployment.dynamodb.meta.events.unregister("before-call.dynamodb", broken)
    line = about(lines_of(written.getvalue()), "could not be taken in")
    assert (line["workload"], line["tenant"]) == ("energy", "acme")


IN_A_CODE_LOCATION: Final = """
import logging
from dagster import asset, materialize
from orchestration.definitions import defs

@asset
def one(context):
    context.log.info("told %s of the run", "somebody")
    logging.getLogger("tenantry.somewhere").warning("told the process")
    logging.getLogger("dagster").error("told by Dagster")

materialize([one])
"""


def test_dagsters_code_location_and_its_runs_write_json_lines(json_lines: None) -> None:
    done = run_python("-c", IN_A_CODE_LOCATION)
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stderr)
    of_the_run = about(lines, "told somebody of the run")
    assert of_the_run["message"] == "told somebody of the run"
    assert about(lines, "Finished execution of run")["run"] == of_the_run["run"]
    assert about(lines, "told the process")["level"] == "WARNING"
    assert about(lines, "told by Dagster")["logger"] == "dagster"


def test_containers_are_told_to_write_as_this_process_does(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    energy, pack = read_workloads()["energy"], ids.pack_id("p-0000000000000001")

    def given() -> object:
        request = create_training_job_request(
            deployment, energy, "bridge", pack, 1, None, rungs(energy)[0]
        )
        return request.get("Environment")

    assert given() is None
    monkeypatch.setenv("TENANTRY_LOG_FORMAT", "json")
    assert given() == log_environment() == {"TENANTRY_LOG_FORMAT": "json"}


def test_every_process_refuses_a_format_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANTRY_LOG_FORMAT", "xml")
    cure = "TENANTRY_LOG_FORMAT is 'xml'; set it to json or to text, or unset it"
    job = Job(tmp_path / "ml")
    job.task("acme", [1, 2])
    assert job.run()[0] == 1
    assert (job.base / "output/failure").read_text() == cure
    with start(tmp_path, free_port()) as server:
        output, _ = server.communicate(timeout=60)
    assert (server.returncode, output) == (1, f"serving_failed: {cure}\n")
    command = run_python("-m", "tenantry", "status")
    assert (command.returncode, command.stderr) == (1, f"Error: {cure}\n")
    location = run_python("-c", "import orchestration.definitions")
    assert location.returncode == 1
    assert location.stderr.splitlines()[-1].endswith(cure)

"""The sensors' messages and cursors when a service is briefly unavailable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from dagster import DagsterInstance, SensorDefinition, SkipReason, build_sensor_context
from dagster._daemon.sensor import MIN_INTERVAL_LOOP_TIME

from orchestration.jobs import jobs_of
from orchestration.sensors import sensors_of
from orchestration.sensors.new_uploads import UploadsNotTakenInError
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import read_workloads
from tests.orchestration.conftest import Upload
from tests.orchestration.running import TENANTRY, unexplained, uploads_observed

ENERGY = ids.workload_name("energy")
WORKLOADS = read_workloads()


@pytest.fixture
def sensors() -> dict[str, SensorDefinition]:
    jobs = {name: jobs_of(workload) for name, workload in WORKLOADS.items()}
    return {sensor.name: sensor for sensor in sensors_of(WORKLOADS, jobs, timedelta(seconds=1))}


@contextmanager
def away(operation: str) -> Iterator[None]:
    """Within the block, the sensors' calls of a DynamoDB operation fail."""

    def refuse(**_: Any) -> None:
        raise ConnectionError("DynamoDB is away")

    events = TENANTRY.deployment.dynamodb.meta.events
    events.register_first(f"before-send.dynamodb.{operation}", refuse)
    try:
        yield
    finally:
        events.unregister(f"before-send.dynamodb.{operation}", refuse)


def evaluate(
    sensor: SensorDefinition, instance: DagsterInstance, cursor: str | None = None
) -> tuple[str, str | None]:
    """A tick's message, and its cursor afterwards."""
    with build_sensor_context(
        instance=instance, cursor=cursor, resources={"tenantry": TENANTRY}
    ) as context:
        said = sensor(context)
        assert isinstance(said, SkipReason)
        return str(said.skip_message), context.cursor


def test_what_is_taken_in_shows_on_the_asset_uploads_and_nothing_new_does_not(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    upload: Upload,
    consumption: dict[str, bytes],
    sensors: dict[str, SensorDefinition],
) -> None:
    upload("acme", consumption["tenant-0"])
    upload("globex", consumption["tenant-1"])
    with TenantClient(deployment, WORKLOADS["energy"], ids.tenant_id("initech")) as client:
        client.upload({"readings.exe": b"MZ"})
    evaluate(sensors["new_uploads"], dagster_instance)
    evaluate(sensors["new_uploads"], dagster_instance)
    found = uploads_observed(dagster_instance, "energy")
    assert {name: sum(one[name] for one in found) for name in ("accepted", "refused")} == {
        "accepted": 2,
        "refused": 1,
    }
    assert len(found) == 1
    (reasons,) = (one["why_refused"] for one in found)
    assert list(reasons) == ["initech"], "it has no page of its own"
    assert "readings.exe" in reasons["initech"]
    assert unexplained(dagster_instance, WORKLOADS["energy"]) == set()


def test_a_lost_upload_that_could_not_be_taken_in_is_listed_again(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    upload: Upload,
    consumption: dict[str, bytes],
    sensors: dict[str, SensorDefinition],
) -> None:
    upload("acme", consumption["tenant-0"])
    deployment.sqs.purge_queue(QueueUrl=deployment.uploads_queue_url)
    time.sleep(2.1)  # S3 gives times to the second, and an event has a second to arrive
    lost = sensors["lost_uploads"]
    with away("PutItem"):
        said, cursor = evaluate(lost, dagster_instance)
    assert "1 could not be taken in and are listed again" in said
    assert RequestQueue(deployment).open(ENERGY) == []
    said, cursor = evaluate(lost, dagster_instance, cursor)
    assert "1 had been lost" in said
    assert uploads_observed(dagster_instance, "energy") == [
        {"accepted": 1, "known_already": 0, "refused": 0}
    ]
    assert [row.tenant for row in RequestQueue(deployment).open(ENERGY)] == ["acme"]
    assert json.loads(cursor or "")["since"] > "2000"


def test_a_tick_that_took_nothing_in_though_uploads_came_fails_and_the_next_one_takes_them_in(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    upload: Upload,
    consumption: dict[str, bytes],
    sensors: dict[str, SensorDefinition],
) -> None:
    upload("acme", consumption["tenant-0"])
    with (
        away("PutItem"),
        pytest.raises(
            UploadsNotTakenInError, match="1 could not be taken in and stay in the queue"
        ),
    ):
        evaluate(sensors["new_uploads"], dagster_instance)
    deadline = time.monotonic() + 30
    while not RequestQueue(deployment).open(ENERGY) and time.monotonic() < deadline:
        evaluate(sensors["new_uploads"], dagster_instance)
        time.sleep(0.5)
    assert [row.tenant for row in RequestQueue(deployment).open(ENERGY)] == ["acme"]


def test_a_tick_of_the_launcher_that_could_look_at_no_workload_fails(
    deployment: Deployment, dagster_instance: DagsterInstance, sensors: dict[str, SensorDefinition]
) -> None:
    launcher = sensors["fine_tuning_launcher"]
    with build_sensor_context(
        instance=dagster_instance, resources={"tenantry": TENANTRY}
    ) as context:
        with away("Query"), pytest.raises(ConnectionError, match="DynamoDB is away"):
            launcher.evaluate_tick(context)
        said = launcher.evaluate_tick(context)
    assert (said.run_requests, said.skip_message is not None) == ([], True)


def test_no_visit_of_the_daemon_passes_over_what_somebody_waits_for(
    sensors: dict[str, SensorDefinition],
) -> None:
    for name in ("new_uploads", "fine_tuning_launcher"):
        every = sensors[name].minimum_interval_seconds
        assert every is not None
        assert every < MIN_INTERVAL_LOOP_TIME

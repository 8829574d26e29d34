"""The command line with a real endpoint, real models on it, and a training job."""

from __future__ import annotations

import getpass
import time
import uuid

import pytest

from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import Endpoint
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.onboarding.registration import register
from tenantry.requests.queue import RequestQueue
from tenantry.workloads.schema import Workload
from tests.conftest import TrainedForecast
from tests.tenantry.command_line.conftest import Call, caller, claimed, document
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version

Serving = tuple[Deployment, Workload, Endpoint]


@pytest.fixture
def call(serving: Serving) -> Call:
    """Calls ``tenantry`` on this module's shared cloud."""
    return caller(serving[0])


@pytest.fixture
def tenant(serving: Serving, trained_forecasts: list[TrainedForecast]) -> ids.TenantId:
    """A tenant with two registered versions; the second is its champion."""
    deployment, energy, endpoint = serving
    name = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    for number in (1, 2):
        metrics = {"mase": 0.9 - number / 10, "baseline_mase": 1.0}
        model = trained_version(
            deployment, name, number, trained_forecasts[number].archive, metrics
        )
        assert register(deployment, energy, model, route_to(endpoint.name, model)).crowned
    return name


def test_endpoints_are_shown_with_their_instances_and_models(
    call: Call, serving: Serving, tenant: ids.TenantId
) -> None:
    deployment, _, endpoint = serving
    (shown,) = document(call("endpoints", "energy", "--json"))["endpoints"]
    served = len(ModelRegistry(deployment).champions(NAME))
    assert (
        shown["name"],
        shown["status"],
        shown["instances"],
        shown["wanted"],
        shown["models"],
        shown["reason"],
    ) == (endpoint.name, "InService", 1, 1, served, None)
    (energy,) = document(call("status", "energy", "--json"))["workloads"]
    assert energy["endpoints"] == [shown]
    assert f"{endpoint.name}  InService  1          {served}" in call("status", "energy").stdout


def test_a_rollback_asks_and_then_serves_the_previous_version(
    call: Call, serving: Serving, tenant: ids.TenantId
) -> None:
    deployment, _, _ = serving
    registry = ModelRegistry(deployment)
    before = registry.champion(tenant, NAME)
    assert before is not None
    refused = call("rollback", tenant, "--workload", "energy", stdin="n\n", status=1)
    assert f"Serve {tenant} by {before.previous} instead of {before.version}?" in refused.stderr
    assert registry.champion(tenant, NAME) == before

    done = call(
        "rollback", tenant, "--workload", "energy", "--why", "it missed the holidays", stdin="y\n"
    )
    assert f"{tenant} is served by version {before.previous}" in done.stdout
    after = registry.champion(tenant, NAME)
    assert after is not None
    assert after.version == before.previous
    notes = [version.note for version in registry.versions(tenant, NAME)]
    assert any(f"operator {getpass.getuser()}" in note for note in notes), notes
    told = call("tenant", tenant).stdout
    assert f"Served by version {before.previous} from" in told
    assert f"Its archive: {s3_keys.artifact(NAME, tenant, after.version)}." in told.splitlines()
    assert "mase 0.7" in told
    assert "it missed the holidays" in told
    (shown,) = document(call("tenant", tenant, "--json"))["workloads"]
    assert shown["champion"]["route"] == vars(after.route)
    assert shown["champion"]["endpoint"] == after.endpoint
    call("rollback", tenant, "--workload", "energy", "--to", before.version, "--yes")
    assert registry.champion(tenant, NAME) != after


def test_a_rollback_where_there_is_nothing_to_return_to_changes_nothing(call: Call) -> None:
    assert (
        "has no energy model yet"
        in call("rollback", "nobody", "--workload", "energy", "--yes", status=1).stderr
    )


def start_job(deployment: Deployment, pack: ids.PackId, number: int = 1) -> str:
    """A training job of a pack, whose container finds no data."""
    job = sagemaker_names.training_job_name(deployment.prefix, NAME, pack, number)
    deployment.sagemaker.create_training_job(
        TrainingJobName=job,
        AlgorithmSpecification={
            "TrainingImage": deployment.image("forecast", "1"),
            "TrainingInputMode": "File",
        },
        RoleArn=deployment.training_role,
        OutputDataConfig={
            "S3OutputPath": f"s3://{deployment.data_bucket}/{s3_keys.job_output_prefix(NAME, pack)}"
        },
        ResourceConfig={"InstanceType": "ml.c5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )
    return job


def ended(deployment: Deployment, job: str) -> str:
    """A job's final status."""
    deadline = time.monotonic() + 120
    while (
        status := deployment.sagemaker.describe_training_job(TrainingJobName=job)[
            "TrainingJobStatus"
        ]
    ) in {"InProgress", "Stopping"}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return status


def test_a_packs_newest_job_is_shown_and_stopped_with_its_pack(
    call: Call, serving: Serving
) -> None:
    deployment, _, _ = serving
    queue = RequestQueue(deployment, by="test")
    pack, tenant = ids.pack_id(f"p-{uuid.uuid4().hex[:8]}"), f"t-{uuid.uuid4().hex[:8]}"
    row = claimed(queue, tenant, pack)
    first = start_job(deployment, pack)
    row = queue.move(row, "training", why="its data are good", changes={"job": first})
    assert ended(deployment, first) == "Failed"
    second = start_job(deployment, pack, 2)

    shown = {one["name"]: one for one in document(call("jobs", "energy", "--json"))["jobs"]}
    assert (shown[first]["instances"], shown[first]["instance_type"]) == (1, "ml.c5.xlarge")
    assert shown[first]["reason"]
    (found,) = [
        one
        for of in document(call("status", "--json"))["workloads"]
        for one in of["packs"]
        if one["pack"] == pack
    ]
    assert (found["requests"], found["job"]["name"]) == ({"training": 1}, second)

    call("cancel", "--pack", pack, "--yes", "--why", "the wrong file")
    assert ended(deployment, second) in {"Stopped", "Failed"}  # it may have failed before the stop
    assert first in call("jobs", "--most", "5").stdout
    (now,) = queue.of_tenant(NAME, row.tenant)
    assert (now.status, now.reason, now.pack) == ("cancelled", "the wrong file", None)
    assert "no request is in pack" in call("cancel", "--pack", pack, status=1).stderr

"""A workload whose file was removed: it is reported while any of its resources remain, and a
command removes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dagster import DagsterInstance, build_sensor_context

from orchestration.definitions import defs
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.aws.silo_roles import ensure_silo_role, silo_roles
from tenantry.hosting.endpoints import describe_endpoint, ensure_endpoint
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Shared
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.tenants.wind_down import Leftover, left_behind, note_workloads
from tenantry.uploads.intake import drain_queue
from tenantry.workloads.folder import FOLDER, FOLDER_VARIABLE
from tenantry.workloads.schema import read_workloads
from tests.orchestration.running import TENANTRY
from tests.tenantry.command_line.conftest import ENERGY, Call, claimed, document, now_of, pending

PORTRAITS = ids.workload_name("portraits")


@pytest.fixture
def without_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of workloads without energy.yaml."""
    (tmp_path / "portraits.yaml").write_text((FOLDER / "portraits.yaml").read_text())
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))


def test_a_workload_that_still_has_its_file_is_not_wound_down(
    call: Call, queue: RequestQueue
) -> None:
    row = pending(queue, "acme")
    assert "energy.yaml is still there" in call("wind-down", "energy", "--yes", status=1).stderr
    assert now_of(queue, row).status == "pending"


@pytest.mark.usefixtures("without_energy")
def test_what_a_removed_workload_left_behind_is_told_and_taken_away_and_its_data_stay(
    call: Call, queue: RequestQueue, deployment: Deployment
) -> None:
    note_workloads(deployment, ["energy", "portraits"])
    assert left_behind(deployment, ["energy", "portraits"]) == []
    waiting, training = pending(queue, "acme"), claimed(queue, "bolt")
    other = pending(queue, "acme", workload=PORTRAITS)
    energy = read_workloads(FOLDER)["energy"]
    endpoint = ensure_endpoint(deployment, energy, Shared("bridge"), MULTI_MODEL)
    neighbour = deployment.sagemaker.describe_endpoint_config(EndpointConfigName=endpoint.config)
    model = neighbour["ProductionVariants"][0]["ModelName"]
    # This model belongs to another deployment whose name begins alike.
    deployment.sagemaker.create_model(
        ModelName="tenantry-energy-x-portraits-bridge-0123456789",
        ExecutionRoleArn=deployment.batch_role,
        PrimaryContainer={"Image": deployment.image("forecast", "0.1.0")},
    )
    role = ensure_silo_role(deployment, ENERGY, ids.tenant_id("acme"))
    others = ensure_silo_role(deployment, PORTRAITS, ids.tenant_id("acme"))
    kept = s3_keys.upload_manifest(ENERGY, ids.tenant_id("acme"), ids.upload_id("one"))
    objects.write_bytes(deployment.s3, deployment.uploads_bucket, kept, b"{}")

    assert left_behind(deployment, ["portraits"]) == [Leftover(ENERGY, 2, (endpoint.name,))]
    shown = " ".join(call("status").stdout.split())
    assert "energy has 2 open requests and tenantry-energy-bridge" in shown
    assert "tenantry wind-down energy" in shown
    assert [one["workload"] for one in document(call("status", "--json"))["left_behind"]] == [
        "energy"
    ]

    done = document(call("wind-down", "energy", "--yes", "--json"))
    assert {row["tenant"] for row in done["cancelled"]} == {"acme", "bolt"}
    assert (done["endpoints"], done["configurations"], done["models"]) == (
        [endpoint.name],
        [endpoint.config],
        [model],
    )
    assert done["roles"] == [role.name]
    assert [one.name for one in silo_roles(deployment, PORTRAITS)] == [others.name]
    assert {now_of(queue, row).status for row in (waiting, training)} == {"cancelled"}
    assert now_of(queue, other).status == "pending"
    gone = describe_endpoint(deployment, endpoint.name)
    assert gone is None or gone["EndpointStatus"] == "Deleting"
    assert len(deployment.sagemaker.list_models(NameContains="tenantry-energy-x")["Models"]) == 1
    assert objects.exists(deployment.s3, deployment.uploads_bucket, kept)
    found = deployment.sqs.receive_message(
        QueueUrl=deployment.notices_queue_url, MaxNumberOfMessages=10
    )["Messages"]
    notices = [json.loads(message["Body"]) for message in found]
    assert {(one["tenant"], one["kind"], one["code"]) for one in notices} == {
        (tenant, "model_not_made", "workload_ended") for tenant in ("acme", "bolt")
    }
    assert left_behind(deployment, ["portraits"]) == []
    again = document(call("wind-down", "energy", "--yes", "--json"))
    assert (again["cancelled"], again["endpoints"]) == ([], [])


@pytest.mark.usefixtures("without_energy")
def test_its_data_are_deleted_where_that_is_asked_for_and_nobody_elses(
    call: Call, queue: RequestQueue, deployment: Deployment
) -> None:
    workloads = read_workloads(FOLDER)
    for name in ("energy", "portraits"):
        with TenantClient(deployment, workloads[name], ids.tenant_id("acme")) as client:
            client.upload({"a.csv" if name == "energy" else "a.png": b"x"})
    assert drain_queue(deployment, workloads, lambda *_: None, max_seconds=20).accepted == 2
    prediction = s3_keys.prediction(
        ENERGY,
        ids.tenant_id("acme"),
        ids.batch_name("nightly"),
        queue.open(ENERGY)[0].accepted.date(),
    )
    pack, version = ids.pack_id("p-0123456789abcdef"), ids.version_name("v1")
    archive = s3_keys.job_data_archive(ENERGY, pack, ids.tenant_id("acme"), version)
    for key in (prediction, archive):
        objects.write_bytes(deployment.s3, deployment.data_bucket, key, b"{}")
    done = document(call("wind-down", "energy", "--delete-data", "--yes", "--json"))
    assert done["objects"] == 4
    assert queue.of_tenant(ENERGY, ids.tenant_id("acme")) == []
    assert len(queue.of_tenant(PORTRAITS, ids.tenant_id("acme"))) == 1
    left = deployment.s3.list_objects_v2(Bucket=deployment.uploads_bucket)["Contents"]
    assert {entry["Key"].split("/")[2] for entry in left} == {"portraits"}
    assert deployment.s3.list_objects_v2(Bucket=deployment.data_bucket)["KeyCount"] == 0


def test_the_sensor_fails_visibly_while_something_is_left(
    deployment: Deployment, queue: RequestQueue
) -> None:
    sensor = defs.resolve_sensor_def("workloads_left_behind")
    with DagsterInstance.ephemeral() as instance:

        def tick() -> None:
            with build_sensor_context(instance, resources={"tenantry": TENANTRY}) as context:
                sensor.evaluate_tick(context)

        gone = ids.workload_name("water")
        note_workloads(deployment, [gone])
        pending(queue, "acme", workload=gone)
        with pytest.raises(Exception, match="tenantry wind-down water"):
            tick()
        queue.cancel(queue.open(gone)[0], why="")
        tick()
        assert left_behind(deployment, ["energy", "portraits"]) == []

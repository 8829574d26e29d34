"""New readings reach the next prediction without a new model, whatever order they come in, and bad
ones cost only themselves."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from dagster import DagsterInstance

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.onboarding.appending import append
from tenantry.onboarding.member import owed_members
from tenantry.onboarding.pack import PackAtWork
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.uploads.current_data import current_data
from tenantry.workloads.batches import Batch
from tenantry.workloads.schema import Workload, read_workloads
from tests.orchestration.running import at_once, metadata_of, onboard, run, take_in
from tests.tenantry.batch.test_transform import Heard

ENERGY = ids.workload_name("energy")
PARAMETERS = {"timezone": "Europe/London", "country": "GB"}
LINES_A_DAY = 24


def history(file: bytes, days: int) -> bytes:
    """The file without its last days."""
    return b"".join(file.splitlines(keepends=True)[: -days * LINES_A_DAY])


def last_day(file: bytes, ago: int) -> bytes:
    """One of the file's last days, with its heading; 1 is the last."""
    head, *lines = file.splitlines(keepends=True)
    end = len(lines) - (ago - 1) * LINES_A_DAY
    return head + b"".join(lines[end - LINES_A_DAY : end])


def everything(deployment: Deployment, instance: DagsterInstance, workload: Workload) -> None:
    """Take in what was uploaded, and run until nothing is owed."""
    take_in(deployment, instance)
    for _ in range(6):
        if not (results := onboard(deployment, instance, workload)):
            return
        assert all(result.success for result in results)
    raise AssertionError("there is always more to do")


def jobs(deployment: Deployment) -> int:
    return len(deployment.sagemaker.list_training_jobs()["TrainingJobSummaries"])


def test_days_of_readings_reach_the_next_batch_and_make_no_model(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    consumption: dict[str, bytes],
) -> None:
    workload, file = at_once(energy), consumption["tenant-0"]
    acme, globex = ids.tenant_id("acme"), ids.tenant_id("globex")
    with (
        TenantClient(deployment, workload, acme) as client,
        TenantClient(deployment, workload, globex) as other,
    ):
        client.upload({"history.csv": history(file, 3)}, PARAMETERS)
        other.upload({"history.csv": history(file, 3)}, PARAMETERS)
        everything(deployment, dagster_instance, workload)
        before, made = jobs(deployment), client.champion()

        for ago in (2, 3, 2, 1):  # late, and one of them twice
            client.upload({f"day-{ago}.csv": last_day(file, ago)}, purpose="inference")
        everything(deployment, dagster_instance, workload)
        assert [one.status for one in client.requests("inference")] == ["appended"] * 3
        assert jobs(deployment) == before
        assert client.champion() == made
        assert len(client.requests()) == 1
        told = metadata_of(dagster_instance, "energy", "training_data")
        rows = {name: told[name]["dagster/partition_row_count"] for name in ("acme", "globex")}
        assert rows["acme"] == rows["globex"] + 3 * LINES_A_DAY

        assert run(dagster_instance, "energy_batch_predictions", None).success
        day = datetime.now(UTC).date()
        (fresh,), (stale,) = client.predictions(day), other.predictions(day)
        assert fresh["timestamps"] == stale["timestamps"]
        assert fresh["mean"] != stale["mean"]
        assert fresh["version"] == made.version

        # A re-training of the same upload learns from them.
        registry = ModelRegistry(deployment)
        queue = RequestQueue(deployment, by="test")
        (uploaded,) = client.requests()
        assert queue.accept(
            ENERGY,
            acme,
            ids.request_id_of(ENERGY, acme, "again"),
            uploaded.manifest_key,
            "bridge",
            first=False,
            uploaded=uploaded.uploaded,
            notify_owner=False,
        )
        everything(deployment, dagster_instance, workload)
        newest = registry.versions(acme, ENERGY)[-1]
        first = registry.version(acme, ENERGY, made.version)
        assert first is not None
        assert newest.card["data"]["rows"] == first.card["data"]["rows"] + 3 * LINES_A_DAY


def declared_too_large(deployment: Deployment, tenant: ids.TenantId) -> None:
    """A manifest alone, which declares more bytes than the workload takes."""
    files = [{"name": "day.csv", "bytes": 640 * 1024 * 1024, "sha256": "0" * 64}]
    said = {"format": 1, "workload": "energy", "tenant": tenant, "files": files}
    key = s3_keys.upload_manifest(ENERGY, tenant, ids.upload_id("large"))
    document = {**said, "purpose": "inference"}
    objects.write_json(deployment.s3, deployment.uploads_bucket, key, document)


def test_bad_data_are_refused_and_change_nothing(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    consumption: dict[str, bytes],
) -> None:
    workload, file = at_once(energy), consumption["tenant-1"]
    names = ("good", "shape", "known", "large", "none")
    clients = {name: TenantClient(deployment, workload, ids.tenant_id(name)) for name in names}
    for name in names[:-1]:
        clients[name].upload({"history.csv": history(file, 1)}, PARAMETERS)
    everything(deployment, dagster_instance, workload)
    before = {name: current_data(deployment, ENERGY, ids.tenant_id(name)) for name in names}

    clients["good"].upload({"day.csv": last_day(file, 1)}, purpose="inference")
    clients["shape"].upload({"day.csv": b"when,what\n2026-01-01,3\n"}, purpose="inference")
    clients["known"].upload({"day.csv": last_day(file, 3)}, purpose="inference")
    clients["none"].upload({"day.csv": last_day(file, 1)}, purpose="inference")
    declared_too_large(deployment, ids.tenant_id("large"))
    # Of another workload's tenant, whose key says so.
    portraits = read_workloads()["portraits"]
    with TenantClient(deployment, portraits, ids.tenant_id("good")) as other:
        other.upload({"a.png": b"x"}, purpose="inference")
    everything(deployment, dagster_instance, workload)

    assert [one.status for one in clients["good"].requests("inference")] == ["appended"]
    found = {}
    for name in names[1:]:
        rows = [*clients[name].requests("inference"), *clients[name].requests()]
        (refused,) = [row for row in rows if row.status == "refused"]
        assert refused.reason
        found[name] = refused.reason_code
        now = current_data(deployment, ENERGY, ids.tenant_id(name))
        assert now == before[name]
    assert found == {
        "shape": "column_missing",
        "known": "period_closed",
        "large": "upload_too_large",
        "none": "no_model_yet",
    }
    (elsewhere,) = other.requests()
    assert elsewhere.reason_code == "inference_not_taken"


def test_a_batch_on_uploads_predicts_at_once_and_once_though_its_run_dies(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    consumption: dict[str, bytes],
) -> None:
    workload, file, acme = at_once(energy), consumption["tenant-2"], ids.tenant_id("acme")
    given = energy.batches[0].model_dump(exclude={"cron"})
    batch = Batch(**{**given, "name": "at_once", "on": "inference_upload"})
    workload = workload.model_copy(update={"batches": (*workload.batches, batch)})
    queue = RequestQueue(deployment, by="test")
    with TenantClient(deployment, workload, acme) as client:
        client.upload({"history.csv": history(file, 1)}, PARAMETERS)
        everything(deployment, dagster_instance, workload)
        client.upload({"day.csv": last_day(file, 1)}, purpose="inference")
        take_in(deployment, dagster_instance)
        (due,) = queue.due(ENERGY)
        pack = ids.pack_id("p-dies")
        queue.claim([due], pack)

        def work(predict: object) -> None:
            members = owed_members(queue.get_many([due.key], ENERGY), pack)
            at_work = PackAtWork(
                deployment, workload, pack, "bridge", Heard(), frozenset(["training_data"])
            )
            append(at_work, members, predict, datetime.now(UTC))  # type: ignore[arg-type]

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work(dies)
        current = current_data(deployment, ENERGY, acme)
        assert current is not None
        assert current.extended
        (row,) = client.requests("inference")
        assert row.status == "claimed"
        asked = list[object]()
        work(lambda period, tenants: asked.append((period.batch.name, list(tenants))))
        assert asked == [("at_once", [acme])]
        assert current_data(deployment, ENERGY, acme) == current, "it was appended once"
        (row,) = client.requests("inference")
        assert row.status == "appended"

"""New readings reach the next prediction without a new model, whatever order they come in, and bad
ones cost only themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from dagster import DagsterInstance

from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.onboarding.appending import append
from tenantry.onboarding.member import owed_members
from tenantry.onboarding.pack import PackAtWork
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.uploads.current_data import current_data
from tenantry.workloads.batches import Batch
from tenantry.workloads.schema import Workload
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


@pytest.mark.parametrize("name", ["before any model", "of a wrong shape", "known already", "large"])
def test_bad_data_are_refused_and_change_nothing(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    consumption: dict[str, bytes],
    name: str,
) -> None:
    workload, file = at_once(energy), consumption["tenant-1"]
    good, bad = ids.tenant_id("good"), ids.tenant_id("bad")
    with (
        TenantClient(deployment, workload, good) as client,
        TenantClient(deployment, workload, bad) as other,
    ):
        client.upload({"history.csv": history(file, 1)}, PARAMETERS)
        if name != "before any model":
            other.upload({"history.csv": history(file, 1)}, PARAMETERS)
        everything(deployment, dagster_instance, workload)
        before = current_data(deployment, ENERGY, bad)
        content, code = {
            "before any model": (last_day(file, 1), "no_model_yet"),
            "of a wrong shape": (b"when,what\n2026-01-01,3\n", None),
            "known already": (last_day(file, 3), "period_closed"),
            "large": (b"timestamp,consumption\n" + b"2026-01-01T00:00Z,1\n" * 4_000_000, None),
        }[name]
        client.upload({"day.csv": last_day(file, 1)}, purpose="inference")
        other.upload({"day.csv": content}, purpose="inference")
        everything(deployment, dagster_instance, workload)
        assert [one.status for one in client.requests("inference")] == ["appended"]
        refused = [*other.requests("inference"), *other.requests()]
        (row,) = [one for one in refused if one.status == "refused"]
        assert row.reason
        assert code in {None, row.reason_code}
        assert current_data(deployment, ENERGY, bad) == before


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
            append(at_work, members, predict, datetime.now(UTC) + timedelta())  # type: ignore[arg-type]

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

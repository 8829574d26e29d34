"""From upload to champion inside Dagster, on the local cloud with the real container."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from dagster import AssetCheckKey, DagsterInstance, TableMetadataValue
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from orchestration.definitions import defs
from orchestration.launcher import PACK_TAG, runs_to_request
from orchestration.private_dagster.chosen_partitions import asset_key
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.aws.silo_roles import silo_role_arn
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import NoModelYetError, TenantClient
from tenantry.workloads.schema import Workload
from tests.conftest import TODAY
from tests.orchestration.conftest import Upload
from tests.orchestration.running import (
    TENANTRY,
    at_once,
    metadata_of,
    onboard,
    run,
    statuses,
    take_in,
    unexplained,
)

ENERGY = ids.workload_name("energy")


@pytest.fixture
def energy_at_once(energy: Workload) -> Workload:
    return at_once(energy)


def test_uploads_become_served_models_and_a_bad_one_costs_only_itself(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy_at_once: Workload,
    consumption: dict[str, bytes],
    upload: Upload,
) -> None:
    good = [upload("acme", consumption["tenant-0"]), upload("globex", consumption["tenant-1"])]
    bad = upload("initech", consumption["tenant-2"].replace(b"\n", b"x\n", 40))
    taken = take_in(deployment, dagster_instance)
    assert (taken.accepted, taken.refused) == (3, [])

    (result,) = onboard(deployment, dagster_instance, energy_at_once)

    assert result.success, "operators cannot mend an owner's upload"
    everyone = [*good, bad]
    reasons = metadata_of(dagster_instance, "energy", "training_data")
    assert "not_made" not in reasons["acme"]
    assert "timestamp" in reasons["initech"]["not_made"]
    made, failed = AssetPartitionStatus.MATERIALIZED.value, AssetPartitionStatus.FAILED.value
    for asset in ("training_data", "fine_tuned_artifact", "endpoint_registration"):
        assert statuses(dagster_instance, "energy", asset, everyone) == {
            "acme": made,
            "globex": made,
            "initech": failed,
        }, asset
    queue = RequestQueue(deployment)
    assert [queue.of_tenant(ENERGY, tenant)[-1].status for tenant in everyone] == [
        "registered",
        "registered",
        "refused",
    ]
    trained_with = [queue.of_tenant(ENERGY, tenant)[-1].hyperparameters for tenant in everyone]
    assert trained_with == [
        energy_at_once.training.hyperparameters,
        energy_at_once.training.hyperparameters,
        {},
    ]
    refused = queue.of_tenant(ENERGY, bad)[-1]
    assert "consumption.csv" in (refused.reason or "")

    with TenantClient(deployment, energy_at_once, good[0]) as client:
        forecast = client.predict({"period": 2})
        assert len(forecast["mean"]) == 48
    with (
        TenantClient(deployment, energy_at_once, bad) as client,
        pytest.raises(NoModelYetError, match="refused"),
    ):
        client.predict({"period": 2})

    artifacts = metadata_of(dagster_instance, "energy", "fine_tuned_artifact")
    assert artifacts.pop("initech") == {
        "tenant": "initech",
        "not_made": reasons["initech"]["not_made"],
    }
    assert run(dagster_instance, "energy_fleet", None).success
    checked = AssetCheckKey(asset_key("energy", "fleet"), "tenants_pass_their_checks")
    (fleets,) = dagster_instance.event_log_storage.get_asset_check_execution_history(
        checked, limit=10
    )
    evaluation = fleets.event and fleets.event.asset_check_evaluation
    assert evaluation is not None
    assert not evaluation.passed, "one of three uploads could not be used"
    summary = evaluation.metadata["checks"]
    assert isinstance(summary, TableMetadataValue)
    rows = {row.data["check"]: row.data for row in summary.records}
    assert rows["data_quality"] == {
        "check": "data_quality",
        "passed": 2,
        "did not pass": 1,
        "tenants that did not": "initech",
    }
    assert (rows["endpoint_answers"]["passed"], rows["data_age"]["passed"]) == (2, 0)
    assert unexplained(dagster_instance, energy_at_once) == set()
    assert set(artifacts) == {"acme", "globex"}
    for tenant, artifact in artifacts.items():
        kept = s3_keys.artifact(
            ENERGY, ids.tenant_id(tenant), ids.version_name(artifact["version"])
        )
        assert artifact["hyperparameters"] == dict(energy_at_once.training.hyperparameters)
        assert artifact["dagster/uri"] == f"s3://{deployment.data_bucket}/{kept}"
        assert artifact["plot"].startswith("![plot](data:image/png;base64,")
        assert artifact["mase"] > 0
        assert (artifact["tenant"], "console" in artifact) == (tenant, False)

    told = deployment.sqs.receive_message(
        QueueUrl=deployment.notices_queue_url, MaxNumberOfMessages=10
    )["Messages"]
    notices = {(n["tenant"], n["kind"]) for n in (json.loads(message["Body"]) for message in told)}
    assert notices == {
        ("acme", "model_ready"),
        ("globex", "model_ready"),
        ("initech", "upload_refused"),
    }
    assert list(runs_to_request(dagster_instance, queue, energy_at_once, lost_run_seconds=60)) == []


def test_a_model_is_registered_again_when_its_job_and_its_endpoint_have_left_nothing_of_it(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy_at_once: Workload,
    consumption: dict[str, bytes],
    upload: Upload,
) -> None:
    acme = upload("acme", consumption["tenant-0"])
    take_in(deployment, dagster_instance)
    assert onboard(deployment, dagster_instance, energy_at_once)[0].success
    for prefix in ("checkpoints/", "jobs/", "endpoints/"):
        for entry in deployment.s3.list_objects_v2(Bucket=deployment.data_bucket, Prefix=prefix)[
            "Contents"
        ]:
            deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=entry["Key"])

    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={asset_key("energy", "endpoint_registration")}, asset_check_selection=set()
    )
    assert job.execute_in_process(
        instance=dagster_instance,
        partition_key=acme,
        resources={"tenantry": TENANTRY},
        raise_on_error=False,
    ).success
    champion = ModelRegistry(deployment).champion(acme, ENERGY)
    assert champion is not None
    placed = s3_keys.endpoint_model(champion.endpoint, acme, champion.version)
    assert objects.exists(deployment.s3, deployment.data_bucket, placed)
    with TenantClient(deployment, energy_at_once, acme) as client:
        assert len(client.predict({"period": 1})["mean"]) == 24


def test_the_same_upload_again_is_nothing_new_and_a_newer_one_follows_the_champion(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy_at_once: Workload,
    consumption: dict[str, bytes],
    upload: Upload,
) -> None:
    acme = upload("acme", consumption["tenant-0"])
    take_in(deployment, dagster_instance)
    (first,) = onboard(deployment, dagster_instance, energy_at_once)
    assert first.success
    upload("acme", consumption["tenant-0"])
    assert take_in(deployment, dagster_instance).repeated == 1
    assert onboard(deployment, dagster_instance, energy_at_once) == []

    registry = ModelRegistry(deployment)
    before = registry.champion(acme, ENERGY)
    assert before is not None
    lines = consumption["tenant-0"].splitlines(keepends=True)
    upload("acme", b"".join(lines[:-24]))
    take_in(deployment, dagster_instance)
    (second,) = onboard(deployment, dagster_instance, energy_at_once)
    assert second.success
    versions = registry.versions(acme, ENERGY)
    assert len(versions) == 2
    after = registry.champion(acme, ENERGY)
    assert after is not None
    assert after.version in {version.version for version in versions}
    if after.version != before.version:
        assert after.previous == before.version


def test_of_a_request_the_tenant_did_not_make_its_owner_hears_nothing(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy_at_once: Workload,
    consumption: dict[str, bytes],
    upload: Upload,
) -> None:
    bad = upload("initech", consumption["tenant-2"].replace(b"\n", b"x\n", 40))
    take_in(deployment, dagster_instance)
    queue = RequestQueue(deployment)
    (row,) = queue.due(ENERGY)
    queue.cancel(row, why="asked for below by the schedule")
    request = ids.request_id_of(ENERGY, bad, "re-training")
    assert queue.accept(
        ENERGY,
        bad,
        request,
        row.manifest_key,
        "bridge",
        first=False,
        why="re-training",
        notify_owner=False,
    )

    (result,) = onboard(deployment, dagster_instance, energy_at_once)

    assert result.success
    assert [r.status for r in queue.of_tenant(ENERGY, bad)] == ["cancelled", "refused"]
    told = deployment.sqs.receive_message(
        QueueUrl=deployment.notices_queue_url, MaxNumberOfMessages=10
    )
    assert "Messages" not in told


def test_a_person_materialises_one_tenants_artifact_alone(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy_at_once: Workload,
    consumption: dict[str, bytes],
    upload: Upload,
) -> None:
    acme = upload("acme", consumption["tenant-0"])
    registry = ModelRegistry(deployment)
    registry.set_tier(acme, ENERGY, "silo", by="the test")
    take_in(deployment, dagster_instance)
    onboard(deployment, dagster_instance, energy_at_once)
    champion = registry.champion(acme, ENERGY)

    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={asset_key("energy", "fine_tuned_artifact")}, asset_check_selection=set()
    )
    result = job.execute_in_process(
        instance=dagster_instance, partition_key=acme, resources={"tenantry": TENANTRY}
    )

    assert result.success
    versions = registry.versions(acme, ENERGY)
    assert [version.status for version in versions] == ["champion", "trained"]
    assert registry.champion(acme, ENERGY) == champion, (
        "materialising the artifact alone does not serve it"
    )
    assert RequestQueue(deployment).of_tenant(ENERGY, acme)[-1].status == "registered"
    # The launcher's job and the person's ran under the tenant's own role, and told of it where that
    # role may write.
    listed = deployment.sagemaker.list_training_jobs()["TrainingJobSummaries"]
    jobs = [
        deployment.sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])
        for job in listed
    ]
    own = silo_role_arn(deployment, ENERGY, acme)
    assert [made["RoleArn"] for made in jobs] == [own, own]
    for made in jobs:
        pack = ids.pack_id(made["CheckpointConfig"]["S3Uri"].rpartition("/")[2])
        assert pack.startswith(f"p-{ids.silo_digest(acme)}-")
        told = s3_keys.messages_prefix(ENERGY, pack)
        assert list(objects.keys_under(deployment.s3, deployment.data_bucket, f"{told}/"))


def test_tonights_batch_predicts_for_everyone_with_a_model(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy_at_once: Workload,
    consumption: dict[str, bytes],
    upload: Upload,
) -> None:
    tenants = [upload("acme", consumption["tenant-0"]), upload("globex", consumption["tenant-1"])]
    take_in(deployment, dagster_instance)
    onboard(deployment, dagster_instance, energy_at_once)
    day = TODAY.date()
    config = {"ops": {"energy_predict_everyone": {"config": {"day": day.isoformat()}}}}

    result = run(dagster_instance, "energy_batch_predictions", config)

    assert result.success
    made = AssetPartitionStatus.MATERIALIZED.value
    assert statuses(dagster_instance, "energy", "batch_predictions", tenants) == {
        "acme": made,
        "globex": made,
    }
    predicted = metadata_of(dagster_instance, "energy", "batch_predictions")["acme"]
    assert predicted["dagster/partition_row_count"] == 7 * 24
    assert predicted["plot"].startswith("![plot](data:image/png;base64,")
    assert sum(row.data["points"] for row in predicted["days"].records) == 7 * 24
    assert predicted["dagster/table_name"] == "tenantry.energy_nightly"
    (observed,) = dagster_instance.fetch_observations(
        asset_key("energy", "batch_predictions"), limit=5
    ).records
    assert observed.asset_observation is not None
    table: dict[str, Any] = {
        name: value.value for name, value in observed.asset_observation.metadata.items()
    }
    assert table["dagster/table_name"] == "tenantry.energy_nightly"
    assert table["dagster/row_count"] == 2 * 7 * 24
    columns = {column.name: column.type for column in table["dagster/column_schema"].columns}
    assert columns["tenant"] == columns["day"] == "string"
    assert columns["mean"] == columns["quantiles_0_1"] == "double"
    for tenant in tenants:
        with TenantClient(deployment, energy_at_once, tenant) as client:
            (prediction,) = client.predictions(day)
            assert len(prediction["mean"]) == 7 * 24
            with pytest.raises(objects.ObjectMissingError):
                client.predictions(datetime(2020, 1, 1, tzinfo=UTC).date())

    assert run(dagster_instance, "energy_fleet", None).success
    (record,) = dagster_instance.fetch_materializations(
        asset_key("energy", "fleet"), limit=5
    ).records
    assert record.asset_materialization is not None
    shown: dict[str, Any] = {
        name: v.value for name, v in record.asset_materialization.metadata.items()
    }
    assert [(row.data["tenant"], row.data["predicted"]) for row in shown["tenants"].records] in (
        [("acme", "yes"), ("globex", "yes")],
        [("globex", "yes"), ("acme", "yes")],
    )
    assert (shown["tenants_with_a_model"], shown["share_predicted"]) == (2, 1)
    assert shown["predicted_for"] == day.isoformat()
    assert shown["serving_usd_per_hour"] == pytest.approx(0.115)
    assert shown["scores"].startswith("![scores](data:image/png;base64,")


def test_a_pack_whose_run_is_gone_is_taken_up_again_and_a_cancelled_one_goes_back(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy_at_once: Workload,
    consumption: dict[str, bytes],
    upload: Upload,
) -> None:
    upload("acme", consumption["tenant-0"])
    take_in(deployment, dagster_instance)
    queue = RequestQueue(deployment)
    (asked,) = runs_to_request(dagster_instance, queue, energy_at_once, lost_run_seconds=60)
    (again,) = runs_to_request(dagster_instance, queue, energy_at_once, lost_run_seconds=60)
    assert again.tags[PACK_TAG] == asked.tags[PACK_TAG], (
        "the tick died before its run was made: the same pack"
    )
    result = run(dagster_instance, str(again.job_name), again.run_config, dict(again.tags))
    assert result.success
    assert len(deployment.sagemaker.list_training_jobs()["TrainingJobSummaries"]) == 1

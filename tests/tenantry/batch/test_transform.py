"""Batch predictions: one transform job for many tenants, each of which succeeds or fails alone."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.batch.periods import Period
from tenantry.batch.predictions import batches_of, predict
from tenantry.batch.transform import TransformJobFailedError, predict_batch
from tenantry.hosting.endpoints import Endpoint
from tenantry.hosting.route import Route
from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import Tier, machines_of
from tenantry.requests.rows import now
from tenantry.serving.client import TenantClient
from tenantry.workloads.batching import Batching
from tenantry.workloads.schema import Workload
from tests.conftest import TRAINED_UNTIL, TrainedForecast
from tests.pipes_sagemaker.broken_calls import break_calls
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version

Serving = tuple[Deployment, Workload]
DAY = (TRAINED_UNTIL + timedelta(days=30)).date()


@pytest.fixture(scope="module")
def cloud(serving: tuple[Deployment, Workload, Endpoint]) -> Serving:
    return serving[:2]


@dataclass
class Heard:
    """Records a report's entries."""

    materialized_: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failed_: dict[str, str] = field(default_factory=dict)
    checked_: dict[str, tuple[str, bool, Mapping[str, Any]]] = field(default_factory=dict)

    def checked(
        self, asset: str, check: str, tenant: str, metadata: Mapping[str, Any], *, passed: bool
    ) -> None:
        self.checked_[tenant] = (check, passed, metadata)

    def flush(self) -> None: ...
    def info(self, message: str) -> None: ...

    def materialized(
        self, asset: str, tenant: str, metadata: Mapping[str, Any], data_version: str | None
    ) -> None:
        self.materialized_[tenant] = metadata

    def failed(self, asset: str, tenant: str, reason: str) -> None:
        self.failed_[tenant] = reason


def night(workload: Workload, day: date = DAY) -> Period:
    """The day of the workload's first batch."""
    return Period(workload.batches[0], day)


def crowned(
    cloud: Serving, archive: bytes, *, tier: Tier = "bridge", card: Mapping[str, Any] | None = None
) -> Champion:
    """A tenant with an archive under its endpoint's prefix; batch transform needs no endpoint."""
    deployment, _ = cloud
    tenant = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    model = trained_version(deployment, tenant, 1, archive, {}, tier=tier, card=card)
    endpoint = sagemaker_names.endpoint_name("tenantry", NAME, machines_of(tier, tenant))
    destination = s3_keys.endpoint_model(endpoint, tenant, model.version)
    objects.write_bytes(deployment.s3, deployment.data_bucket, destination, archive)
    return ModelRegistry(deployment).crown(model, route_to(endpoint, model), None)


def batch_name() -> str:
    return f"b-{uuid.uuid4().hex[:12]}"


def test_each_tenants_prediction_lands_under_its_own_key_and_a_broken_model_fails_alone(
    cloud: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy = cloud
    good = [crowned(cloud, made.archive) for made in trained_forecasts]
    broken = crowned(cloud, trained_forecasts[0].archive[:-100])
    gone = crowned(cloud, trained_forecasts[0].archive)
    # A batch needs the kept archive; for versions from before kept archives, it needs the
    # endpoint's.
    for champion in (good[0], gone):
        placed = s3_keys.endpoint_model(champion.endpoint, champion.tenant, champion.version)
        deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=placed)
    for champion in (good[1], gone):
        kept = s3_keys.artifact(NAME, champion.tenant, champion.version)
        deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=kept)
    champions, name = [*good, broken, gone], batch_name()

    result = predict_batch(deployment, energy, night(energy), name, champions, poll=0.1)
    found = {prediction.tenant: prediction for prediction in result.predictions}
    assert {tenant for tenant, prediction in found.items() if prediction.key} == {
        one.tenant for one in good
    }
    assert found[broken.tenant].reason
    assert "archive" in str(found[gone.tenant].reason)
    answers = []
    for champion in good:
        assert (
            found[champion.tenant].key
            == f"predictions/{champion.tenant}/energy/nightly/{DAY}.jsonl"
        )
        with TenantClient.of_model(deployment, energy, champion.tenant) as client:
            (answer,) = client.predictions(DAY)
        assert len(answer["mean"]) == 7 * 24
        answers.append(json.dumps(answer["mean"]))
    assert len(set(answers)) == 3
    with (
        TenantClient.of_model(deployment, energy, broken.tenant) as client,
        pytest.raises(objects.ObjectMissingError),
    ):
        client.predictions(DAY)

    # Another request for the same batch gets the same job's answers.
    again = predict_batch(deployment, energy, night(energy), name, champions, poll=0.1)
    assert again == result


def test_a_batch_runs_the_container_of_serving_on_the_machine_image_it_names(
    cloud: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy = cloud
    workload = energy.model_copy(
        update={
            "container": "forecast-trainer",
            "serving": energy.serving.model_copy(update={"container": "forecast"}),
            "batches": (
                energy.batches[0].model_copy(
                    update={"ami_version": "al2-ami-sagemaker-batch-gpu-535"}
                ),
            ),
        }
    )
    champion, name = crowned(cloud, trained_forecasts[0].archive), batch_name()
    (prediction,) = predict_batch(
        deployment, workload, night(workload), name, [champion], poll=0.1
    ).predictions
    assert prediction.key
    job = deployment.sagemaker.describe_transform_job(
        TransformJobName=sagemaker_names.transform_job_name("tenantry", NAME, DAY, name)
    )
    assert job["TransformResources"]["TransformAmiVersion"] == "al2-ami-sagemaker-batch-gpu-535"


def test_a_batch_of_a_container_that_takes_no_batches_fails_with_the_containers_reason(
    cloud: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy = cloud
    batching = Batching(max_batch=4, max_wait_ms=2)  # which the file would be refused with
    serving = energy.serving.model_copy(update={"batching": batching})
    workload = energy.model_copy(update={"serving": serving})
    champion, name = crowned(cloud, trained_forecasts[0].archive), batch_name()
    with pytest.raises(TransformJobFailedError):
        predict_batch(deployment, workload, night(workload), name, [champion], poll=0.1)
    job = sagemaker_names.transform_job_name("tenantry", NAME, DAY, name)
    lines = boto3.client("logs").filter_log_events(
        logGroupName="/aws/sagemaker/TransformJobs", logStreamNamePrefix=job
    )["events"]
    said = "TENANTRY_MAX_BATCH is 4, and the family 'forecast' takes no batches"
    assert any(said in line["message"] for line in lines)


def test_a_batch_whose_job_was_never_started_is_started(
    cloud: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    """A run died after creating the job's model and before creating the job."""
    deployment, energy = cloud
    champion, name = crowned(cloud, trained_forecasts[0].archive), batch_name()
    job = sagemaker_names.transform_job_name("tenantry", NAME, DAY, name)
    archive = s3_keys.endpoint_model(champion.endpoint, champion.tenant, champion.version)
    copied = s3_keys.batch_model(NAME, DAY, name, champion.tenant, champion.version)
    objects.copy(deployment.s3, deployment.data_bucket, archive, copied)
    batch = s3_keys.batch_prefix(NAME, DAY, name)
    deployment.sagemaker.create_model(
        ModelName=job,
        ExecutionRoleArn=deployment.batch_role,
        PrimaryContainer={
            "Image": deployment.image("forecast", energy.image_tag),
            "ModelDataSource": {
                "S3DataSource": {
                    "S3Uri": f"s3://{deployment.data_bucket}/{batch}models/",
                    "S3DataType": "S3Prefix",
                    "CompressionType": "None",
                }
            },
        },
    )
    (prediction,) = predict_batch(
        deployment, energy, night(energy), name, [champion], poll=0.1
    ).predictions
    assert prediction.key


def test_a_batch_in_which_nothing_could_be_answered_is_a_failure_that_leaves_no_model(
    cloud: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy = cloud
    broken, name = crowned(cloud, b"no archive"), batch_name()
    with pytest.raises(TransformJobFailedError, match="is Failed"):
        predict_batch(deployment, energy, night(energy), name, [broken], poll=0.1)
    assert not deployment.sagemaker.list_models(NameContains=name)["Models"]
    deployment.s3.delete_object(
        Bucket=deployment.data_bucket,
        Key=s3_keys.endpoint_model(broken.endpoint, broken.tenant, broken.version),
    )
    with pytest.raises(TransformJobFailedError, match="archive"):
        predict_batch(deployment, energy, night(energy), batch_name(), [broken], poll=0.1)


def test_a_quota_that_is_used_up_costs_one_batch_its_predictions_and_no_other(
    cloud: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy = cloud
    champions = [crowned(cloud, trained_forecasts[n].archive, tier="silo") for n in range(2)]
    break_calls(deployment.sagemaker, "CreateTransformJob", 1, "ResourceLimitExceeded", 400)
    heard = Heard()
    failures = predict(
        deployment,
        energy,
        [champion.tenant for champion in champions],
        night(energy),
        "run-q",
        heard,
        poll=0.1,
    )
    assert len(failures) == len(heard.materialized_) == 1
    assert "ResourceLimitExceeded" in next(iter(failures.values()))


def test_silo_tenants_jobs_run_side_by_side_and_no_more_than_the_workload_allows(
    cloud: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy = cloud
    energy = energy.model_copy(
        update={"batches": (energy.batches[0].model_copy(update={"max_jobs_at_once": 2}),)}
    )
    tenants = [crowned(cloud, trained_forecasts[0].archive, tier="silo").tenant for _ in range(4)]
    heard = Heard()
    assert predict(deployment, energy, tenants, night(energy), "run-side", heard, poll=0.1) == {}
    assert set(heard.materialized_) == set(tenants)
    jobs = [
        deployment.sagemaker.describe_transform_job(TransformJobName=str(told["transform_job"]))
        for told in heard.materialized_.values()
    ]
    spans = [(job["CreationTime"], job["TransformEndTime"]) for job in jobs]
    at_once = [sum(began <= moment < ended for began, ended in spans) for moment, _ in spans]
    assert max(at_once) == 2


def test_a_round_of_predictions_reports_every_tenant_once(
    cloud: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy = cloud
    good, broken = crowned(cloud, trained_forecasts[0].archive), crowned(cloud, b"no archive")
    silo = crowned(cloud, trained_forecasts[1].archive, tier="silo")
    nobody = ids.tenant_id("nobody")
    heard = Heard()
    started: list[ids.ModelId] = []
    tenants = [good.tenant, broken.tenant, silo.tenant, nobody]
    failures = predict(
        deployment,
        energy,
        tenants,
        night(energy),
        "run-1",
        heard,
        poll=0.1,
        starting=started.extend,
    )
    assert set(heard.materialized_) == {good.tenant, silo.tenant}
    assert heard.failed_ == failures
    assert set(failures) == {broken.tenant, nobody}
    assert failures[nobody] == "it has no model yet"
    assert started == sorted([good.tenant, broken.tenant, silo.tenant])
    told = heard.materialized_[silo.tenant]
    assert told["dagster/uri"].endswith(f"/predictions/{silo.tenant}/energy/nightly/{DAY}.jsonl")
    assert told["transform_job"] != heard.materialized_[good.tenant]["transform_job"]
    assert told["cost_usd"] > 0


@pytest.mark.parametrize("ahead", [0, 1, 20])
def test_a_prediction_is_of_the_days_that_begin_with_the_batchs_own(
    cloud: Serving, trained_forecasts: list[TrainedForecast], ahead: int
) -> None:
    deployment, energy = cloud
    made, day = trained_forecasts[0], DAY + timedelta(days=ahead)
    champion, heard = crowned(cloud, made.archive, card=made.outcome["card"]), Heard()
    assert not predict(
        deployment, energy, [champion.tenant], night(energy, day), f"run-{ahead}", heard, poll=0.1
    )
    with TenantClient.of_model(deployment, energy, champion.tenant) as client:
        (answer,) = client.predictions(day)
    zone = ZoneInfo(made.outcome["card"]["timezone"])
    days = [datetime.fromisoformat(stamp).astimezone(zone).date() for stamp in answer["timestamps"]]
    assert sorted(set(days)) == [day + timedelta(days=number) for number in range(7)]
    name, passed, facts = heard.checked_[champion.tenant]
    assert (name, passed) == ("data_age", True)
    assert facts["data_age_days"] == 30 + ahead


def test_a_champion_that_cannot_reach_the_day_is_left_out_and_its_owner_told_once(
    cloud: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy = cloud
    made, day = trained_forecasts[0], DAY + timedelta(days=200)
    fresh = crowned(
        cloud,
        made.archive,
        card={**made.outcome["card"], "usable_until": f"{day + timedelta(days=9)}T00:00:00Z"},
    )
    old = crowned(cloud, made.archive, card=made.outcome["card"])
    everybody = [one.tenant for one in ModelRegistry(deployment).champions(NAME)]
    assert {fresh.tenant, old.tenant} <= set(everybody)

    notices(deployment)
    for number in range(2):
        heard = Heard()
        failures = predict(
            deployment, energy, None, night(energy, day), f"run-{number}", heard, poll=0.1
        )
        assert old.tenant not in failures
        assert old.tenant not in heard.materialized_
        name, passed, facts = heard.checked_[old.tenant]
        assert (name, passed) == ("data_age", False)
        assert facts["reason"].endswith("Upload newer data.")
        told = [one for one in notices(deployment) if one["tenant"] == old.tenant]
        assert [one["kind"] for one in told] == (["data_too_old"] if number == 0 else [])
    # A request for only that tenant reports that there is no prediction.
    failures = predict(
        deployment, energy, [old.tenant], night(energy, day), "run-3", Heard(), poll=0.1
    )
    assert set(failures) == {old.tenant}


def notices(deployment: Deployment) -> list[dict[str, Any]]:
    """The messages in the app's queue, which this removes."""
    found = []
    while messages := deployment.sqs.receive_message(
        QueueUrl=deployment.notices_queue_url, MaxNumberOfMessages=10
    ).get("Messages"):
        for message in messages:
            found.append(json.loads(message["Body"]))
            deployment.sqs.delete_message(
                QueueUrl=deployment.notices_queue_url, ReceiptHandle=message["ReceiptHandle"]
            )
    return found


CHAMPIONS = st.lists(
    st.builds(
        Champion,
        tenant=st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True).map(ids.tenant_id),
        workload=st.just(NAME),
        version=st.sampled_from(["v1", "v2"]).map(ids.version_name),
        route=st.just(Route("multi_model", "e", ids.tenant_id("acme"), ids.version_name("v1"))),
        tier=st.sampled_from(["silo", "bridge", "pool"]),
        previous=st.none(),
        since=st.just(now()),
        turn=st.just(1),
    ),
    max_size=30,
    unique_by=lambda champion: champion.tenant,
)


@settings(max_examples=40)
@given(champions=CHAMPIONS, most=st.integers(1, 10), salt=st.text(max_size=5))
def test_batches_hold_everyone_once_one_tier_each_and_silo_tenants_alone(
    champions: list[Champion], most: int, salt: str
) -> None:
    batches = list(batches_of(champions, most, salt))
    assert sorted(c.tenant for batch in batches for c in batch.champions) == sorted(
        c.tenant for c in champions
    )
    for batch in batches:
        assert 1 <= len(batch.champions) <= most
        tiers = {champion.tier for champion in batch.champions}
        assert len(tiers) == 1
        assert "silo" not in tiers or len(batch.champions) == 1
        assert ids.version_name(batch.name)
    assert len({batch.name for batch in batches}) == len(batches)
    assert list(batches_of(champions[::-1], most, salt)) == batches
    other = {batch.name for batch in batches_of(champions, most, salt + "x")}
    assert not other & {batch.name for batch in batches}

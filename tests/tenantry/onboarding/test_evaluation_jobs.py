"""Served models that a processing job evaluates, because their tenants' newer data are large."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule
from tenantry.aws import objects
from tenantry.aws.processing_jobs import StillProcessingError
from tenantry.aws.silo_roles import TENANT_TAG, silo_role_arn
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.onboarding.drift import check_drift, drift_against, drift_of, fresh_score
from tenantry.onboarding.evaluation_jobs import score_by_job
from tenantry.onboarding.member import Member
from tenantry.onboarding.pack import PackAtWork
from tenantry.onboarding.registering import RegistrationStage
from tenantry.shown.report import AssetName
from tenantry.workloads.drift import EvaluationJob
from tenantry.workloads.schema import Workload
from tests.conftest import TrainedForecast
from tests.tenantry.onboarding.registration import route_to
from tests.tenantry.onboarding.test_drift import PREPARED_AT, Serving, Told, served, uploaded

JOB = EvaluationJob(max_megabytes_here=0, instance_type="ml.m5.large", usd_per_hour=0.115)


@dataclass
class Registered(Told):
    """A report of a registration: the check ``drift``, and what was registered."""

    made: list[Mapping[str, Any]] = field(default_factory=list)

    def materialized(
        self, asset: AssetName, tenant: ids.ModelId, metadata: Mapping[str, Any], data_version: str
    ) -> None:
        self.made.append(metadata)

    def checked(
        self,
        asset: AssetName,
        check: str,
        tenant: ids.ModelId,
        metadata: Mapping[str, Any],
        *,
        passed: bool,
    ) -> None:
        if check == "drift":
            super().checked(asset, check, tenant, metadata, passed=passed)


@pytest.fixture
def hanging(local_cloud: LocalCloud) -> AbstractContextManager[None]:
    """Jobs stand still inside this block."""
    return FaultsClient(local_cloud.sagemaker_url).planned(
        Rule(kind="hang_container", job="tenantry-energy-*")
    )


@pytest.fixture
def large(serving: Serving) -> Workload:
    """The workload energy, for which any data are large."""
    _, energy, _ = serving
    assert energy.drift is not None
    return energy.model_copy(update={"drift": energy.drift.model_copy(update={"job": JOB})})


def jobs(serving: Serving) -> list[Any]:
    deployment, _, _ = serving
    found = deployment.sagemaker.list_processing_jobs(MaxResults=100)["ProcessingJobSummaries"]
    return [
        deployment.sagemaker.describe_processing_job(ProcessingJobName=job["ProcessingJobName"])
        for job in found
    ]


def jobs_of(serving: Serving, tenant: ids.ModelId) -> list[Any]:
    said = f"/{ids.tenant_of(tenant)}/"
    return [
        job
        for job in jobs(serving)
        if any(said in one["S3Input"]["S3Uri"] for one in job["ProcessingInputs"])
    ]


def test_a_job_tells_what_the_endpoint_would_have_told(
    serving: Serving, large: Workload, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy, _ = serving
    model = served(serving, trained_forecasts[0])
    row, data = uploaded(serving, model.tenant, 7, grown=2.0)
    told = Told()
    assert check_drift(deployment, large, [(row, data)], told, max_seconds=120) == set()
    assert told.words == []
    by_job = told.checks[model.tenant]
    (job,) = jobs_of(serving, model.tenant)
    assert job["ProcessingJobStatus"] == "Completed"
    assert job["RoleArn"] == deployment.training_role
    noted = ModelRegistry(deployment).version(model.tenant, model.workload, model.version)
    assert noted is not None
    assert noted.fresh is not None
    assert noted.fresh.data == data.version

    again = Told()
    check_drift(deployment, large, [(row, data)], again)
    check_drift(deployment, energy, [(row, data)], told)
    by_endpoint = told.checks[model.tenant]
    assert not by_job[0]
    assert by_job[0] == by_endpoint[0] == again.checks[model.tenant][0]
    for name, value in by_endpoint[1].items():
        assert by_job[1][name] == value, name
    assert drift_of(deployment, large, model.tenant).facts["mase"] == by_job[1]["mase"]
    assert len(jobs_of(serving, model.tenant)) == 1, "the job that is there is adopted"


def test_nothing_waits_for_a_job_that_goes_on_and_a_later_look_finds_its_result(
    serving: Serving,
    large: Workload,
    trained_forecasts: list[TrainedForecast],
    hanging: AbstractContextManager[None],
) -> None:
    deployment, _, endpoint = serving
    model = served(serving, trained_forecasts[0])
    row, data = uploaded(serving, model.tenant, 7)
    told = Told()
    unread = ModelRegistry(deployment).version(model.tenant, model.workload, model.version)
    assert unread is not None
    with hanging:
        assert check_drift(deployment, large, [(row, data)], told, max_seconds=5) == {model.tenant}
        assert told.checks == {}
        (said,) = told.words
        assert said.startswith("drift: processing jobs are evaluating the models of 1 tenant")
        with pytest.raises(StillProcessingError, match="is InProgress"):
            drift_against(deployment, large, model.tenant, data, wait_seconds=0)
    finding = drift_of(deployment, large, model.tenant)
    assert finding.passed, finding.facts
    metrics = fresh_score(deployment, large, route_to(endpoint.name, model), unread, data)
    assert metrics is not None
    assert metrics["mase"] == finding.facts["mase"]
    assert check_drift(deployment, large, [(row, data)], told) == set()
    assert told.checks[model.tenant][0]
    assert len(jobs_of(serving, model.tenant)) == 1


def test_a_job_that_fails_is_told_in_its_own_words_and_followed_by_another(
    serving: Serving, large: Workload, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, _, _ = serving
    model = served(serving, trained_forecasts[0])
    row, data = uploaded(serving, model.tenant, 7)
    content = objects.read_bytes(deployment.s3, deployment.data_bucket, model.archive, 10_000_000)
    kept = ModelRegistry(deployment).version(model.tenant, model.workload, model.version)
    assert kept is not None
    objects.write_bytes(deployment.s3, deployment.data_bucket, kept.archive, b"no archive")
    neighbour = served(serving, trained_forecasts[1])
    others = uploaded(serving, neighbour.tenant, 7, customer=1)
    told = Told()
    going_on = check_drift(deployment, large, [(row, data), others], told, max_seconds=120)
    assert going_on == set()
    assert set(told.checks) == {neighbour.tenant}
    (said,) = told.words
    assert said.startswith(f"{model.tenant}: its drift could not be told: ProcessingFailedError: ")
    assert "model.tar.gz is not a whole gzipped tar archive" in said

    objects.write_bytes(deployment.s3, deployment.data_bucket, kept.archive, content)
    assert drift_of(deployment, large, model.tenant).passed
    statuses = [job["ProcessingJobStatus"] for job in jobs_of(serving, model.tenant)]
    assert sorted(statuses) == ["Completed", "Failed"]


def test_too_few_new_data_have_no_score(
    serving: Serving, large: Workload, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, _, _ = serving
    model = served(serving, trained_forecasts[0])
    uploaded(serving, model.tenant, 1)
    finding = drift_of(deployment, large, model.tenant)
    assert finding.facts == {"reason": "nothing tells of days after its champion was made"}
    assert len(jobs_of(serving, model.tenant)) == 1


def test_large_data_without_a_job_are_not_evaluated(
    serving: Serving, trained_forecasts: list[TrainedForecast], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, energy, _ = serving
    assert energy.drift is not None
    without = energy.model_copy(update={"drift": energy.drift.model_copy(update={"job": None})})
    model = served(serving, trained_forecasts[0])
    member = uploaded(serving, model.tenant, 7)
    monkeypatch.setattr("tenantry.workloads.drift._MAX_MEGABYTES", 0)
    told = Told()
    check_drift(deployment, without, [member], told)
    assert told.checks == {}
    assert "ObjectTooLargeError" in told.words[0]
    assert jobs_of(serving, model.tenant) == []


def test_the_job_of_a_silo_tenant_has_its_role_and_its_tag(
    serving: Serving, large: Workload, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, _, _ = serving
    model = replace(served(serving, trained_forecasts[0]), tier="silo")
    _, data = uploaded(serving, model.tenant, 7)
    assert large.drift is not None
    found = score_by_job(deployment, large, large.drift, JOB, model, data, wait_seconds=None)
    assert found is not None
    assert found["metrics"]["mase"] > 0
    (job,) = jobs_of(serving, model.tenant)
    tenant = ids.tenant_of(model.tenant)
    assert job["RoleArn"] == silo_role_arn(deployment, model.workload, tenant)
    tags = deployment.sagemaker.list_tags(ResourceArn=job["ProcessingJobArn"])["Tags"]
    assert {"Key": TENANT_TAG, "Value": str(tenant)} in tags
    (model_input,) = [one for one in job["ProcessingInputs"] if one["InputName"] == "model"]
    folder = f"/jobs/energy/p-{ids.silo_digest(model.tenant)}-"
    assert folder in model_input["S3Input"]["S3Uri"]


def test_registration_counts_a_score_that_came_while_the_challenger_was_trained(
    serving: Serving,
    large: Workload,
    trained_forecasts: list[TrainedForecast],
    hanging: AbstractContextManager[None],
) -> None:
    deployment, _, _ = serving
    model = served(serving, trained_forecasts[0])
    row, data = uploaded(serving, model.tenant, 7, grown=2.0)
    told = Told()
    with hanging:
        assert check_drift(deployment, large, [(row, data)], told, max_seconds=5) == {model.tenant}
    other = f"{model.archive}2"
    objects.copy(deployment.s3, deployment.data_bucket, model.archive, other)
    challenger = replace(
        model, version=data.version, made=PREPARED_AT, archive=other, status="trained"
    )
    ModelRegistry(deployment).add(challenger)
    deadline = time.monotonic() + 120
    while jobs_of(serving, model.tenant)[0]["ProcessingJobStatus"] == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.2)

    heard = Registered()
    stages = frozenset[AssetName](["endpoint_registration"])
    at_work = PackAtWork(deployment, large, ids.pack_id("p-1"), "bridge", heard, stages)
    member = Member(row, data.version, owed=False, data=data, evaluating=True)
    RegistrationStage(at_work).register(member, challenger)
    assert member.failure is None
    passed, facts = heard.checks[model.tenant]
    assert not passed
    assert facts["version"] == model.version
    assert "on the same data" in heard.made[0]["decision"]

"""Trials in Dagster: the job steers them, and a sensor takes failing versions off."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from dagster import DagsterInstance, SkipReason, build_sensor_context

from orchestration.jobs import jobs_of
from orchestration.sensors import sensors_of
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import Endpoint
from tenantry.models.registry import ModelRegistry, ModelVersion
from tenantry.names import ids
from tenantry.onboarding.registration import register
from tenantry.trials.exchanges import Exchange, Failure
from tenantry.workloads.schema import Workload, read_workloads
from tests.conftest import TrainedForecast
from tests.orchestration.running import TENANTRY, metadata_of, run
from tests.orchestration.test_operator_events import observed
from tests.orchestration.test_operator_events import tick as show
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version

Serving = tuple[Deployment, Workload, Endpoint]


@pytest.fixture
def versions(
    serving: Serving, trained_forecasts: list[TrainedForecast]
) -> tuple[ModelVersion, ModelVersion]:
    """A tenant's champion, and a version that lost against it."""
    deployment, energy, endpoint = serving
    tenant = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    first, second = (
        trained_version(
            deployment,
            tenant,
            number,
            trained_forecasts[0].archive,
            {"mase": mase, "baseline_mase": 1.0},
        )
        for number, mase in ((1, 0.5), (2, 0.9))
    )
    for model in (first, second):
        register(deployment, energy, model, route_to(endpoint.name, model))
    return first, second


def steer(instance: DagsterInstance, tenant: ids.ModelId, **config: object) -> bool:
    """A run of the job."""
    whole = {"ops": {"energy_steer_trial": {"config": {"tenants": [tenant], **config}}}}
    return run(instance, "energy_trial", whole).success


def look(instance: DagsterInstance) -> str:
    """One evaluation of the sensor."""
    workloads = read_workloads()
    jobs = {name: jobs_of(workload) for name, workload in workloads.items()}
    (sensor,) = [
        one
        for one in sensors_of(workloads, jobs, timedelta(seconds=1))
        if one.name == "failing_trials"
    ]
    with build_sensor_context(instance=instance, resources={"tenantry": TENANTRY}) as context:
        said = sensor(context)
    assert isinstance(said, SkipReason)
    return str(said.skip_message)


def test_the_job_starts_judges_and_promotes(
    serving: Serving, versions: tuple[ModelVersion, ModelVersion], dagster_instance: DagsterInstance
) -> None:
    deployment, _, _ = serving
    first, second = versions
    tenant, registry = first.tenant, ModelRegistry(deployment)
    assert not steer(dagster_instance, tenant, action="start"), "it names no version"
    assert not steer(dagster_instance, tenant), "there is none to judge"
    assert not steer(dagster_instance, tenant, action="start", version=first.version)
    assert steer(
        dagster_instance, tenant, action="start", version=second.version, percent=10, why="a look"
    )
    begun = observed(dagster_instance, tenant)[0]
    assert (begun["decision"], begun["why"]) == (
        f"{second.version} on trial beside {first.version}, 10 %",
        "a look",
    )
    assert begun["by"].startswith("run ")
    assert steer(dagster_instance, tenant), "without an action, it judges"
    judged = observed(dagster_instance, tenant)[0]
    assert (judged["verdict"], judged["trial"]) == ("too early", second.version)

    assert steer(dagster_instance, tenant, action="end")
    assert observed(dagster_instance, tenant)[0]["decision"] == (
        f"trial of {second.version}: ended; {first.version} stays the champion"
    )
    assert steer(dagster_instance, tenant, action="end"), "again changes nothing"
    assert steer(dagster_instance, tenant, action="start", version=second.version)
    assert steer(dagster_instance, tenant, action="promote", why="it is better")
    made = metadata_of(dagster_instance, "energy", "endpoint_registration")[tenant]
    assert (made["decision"], made["previous"]) == (
        f"trial of {second.version}: promoted",
        first.version,
    )
    champion = registry.champion(tenant, NAME)
    assert champion is not None
    assert (champion.version, champion.trial) == (second.version, None)


def test_the_sensor_takes_off_a_version_that_fails_too_often_and_shows_it(
    serving: Serving, versions: tuple[ModelVersion, ModelVersion], dagster_instance: DagsterInstance
) -> None:
    deployment, _, _ = serving
    first, second = versions
    tenant, registry = first.tenant, ModelRegistry(deployment)
    assert steer(dagster_instance, tenant, action="start", version=second.version)
    nothing = "no version on trial fails too often"
    assert look(dagster_instance) == nothing
    url = deployment.sqs.create_queue(QueueName="operators-of-a-trial")["QueueUrl"]
    arn = deployment.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    deployment.sns.subscribe(TopicArn=deployment.operators_topic, Protocol="sqs", Endpoint=arn)
    for _ in range(5):
        at = datetime.now(UTC)
        failed = Exchange(second.version, "trial", "failed-alone", 3.0, Failure("refused", 500))
        objects.write_json(
            deployment.s3, deployment.data_bucket, failed.key(NAME, tenant, at), failed.document
        )
    assert look(dagster_instance) == "1 trials ended, as their versions failed too often"
    champion = registry.champion(tenant, NAME)
    assert champion is not None
    assert (champion.version, champion.trial) == (first.version, None)
    (message,) = deployment.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    said = json.loads(message["Body"])
    assert said["Subject"] == "energy: 1 trials ended, as their versions failed too often"
    assert f"{tenant}: {second.version}" in said["Message"]
    show(dagster_instance)
    assert observed(dagster_instance, tenant)[0]["why"] == (
        "it failed 5 of 5 requests that the champion answered"
    )
    assert look(dagster_instance) == nothing

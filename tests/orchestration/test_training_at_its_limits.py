"""Packs without a free machine in SageMaker, or whose start's answer was lost, inside Dagster on
the local cloud."""

from __future__ import annotations

import pytest
from dagster import DagsterInstance

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import now
from tenantry.training.durations import learned_durations
from tenantry.training.jobs import rungs
from tenantry.workloads.schema import Workload
from tests.orchestration.conftest import Upload
from tests.orchestration.running import at_once, onboard, take_in

ENERGY = ids.workload_name("energy")


@pytest.fixture
def faults(local_cloud: LocalCloud) -> FaultsClient:
    """The planned faults; the next test's empty cloud has none."""
    return FaultsClient(local_cloud.sagemaker_url)


def jobs(deployment: Deployment) -> dict[str, str]:
    """Each training job's name and instance type, in order of creation."""
    listed = deployment.sagemaker.list_training_jobs(SortBy="CreationTime", SortOrder="Ascending")
    names = [job["TrainingJobName"] for job in listed["TrainingJobSummaries"]]
    described = [deployment.sagemaker.describe_training_job(TrainingJobName=name) for name in names]
    return {job["TrainingJobName"]: job["ResourceConfig"]["InstanceType"] for job in described}


def test_a_pack_without_a_machine_tries_the_other_types_and_a_lost_answer_makes_no_second_job(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    consumption: dict[str, bytes],
    upload: Upload,
    faults: FaultsClient,
) -> None:
    tenants = [upload("acme", consumption["tenant-0"]), upload("globex", consumption["tenant-1"])]
    take_in(deployment, dagster_instance)
    types = [rung.instance_type for rung in rungs(energy)]
    faults.plan(
        [
            Rule(kind="capacity", most=len(types) - 1),
            Rule(kind="lost_answer", operation="CreateTrainingJob"),
        ]
    )

    (result,) = onboard(deployment, dagster_instance, at_once(energy))

    assert result.success
    struck = {rule.kind: rule.happened for rule in faults.report().rules}
    assert struck == {"capacity": len(types) - 1, "lost_answer": len(types)}
    made = jobs(deployment)
    first = next(iter(made))
    assert list(made.items()) == [
        (first, types[0]),
        *((f"{first}-{number}", name) for number, name in enumerate(types[1:], start=2)),
    ]
    queue = RequestQueue(deployment)
    rows = [queue.of_tenant(ENERGY, tenant)[-1] for tenant in tenants]
    assert [(row.status, row.attempt, row.postponements) for row in rows] == [
        ("registered", 1, 0)
    ] * 2
    versions = [ModelRegistry(deployment).versions(tenant, ENERGY)[-1] for tenant in tenants]
    assert {version.job for version in versions} == {list(made)[-1]}, (
        "a model names the job that made it"
    )
    assert not learned_durations(deployment, ENERGY).learned, (
        "other machines teach nothing about the usual ones"
    )


def test_when_no_machine_is_to_be_had_at_all_the_requests_wait_and_no_try_is_counted(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    consumption: dict[str, bytes],
    upload: Upload,
    faults: FaultsClient,
) -> None:
    acme = upload("acme", consumption["tenant-0"])
    take_in(deployment, dagster_instance)
    told = deployment.sqs.create_queue(QueueName="operators")["QueueUrl"]
    arn = deployment.sqs.get_queue_attributes(QueueUrl=told, AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    deployment.sns.subscribe(TopicArn=deployment.operators_topic, Protocol="sqs", Endpoint=arn)
    faults.plan([Rule(kind="capacity")])

    (result,) = onboard(deployment, dagster_instance, at_once(energy))

    assert not result.success, "a run whose tenants got no model must not end green"
    row = RequestQueue(deployment).of_tenant(ENERGY, acme)[-1]
    assert (row.status, row.attempt, row.postponements, row.pack) == ("pending", 1, 1, None)
    assert row.due > now()
    assert list(jobs(deployment).values()) == [rung.instance_type for rung in rungs(energy)]
    (message,) = deployment.sqs.receive_message(QueueUrl=told, WaitTimeSeconds=5)["Messages"]
    assert "no machines for training" in message["Body"]
    assert "other_instance_types" in message["Body"]


def test_what_tasks_took_is_learned_with_their_rows(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    consumption: dict[str, bytes],
    upload: Upload,
) -> None:
    for number in range(2):
        upload(f"tenant-{number}", consumption[f"tenant-{number}"])
    take_in(deployment, dagster_instance)
    (result,) = onboard(deployment, dagster_instance, at_once(energy))
    assert result.success
    learned = learned_durations(deployment, ENERGY)
    assert learned.n == 2
    assert learned.rows > 2 * 24 * 60, "ten weeks of hours each"
    assert 0 < learned.expected_seconds(learned.rows / 2) < 60

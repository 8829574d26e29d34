"""The emulator as a process: rate limits, restarts, and its leftovers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule, Strike
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    create_training_job,
    ended_training_job,
    keys,
    settled_endpoint,
    tar_gz,
    wait_for,
)


@pytest.fixture
def own_emulator(local_cloud: LocalCloud, tmp_path: Path) -> Iterator[Emulator]:
    """An emulator that a test may kill. It accepts five CreateTrainingJob requests and then hardly
    any, and has four instances."""
    running = Emulator(
        local_cloud,
        tmp_path / "state",
        "--create-training-job-rate",
        "0.001",
        "--create-training-job-burst",
        "5",
        "--instance-quota",
        "4",
        "--warm-pool-quota",
        "1",
    )
    running.start()
    yield running
    running.stop()
    assert running.containers() == []


def test_create_training_job_is_throttled_and_nothing_else_is(
    own_emulator: Emulator, bucket: str
) -> None:
    client = own_emulator.client("sagemaker")
    for _ in range(5):
        ended_training_job(client, create_training_job(client, bucket))
    with pytest.raises(ClientError, match="Rate exceeded") as error:
        create_training_job(client, bucket)
    assert error.value.response["Error"]["Code"] == "ThrottlingException"
    assert len(client.list_training_jobs()["TrainingJobSummaries"]) == 5


def test_what_was_finished_is_remembered_and_what_ran_is_failed_or_started_again(
    own_emulator: Emulator, s3: Any, bucket: str
) -> None:
    client = own_emulator.client("sagemaker")
    pool = {
        "InstanceType": "ml.m5.large",
        "InstanceCount": 1,
        "VolumeSizeInGB": 1,
        "KeepAlivePeriodInSeconds": 600,
    }
    done = create_training_job(client, bucket, ResourceConfig=pool)
    description = ended_training_job(client, done)
    checkpoints = {"S3Uri": f"s3://{bucket}/checkpoints"}
    role = "arn:aws:iam::123456789012:role/no-pool-matches"
    jobs = [
        create_training_job(
            client, bucket, hyperparameters=settings, CheckpointConfig=checkpoints, RoleArn=role
        )
        for settings in (
            {"sleep": 600, "descendant": "left over"},
            {"sleep": 600, "checkpoint": "half"},
            {"sleep": 600, "on_stop": "never asked"},
        )
    ]
    s3.put_object(Bucket=bucket, Key="models/t.tar.gz", Body=tar_gz(weights="5"))
    model = create_model(client, Mode="MultiModel", ModelDataUrl=f"s3://{bucket}/models/")
    client.create_endpoint(
        EndpointName="kept", EndpointConfigName=create_endpoint_config(client, model, instances=2)
    )
    assert settled_endpoint(client, "kept")["EndpointStatus"] == "InService"
    wait_for(lambda: keys(s3, bucket, "checkpoints/"), bool)
    # Three training hosts, a descendant in its own session, and two serving containers.
    wait_for(lambda: len(own_emulator.containers()), lambda count: count == 6)
    # A stopped process does not receive SIGTERM, but must end as well.
    FaultsClient(own_emulator.url).now(Strike(kind="hang_container", job=jobs[2]))

    own_emulator.kill()
    wait_for(own_emulator.containers, lambda left: not left)
    own_emulator.start()

    for name in jobs:
        job = client.describe_training_job(TrainingJobName=name)
        assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Failed", "Failed")
        assert job["FailureReason"].startswith("InternalServerError: ")
        assert all("EndTime" in transition for transition in job["SecondaryStatusTransitions"])
        assert job["TrainingStartTime"] <= job["TrainingEndTime"]
    again = client.describe_training_job(TrainingJobName=done)
    assert (
        again.pop("WarmPoolStatus")["Status"]
        == description.pop("WarmPoolStatus")["Status"]
        == "Available"
    )
    assert {**again, "ResponseMetadata": None} == {**description, "ResponseMetadata": None}
    assert keys(s3, bucket, "checkpoints/") == ["checkpoints/algo-1.new"]
    endpoint = settled_endpoint(client, "kept")
    assert endpoint["ProductionVariants"][0]["CurrentInstanceCount"] == 2
    answer = own_emulator.client("sagemaker-runtime").invoke_endpoint(
        EndpointName="kept", TargetModel="t.tar.gz", Body=b"hello"
    )
    assert json.loads(answer["Body"].read())["files"] == {"weights": "5"}
    held = {
        "training job": 1,
        "spot training job": 0,
        "training warm pool": 1,
        "endpoint": 2,
        "transform job": 0,
        "processing job": 0,
    }
    assert own_emulator.control("GET", "/_local/health")["instances"] == held
    # The lost jobs' instances are free again beside the pool, so that the whole quota of four is
    # usable.
    last = create_training_job(client, bucket, hosts=3, RoleArn=role)
    assert ended_training_job(client, last)["TrainingJobStatus"] == "Completed"
    wait_for(
        lambda: list((own_emulator.state / "instances" / "training-job").glob("*")),
        lambda left: not left,
    )


def test_a_scale_out_that_a_kill_interrupted_is_carried_out(own_emulator: Emulator) -> None:
    client, faults = own_emulator.client("sagemaker"), FaultsClient(own_emulator.url)
    client.create_endpoint(
        EndpointName="e", EndpointConfigName=create_endpoint_config(client, create_model(client))
    )
    settled_endpoint(client, "e")
    faults.plan([Rule(kind="slow_provisioning", after_seconds=(600, 600))])
    change = [{"VariantName": "variant-1", "DesiredInstanceCount": 2}]
    client.update_endpoint_weights_and_capacities(
        EndpointName="e", DesiredWeightsAndCapacities=change
    )
    own_emulator.kill()
    wait_for(own_emulator.containers, lambda left: not left)
    own_emulator.start()
    endpoint = settled_endpoint(client, "e")
    assert endpoint["ProductionVariants"][0]["CurrentInstanceCount"] == 2


def test_a_state_folder_may_be_given_by_a_relative_path(
    local_cloud: LocalCloud, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container has another working folder, but its SAGEMAKER_BASE_DIR must still lead to its
    files."""
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(root)
    running = Emulator(local_cloud, Path(os.path.relpath(tmp_path / "state", root)))
    running.start()
    try:
        client = running.client("sagemaker")
        assert (
            ended_training_job(client, create_training_job(client, bucket))["TrainingJobStatus"]
            == "Completed"
        )
    finally:
        running.stop()


def test_sigterm_leaves_no_process_behind(own_emulator: Emulator, bucket: str) -> None:
    client = own_emulator.client("sagemaker")
    create_training_job(client, bucket, hyperparameters={"sleep": 600, "descendant": "left over"})
    wait_for(lambda: len(own_emulator.containers()), lambda count: count == 2)
    own_emulator.stop()
    assert own_emulator.containers() == []


def test_reset_stops_and_forgets_everything(own_emulator: Emulator, bucket: str) -> None:
    client = own_emulator.client("sagemaker")
    name = create_training_job(client, bucket, hyperparameters={"sleep": 600})
    client.create_endpoint(
        EndpointName="e", EndpointConfigName=create_endpoint_config(client, create_model(client))
    )
    settled_endpoint(client, "e")
    wait_for(lambda: len(own_emulator.containers()), lambda count: count == 2)
    assert own_emulator.control("POST", "/_local/reset") == {"status": "reset"}
    assert own_emulator.containers() == []
    assert client.list_models()["Models"] == []
    with pytest.raises(ClientError, match="Requested resource not found"):
        client.describe_training_job(TrainingJobName=name)
    assert set(own_emulator.control("GET", "/_local/health")["instances"].values()) == {0}


def test_a_state_folder_serves_one_emulator_at_a_time(
    own_emulator: Emulator, local_cloud: LocalCloud
) -> None:
    second = Emulator(local_cloud, own_emulator.state)
    with pytest.raises(Exception, match="is in use by another local_sagemaker"):
        second.start()
    second.stop()

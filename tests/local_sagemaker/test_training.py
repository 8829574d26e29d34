"""Training jobs, through boto3 unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.processes.folders import own_opt_ml
from tests.local_sagemaker.conftest import (
    RECORDER,
    ROLE,
    Emulator,
    create_training_job,
    ended_training_job,
    keys,
    model_files,
    unique,
    wait_for,
)


def channel(
    name: str, uri: str, kind: str = "S3Prefix", distribution: str = "FullyReplicated"
) -> dict[str, Any]:
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": distribution}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def records(s3: Any, job: Any) -> dict[str, Any]:
    return {
        name: json.loads(text)
        for name, text in model_files(s3, job).items()
        if name.endswith(".json")
    }


def test_a_job_goes_through_the_documented_states_and_leaves_its_model(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    name = create_training_job(
        sagemaker, bucket, hyperparameters={"depth": 3}, Environment={"COLOUR": "blue"}
    )
    job = ended_training_job(sagemaker, name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Completed", "Completed")
    states = [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
    assert states == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert job["BillableTimeInSeconds"] >= 1
    assert job["TrainingStartTime"] <= job["TrainingEndTime"]
    assert (
        job["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{bucket}/out/{name}/output/model.tar.gz"
    )
    record = records(s3, job)["algo-1.json"]
    assert record["hyperparameters"] == {"depth": "3"}
    assert record["environment"]["COLOUR"] == "blue"
    assert record["environment"]["TRAINING_JOB_NAME"] == name
    assert record["environment"]["TRAINING_JOB_ARN"] == job["TrainingJobArn"]
    assert record["resources"]["hosts"] == ["algo-1"]


def test_hosts_share_a_sharded_channel_and_each_get_a_replicated_one(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    for number in range(5):
        s3.put_object(Bucket=bucket, Key=f"data/part/{number}.txt", Body=str(number))
    s3.put_object(Bucket=bucket, Key="list.json", Body="[]")
    channels = [
        channel("training", f"s3://{bucket}/data/", distribution="ShardedByS3Key"),
        channel("tasks", f"s3://{bucket}/list.json"),
    ]
    name = create_training_job(sagemaker, bucket, hosts=2, InputDataConfig=channels)
    found = records(s3, ended_training_job(sagemaker, name))
    shares = [
        {path for path in found[f"algo-{number}.json"]["inputs"] if path.startswith("training/")}
        for number in (1, 2)
    ]
    assert shares[0] | shares[1] == {f"training/part/{number}.txt" for number in range(5)}
    assert not shares[0] & shares[1]
    assert all(
        found[f"algo-{number}.json"]["inputs"]["tasks/list.json"] == "[]" for number in (1, 2)
    )
    assert found["algo-2.json"]["resources"]["current_host"] == "algo-2"
    assert found["algo-2.json"]["channels"]["training"]["S3DistributionType"] == "ShardedByS3Key"


def test_a_manifest_names_the_objects_of_a_channel(sagemaker: Any, s3: Any, bucket: str) -> None:
    for key in ("data/a/x.csv", "data/b/y.csv", "data/c/z.csv"):
        s3.put_object(Bucket=bucket, Key=key, Body=key)
    manifest = json.dumps([{"prefix": f"s3://{bucket}/data/"}, "a/x.csv", "c/z.csv"])
    s3.put_object(Bucket=bucket, Key="training.manifest", Body=manifest)
    channels = [channel("training", f"s3://{bucket}/training.manifest", kind="ManifestFile")]
    job = ended_training_job(
        sagemaker, create_training_job(sagemaker, bucket, InputDataConfig=channels)
    )
    assert set(records(s3, job)["algo-1.json"]["inputs"]) == {
        "training/a/x.csv",
        "training/c/z.csv",
    }


@pytest.mark.parametrize(
    "manifest",
    [b"no json", b'["a"]', b'[{"prefix": "s3://b/"}, 3]', b'[{"prefix": "file:///etc"}, "x"]'],
)
def test_a_malformed_manifest_fails_the_job_with_a_reason(
    sagemaker: Any, s3: Any, bucket: str, manifest: bytes
) -> None:
    s3.put_object(Bucket=bucket, Key="training.manifest", Body=manifest)
    channels = [channel("training", f"s3://{bucket}/training.manifest", kind="ManifestFile")]
    job = ended_training_job(
        sagemaker, create_training_job(sagemaker, bucket, InputDataConfig=channels)
    )
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("ClientError: ")


def test_a_manifest_cannot_write_outside_its_channel(sagemaker: Any, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="data/../../evil", Body="x")
    manifest = json.dumps([{"prefix": f"s3://{bucket}/data/"}, "../../evil"])
    s3.put_object(Bucket=bucket, Key="training.manifest", Body=manifest)
    channels = [channel("training", f"s3://{bucket}/training.manifest", kind="ManifestFile")]
    job = ended_training_job(
        sagemaker, create_training_job(sagemaker, bucket, InputDataConfig=channels)
    )
    assert "no path inside a folder" in job["FailureReason"]


def test_the_failure_file_is_the_failure_reason(sagemaker: Any, bucket: str) -> None:
    settings = {"fail_on": "all", "failure": "the data have no column 'y'" + "x" * 2000}
    job = ended_training_job(
        sagemaker, create_training_job(sagemaker, bucket, hyperparameters=settings)
    )
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"] == settings["failure"][:1024]


def test_without_a_failure_file_the_reason_tells_the_exit_code(sagemaker: Any, bucket: str) -> None:
    settings = {"fail_on": "algo-2", "exit_code": 7}
    job = ended_training_job(
        sagemaker, create_training_job(sagemaker, bucket, hosts=2, hyperparameters=settings)
    )
    assert job["FailureReason"].startswith("AlgorithmError: ")
    assert job["FailureReason"].endswith("exit code: 7")


def test_one_failed_host_ends_the_others(sagemaker: Any, emulator: Emulator, bucket: str) -> None:
    settings = {"fail_on": "algo-1", "sleep_on": "algo-2", "sleep": 600}
    job = ended_training_job(
        sagemaker, create_training_job(sagemaker, bucket, hosts=2, hyperparameters=settings)
    )
    assert job["TrainingJobStatus"] == "Failed"
    wait_for(emulator.containers, lambda left: not left)


def test_an_unknown_image_fails_the_job_with_a_clear_reason(sagemaker: Any, bucket: str) -> None:
    algorithm = {
        "TrainingImage": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/nowhere:1",
        "TrainingInputMode": "File",
    }
    job = ended_training_job(
        sagemaker, create_training_job(sagemaker, bucket, AlgorithmSpecification=algorithm)
    )
    assert job["TrainingJobStatus"] == "Failed"
    assert "'nowhere'" in job["FailureReason"]


def test_entry_point_and_arguments_are_honoured(sagemaker: Any, s3: Any, bucket: str) -> None:
    algorithm = {
        "TrainingImage": RECORDER,
        "TrainingInputMode": "File",
        "ContainerArguments": ["--fast", "2"],
    }
    job = ended_training_job(
        sagemaker, create_training_job(sagemaker, bucket, AlgorithmSpecification=algorithm)
    )
    assert records(s3, job)["algo-1.json"]["arguments"] == ["--fast", "2"]
    algorithm["ContainerEntrypoint"] = ["python3", "-c", "import sys; sys.exit(int(sys.argv[2]))"]
    job = ended_training_job(
        sagemaker, create_training_job(sagemaker, bucket, AlgorithmSpecification=algorithm)
    )
    assert job["FailureReason"].endswith("exit code: 2")


def test_a_container_finds_its_own_folder_at_opt_ml_and_the_hosts_by_name(
    sagemaker: Any, s3: Any, bucket: str, tmp_path: Path
) -> None:
    """Two containers run as hosts of one job. Absolute paths lead each to its own files, which are
    invisible outside."""
    if not own_opt_ml(tmp_path, tmp_path):
        pytest.skip("this machine allows neither mounts nor user namespaces")
    for number in range(2):
        s3.put_object(Bucket=bucket, Key=f"data/{number}.txt", Body=str(number))
    script = (
        "getent hosts algo-1 algo-2 && cat /opt/ml/input/data/training/* > /opt/ml/model/$$.txt"
    )
    algorithm = {
        "TrainingImage": RECORDER,
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["/bin/sh", "-c"],
        "ContainerArguments": [script],
    }
    channels = [channel("training", f"s3://{bucket}/data/", distribution="ShardedByS3Key")]
    name = create_training_job(
        sagemaker, bucket, hosts=2, AlgorithmSpecification=algorithm, InputDataConfig=channels
    )
    job = ended_training_job(sagemaker, name)
    assert job["TrainingJobStatus"] == "Completed"
    assert sorted(model_files(s3, job).values()) == ["0", "1"]
    assert not Path("/opt/ml/input").exists()


def test_stopping_a_job_gives_it_sigterm_and_keeps_its_model(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    settings = {"checkpoint": "ready", "sleep": 600, "on_stop": "finished in time"}
    checkpoints = {"S3Uri": f"s3://{bucket}/ready"}
    name = create_training_job(
        sagemaker, bucket, hyperparameters=settings, CheckpointConfig=checkpoints
    )
    # The checkpoint appears in S3 during the job, so the container runs and has its handler.
    wait_for(lambda: keys(s3, bucket, "ready/"), bool)
    sagemaker.stop_training_job(TrainingJobName=name)
    job = ended_training_job(sagemaker, name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert model_files(s3, job)["stopped.txt"] == "finished in time"
    with pytest.raises(ClientError, match="is in status Stopped"):
        sagemaker.stop_training_job(TrainingJobName=name)


def test_a_job_over_its_maximum_runtime_is_stopped(sagemaker: Any, bucket: str) -> None:
    stopping = {"MaxRuntimeInSeconds": 1}
    name = create_training_job(
        sagemaker, bucket, hyperparameters={"sleep": 600}, StoppingCondition=stopping
    )
    job = ended_training_job(sagemaker, name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_checkpoints_are_copied_in_and_synced_out_and_deletions_too(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="checkpoints/old", Body="1")
    s3.put_object(Bucket=bucket, Key="checkpoints/kept", Body="2")
    s3.put_object(Bucket=bucket, Key="checkpoints-of-another/x", Body="3")
    settings = {"checkpoint": "new", "remove_checkpoint": "old", "sleep": 600, "on_stop": ""}
    checkpoints = {"S3Uri": f"s3://{bucket}/checkpoints"}
    name = create_training_job(
        sagemaker, bucket, hyperparameters=settings, CheckpointConfig=checkpoints
    )
    wanted = ["checkpoints/algo-1.new", "checkpoints/kept"]
    wait_for(lambda: keys(s3, bucket, "checkpoints/"), lambda found: found == wanted)
    assert (
        sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] == "InProgress"
    )
    sagemaker.stop_training_job(TrainingJobName=name)
    job = ended_training_job(sagemaker, name)
    assert records(s3, job)["algo-1.json"]["checkpoints"] == ["kept", "old"]
    assert keys(s3, bucket, "checkpoints-of-another/") == ["checkpoints-of-another/x"]


def test_every_host_has_a_log_stream(sagemaker: Any, local_cloud: LocalCloud, bucket: str) -> None:
    import boto3

    name = create_training_job(sagemaker, bucket, hosts=2)
    ended_training_job(sagemaker, name)
    logs = boto3.client("logs", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1")
    group = "/aws/sagemaker/TrainingJobs"
    streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")[
        "logStreams"
    ]
    assert [stream["logStreamName"].rpartition("-")[0] for stream in streams] == [
        f"{name}/algo-1",
        f"{name}/algo-2",
    ]
    events = logs.get_log_events(
        logGroupName=group, logStreamName=streams[1]["logStreamName"], startFromHead=True
    )
    assert events["events"][0]["message"] == "host algo-2 of ['algo-1', 'algo-2']"


def test_a_name_is_used_once(sagemaker: Any, bucket: str) -> None:
    name = create_training_job(sagemaker, bucket)
    with pytest.raises(ClientError, match="already exists") as error:
        create_training_job(sagemaker, bucket, name)
    assert error.value.response["Error"]["Code"] == "ResourceInUse"


def test_more_instances_than_the_quota_are_refused(sagemaker: Any, bucket: str) -> None:
    with pytest.raises(
        ClientError, match=r"'ml\.m5\.large for training job usage' is 12 Instances"
    ) as error:
        create_training_job(sagemaker, bucket, hosts=13)
    assert error.value.response["Error"]["Code"] == "ResourceLimitExceeded"


def test_input_that_is_not_there_is_refused_at_once(sagemaker: Any, bucket: str) -> None:
    with pytest.raises(ClientError, match="No S3 objects found under S3 URL"):
        create_training_job(
            sagemaker, bucket, InputDataConfig=[channel("training", f"s3://{bucket}/nothing/")]
        )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ProfilerConfig": {"S3OutputPath": "s3://b/p"}}, "ProfilerConfig"),
        ({"RetryStrategy": {"MaximumRetryAttempts": 2}}, "RetryStrategy"),
        (
            {"AlgorithmSpecification": {"TrainingImage": RECORDER, "TrainingInputMode": "Pipe"}},
            "TrainingInputMode Pipe",
        ),
    ],
)
def test_what_is_not_emulated_is_refused_by_name(
    sagemaker: Any, bucket: str, change: Any, named: str
) -> None:
    with pytest.raises(ClientError, match=f"{named} is not emulated yet") as error:
        create_training_job(sagemaker, bucket, **change)
    assert error.value.response["Error"]["Code"] == "ValidationException"


def test_jobs_are_listed_in_pages_by_name_and_status(sagemaker: Any, bucket: str) -> None:
    prefix = unique("page")
    names = [create_training_job(sagemaker, bucket, f"{prefix}-{number}") for number in range(3)]
    failed = create_training_job(
        sagemaker, bucket, f"{prefix}-failed", hyperparameters={"fail_on": "all"}
    )
    for name in (*names, failed):
        ended_training_job(sagemaker, name)
    pages = sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains=prefix,
        SortBy="CreationTime",
        SortOrder="Ascending",
        PaginationConfig={"PageSize": 3},
    )
    listed = [[job["TrainingJobName"] for job in page["TrainingJobSummaries"]] for page in pages]
    assert listed == [names, [failed]]
    found = sagemaker.list_training_jobs(NameContains=prefix, StatusEquals="Failed")[
        "TrainingJobSummaries"
    ]
    assert [job["TrainingJobName"] for job in found] == [failed]


def test_tags_are_kept_and_added(sagemaker: Any, bucket: str) -> None:
    name = create_training_job(sagemaker, bucket, Tags=[{"Key": "tenant", "Value": "acme"}])
    arn = sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobArn"]
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "tier", "Value": "silo"}])
    tags = [{"Key": "tenant", "Value": "acme"}, {"Key": "tier", "Value": "silo"}]
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == tags


@pytest.mark.aws_verified
def test_a_missing_job_is_a_validation_exception(api: Any) -> None:
    with pytest.raises(ClientError, match="Requested resource not found") as error:
        api.describe_training_job(TrainingJobName=unique("nowhere"))
    assert error.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.aws_verified
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"TrainingJobName": "under_score"},
            "failed to satisfy constraint: Member must satisfy regular expression pattern",
        ),
        (
            {
                "ResourceConfig": {
                    "InstanceType": "ml.none",
                    "InstanceCount": 1,
                    "VolumeSizeInGB": 1,
                }
            },
            "enum value set",
        ),
        ({"HyperParameters": {"a": "x" * 2501}}, "length less than or equal to 2500"),
    ],
)
def test_the_service_model_is_enforced(api: Any, change: dict[str, Any], message: str) -> None:
    request = {
        "TrainingJobName": unique("job"),
        "AlgorithmSpecification": {"TrainingImage": RECORDER, "TrainingInputMode": "File"},
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": "s3://nowhere/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }
    with pytest.raises(ClientError, match=message) as error:
        api.create_training_job(**request | change)
    assert error.value.response["Error"]["Code"] == "ValidationException"


def test_an_operation_that_is_not_emulated_says_so_by_name(sagemaker: Any) -> None:
    with pytest.raises(
        ClientError, match="ListClusters is not emulated by local_sagemaker"
    ) as error:
        sagemaker.list_clusters()
    assert error.value.response["Error"]["Code"] == "UnknownOperationException"
